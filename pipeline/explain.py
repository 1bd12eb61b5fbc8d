"""Hydra's and OmegaConf's exceptions as the one line that a user can act on."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path

from hydra.errors import MissingConfigException
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from pipeline.config import PipelineConfig

CONF = Path(__file__).resolve().parent.parent / "conf"


def explain(error: BaseException) -> str:
    """One line: what is wrong, and the nearest thing that would be right."""
    if isinstance(error, MissingConfigException):
        return _missing_file(error)
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if isinstance(cause, OmegaConfBaseException):
        key = cause.full_key or ""
        if isinstance(cause, ConfigAttributeError | ConfigKeyError):
            return f"{key}: no such key{_nearest(key, all_keys())}"
        if "not a subclass of TaskConfig" in str(cause):
            return f"eval_tasks.{key}: no such task; add one with +task@eval_tasks.{key}=NAME"
        if isinstance(cause, MissingMandatoryValue):
            return f"{key}: needs a value; give {key}=..."
        return f"{key}: {_first_line(cause)}" if key else _first_line(cause)
    return _first_line(error)


def all_keys() -> list[str]:
    """Every key of the schema, dotted."""
    return list(_keys(PipelineConfig, ""))


def _keys(schema: type, prefix: str) -> Iterator[str]:
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        yield prefix + field.name
        if dataclasses.is_dataclass(hints[field.name]):
            yield from _keys(hints[field.name], f"{prefix}{field.name}.")


def _missing_file(error: MissingConfigException) -> str:
    wanted = (error.missing_cfg_file or "").removesuffix(".yaml")
    group, _, name = wanted.rpartition("/")
    options = sorted(path.stem for path in (CONF / group).glob("*.yaml")) if group else []
    if not options:
        return _first_line(error)
    return (
        f"{group}={name}: no such option; there are {', '.join(options)}{_nearest(name, options)}"
    )


def _nearest(word: str, options: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(options), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    line = lines[0]
    if len(lines) > 1 and line.startswith("Error parsing"):
        line += f" ({lines[1]})"
    return line
