"""What models and data sets are, as hashes: the same content at another place is the same, other
content at the same place is not. Stages put such hashes of what they read into their keys.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.artifacts import hash_file, hash_json, read_json, write_json
from pipeline.errors import PipelineError
from pipeline.tasks.task import TaskConfig

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

REMEMBERED = 1 << 24  # bytes from which on a hash is worth remembering

Hash = Callable[[Path], str]


@dataclass(frozen=True)
class Hashes:
    """SHA-256 of files, each read once.

    store: a JSON file that remembers a large file's hash, with its size and time stamp, over
    starts; keep: whether to add to it, once its folder exists.
    """

    store: Path
    keep: bool
    known: dict[tuple[str, int, int], str] = field(default_factory=dict)

    def __call__(self, path: Path) -> str:
        stat = path.stat()
        key = (str(path.resolve()), stat.st_size, stat.st_mtime_ns)
        if key not in self.known:
            small = stat.st_size < REMEMBERED
            self.known[key] = hash_file(path) if small else self._stored(path, key)
        return self.known[key]

    def _stored(self, path: Path, key: tuple[str, int, int]) -> str:
        stored = read_json(self.store) if self.store.exists() else {}
        size, stamp, found = stored.get(key[0], (None, None, ""))
        if (size, stamp) != key[1:]:
            found = hash_file(path)
            if self.keep and self.store.parent.exists():
                write_json(self.store, stored | {key[0]: [*key[1:], found]})
        return str(found)


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
    return [model_settings(folder), model_weights(folder, read)]


def model_weights(folder: Path, read: Hash = hash_file) -> list[tuple[str, str]]:
    """The name and hash of each weight file of a model folder."""
    return [(path.name, read(path)) for path in _matching(folder, WEIGHTS)]


def files_state(folder: Path) -> dict[str, list[int]]:
    """Size and time stamp of every file below a folder: what shows a change without reading it."""
    found = {}
    for path in sorted(folder.rglob("*")):  # trainers keep weights folders down
        if path.is_file():
            found[str(path)] = [path.stat().st_size, path.stat().st_mtime_ns]
    return found


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


def task_data(tasks: Iterable[TaskConfig], read: Hash) -> dict[str, Any]:
    """The content of the local data files that these tasks read, by task."""
    found = {}
    for task in tasks:
        content = data_content(None if task.dataset is None else asdict(task.dataset), read)
        if content is not None:
            found[f"data of {task.name}"] = content
    return found


def run_settings(folders: Mapping[int, Path]) -> dict[str, str]:
    """What decides, beside the weights, how the models of a trajectory are read, by step.

    Args:
        folders: the model folder of each step. Of the lowest, on which engines start, tokenizer
            and chat template count too; of the others the config alone.
    """
    base = min(folders)
    return {
        str(step): model_settings(folder) if step == base else model_config(folder)
        for step, folder in sorted(folders.items())
    }


def recorded_settings(trajectory: Path) -> dict[str, Any]:
    """`run_settings` of a recorded trajectory as they are now; where a folder has gone, as they
    were when it was recorded."""
    if not trajectory.exists():
        return {}
    recorded = read_json(trajectory)
    folders = {item["step"]: Path(item["folder"]) for item in recorded["checkpoints"]}
    if not all(folder.is_dir() for folder in folders.values()):
        return {"models": recorded.get("settings", {}), **_turns(recorded, now=False)}
    return {"models": run_settings(folders), **_turns(recorded, now=True)}


def _turns(recorded: Mapping[str, Any], now: bool) -> dict[str, Any]:
    """The files that say where the last checkpoint ends a turn, which its config.json does not;
    nothing for a trajectory of an earlier version, whose stages were made without."""
    turns = recorded.get("turns")
    if turns is None:
        return {}
    folders = {Path(folder): settings for folder, settings in turns}
    now = now and all(folder.is_dir() for folder in folders)
    found = [model_settings(folder) if now else settings for folder, settings in folders.items()]
    return {"the last checkpoint's tokenizer and generation config": found}


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
