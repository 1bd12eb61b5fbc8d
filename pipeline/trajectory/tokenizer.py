"""Proof that an output's tokenizer is the one of its source.

Files alone do not say it: which class reads them, and with which special tokens, depends on the
configuration that lies beside them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline.artifacts import hash_file, hash_json
from pipeline.errors import PipelineError, first_line
from pipeline.trajectory.companions import CONFIG, TEMPLATES, Companions, is_tokenizers

CHAT = [
    {"role": "user", "content": "What is 2 + 3?"},
    {"role": "assistant", "content": "2 + 3 = 5."},
    {"role": "user", "content": "And 10,000 × 7?"},
]
SAMPLE = "Natalia sold 48/2 = 24 clips in May: <think>\n\\boxed{72}</think>"

Facts = dict[str, Any]


def check_tokenizer(folder: Path, source: Companions, rows: int | None) -> None:
    """Load the tokenizer from an output and from where it was taken, and compare.

    Args:
        folder: the output, complete but for its name.
        rows: of its embedding; None where that is not known.

    Raises:
        PipelineError: it cannot be loaded, or differs in special tokens, size, encoding or
            template.
    """
    if source.tokenizer is None:
        return
    # an adapter's folder has no config.json, which decides the class: there the output's counts
    config = source.tokenizer if (source.tokenizer / CONFIG).exists() else folder
    try:
        wanted = read_facts(source.tokenizer, config)
    except TokenizerError as error:
        logging.getLogger(__name__).warning(
            "%s: the tokenizer was copied as it is, not checked: %s", source.tokenizer, error
        )
        return
    try:
        found = read_facts(folder, folder)
    except TokenizerError as error:
        raise PipelineError(
            f"{folder}: the tokenizer of {source.tokenizer} cannot be loaded here: {error}; give "
            "the run's config.json and tokenizer files in one folder"
        ) from None
    for key, value in wanted.items():
        if found[key] != value:
            raise PipelineError(
                f"{folder}: the tokenizer differs from that of {source.tokenizer}: {key} is "
                f"{_short(found[key])}, there {_short(value)}; give the run's config.json and "
                "tokenizer files in one folder"
            )
    if rows is not None and wanted["tokens"] > rows:
        logging.getLogger(__name__).warning(
            "%s: the tokenizer has %d tokens, the embedding %d rows: text with tokens from %d on "
            "cannot be read; resize the embedding, or take the tokenizer of the base",
            *(source.tokenizer, wanted["tokens"], rows, rows),
        )


class TokenizerError(Exception):
    """A tokenizer that cannot be loaded; says why."""


@contextmanager
def loading() -> Iterator[None]:
    """For inside: all that transformers and the tokenizers library raise of a bad tokenizer.

    Raises:
        TokenizerError: one of those errors, in its place.
    """
    from huggingface_hub.errors import StrictDataclassError

    known = (OSError, ValueError, LookupError, TypeError, AttributeError, ImportError, RuntimeError)
    try:
        yield
    except Exception as error:  # the tokenizers library raises this class itself
        if type(error) is not Exception and not isinstance(error, (*known, StrictDataclassError)):
            raise
        raise TokenizerError(first_line(error)) from None


def read_facts(folder: Path, config: Path) -> Facts:
    """What makes the tokenizer of a folder this one, read with the config.json of another.

    Raises:
        TokenizerError: it cannot be loaded.
    """
    return _facts(folder, config, _stamp(folder) + _stamp(config))


def _stamp(folder: Path) -> str:
    """Changes when a file that the tokenizer is read from does."""
    parts = [p for p in folder.iterdir() if p.name == CONFIG or is_tokenizers(p.name)]
    parts += (folder / TEMPLATES).glob("*.jinja")
    return hash_json(sorted([str(path), hash_file(path)] for path in parts if path.is_file()))


@lru_cache(maxsize=64)  # many targets have the same source
def _facts(folder: Path, config: Path, stamp: str) -> Facts:
    tokenizer = _load(folder, config)
    return {
        **{f"{role} token": _special(tokenizer, role) for role in ("eos", "pad", "bos", "unk")},
        "tokens": len(tokenizer),
        "encoding": list(tokenizer(SAMPLE)["input_ids"]),
        "chat template": _chats(tokenizer),
    }


def _special(tokenizer: Any, role: str) -> list[Any]:
    return [getattr(tokenizer, f"{role}_token"), getattr(tokenizer, f"{role}_token_id")]


def _load(folder: Path, config: Path) -> Any:
    from transformers import AutoConfig, AutoTokenizer

    how: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    with loading():
        if config != folder:
            how["config"] = AutoConfig.from_pretrained(config, **how)
        return AutoTokenizer.from_pretrained(folder, **how)


def _chats(tokenizer: Any) -> dict[str, str] | None:
    """A short conversation under each of its templates; what a template says where it refuses."""
    from jinja2.exceptions import TemplateError

    templates = tokenizer.chat_template
    if templates is None:
        return None
    names = sorted(templates) if isinstance(templates, dict) else [None]
    found = {}
    for name in names:
        try:
            text = tokenizer.apply_chat_template(
                CHAT, chat_template=name, tokenize=False, add_generation_prompt=True
            )
        except (TemplateError, ValueError, TypeError, LookupError) as error:
            text = first_line(error)
        found[name or "default"] = str(text)
    return found


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
