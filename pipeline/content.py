"""What models and data sets are, as hashes: the same content at another place is the same, other
content at the same place is not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.artifacts import hash_file, hash_json
from pipeline.errors import PipelineError

# What decides, beside its weights, what a model says: its shape, its tokens, its chat template.
SETTINGS = (
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "chat_template*",
    "*.jinja",
    *("modeling_*.py", "configuration_*.py", "tokenization_*.py"),
)
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
# Keys of these files that say where a model was, who saved it and how it is stored.
IDLE = (
    "_name_or_path",
    "name_or_path",
    "transformers_version",
    "dtype",
    "torch_dtype",
    "use_cache",
)
CONFIGS = ("config.json", "generation_config.json", "tokenizer_config.json")

Hash = Callable[[Path], str]


def model_settings(folder: Path, patterns: Iterable[str] = SETTINGS) -> str:
    """Hash (16 hex digits) of the files of a model folder that match, by name and content."""
    return hash_json([(path.name, _settings(path)) for path in _matching(folder, patterns)])[:16]


def model_config(folder: Path) -> str:
    """Hash of a model's config.json alone."""
    return model_settings(folder, ("config.json",))


def model_content(folder: Path, read: Hash = hash_file) -> list[Any]:
    """A model folder's settings and the hash of each of its weight files.

    Args:
        read: gives the SHA-256 of a file.
    """
    weights = [(path.name, read(path)) for path in _matching(folder, WEIGHTS)]
    return [model_settings(folder), weights]


def data_content(dataset: Mapping[str, Any] | None, read: Hash = hash_file) -> list[Any] | None:
    """Names and hashes of a data set's local files; None for one of the hub, which its revision
    names, and for problems that are made.

    Raises:
        PipelineError: a file that cannot be read.
    """
    path = None if dataset is None else Path(str(dataset["path"])).expanduser()
    if path is None or not path.exists():
        return None
    files = sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]
    try:
        return [(file.name, read(file)) for file in files]
    except OSError as error:
        raise PipelineError(f"{error.filename}: cannot be read ({error.strerror})") from None


def _matching(folder: Path, patterns: Iterable[str]) -> list[Path]:
    return sorted({p for pattern in patterns for p in folder.glob(pattern) if p.is_file()})


def _settings(path: Path) -> str:
    if path.name not in CONFIGS:
        return hash_file(path)
    try:
        return hash_json(_without_idle(json.loads(path.read_text(encoding="utf-8"))))
    except (UnicodeDecodeError, json.JSONDecodeError):
        return hash_file(path)  # whoever loads the model says what is wrong with it


def _without_idle(value: Any) -> Any:
    """A configuration without its idle keys, in nested ones too."""
    if isinstance(value, dict):
        return {key: _without_idle(inner) for key, inner in value.items() if key not in IDLE}
    return [_without_idle(inner) for inner in value] if isinstance(value, list) else value
