"""Hydra's and OmegaConf's exceptions as the one line that a user can act on."""

from __future__ import annotations

import dataclasses
import difflib
import re
import typing
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from hydra.errors import (
    MissingConfigException,
    OverrideParseException,
)
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from pipeline.arguments import field_type, find, rewritten, split
from pipeline.config import PipelineConfig

_AMBIGUOUS = re.compile(r"Ambiguous value for argument '(.*)'$", re.MULTILINE)
CONF = Path(__file__).resolve().parent.parent / "conf"


def explain(error: BaseException, arguments: Sequence[str] = ()) -> str:
    """One line: what is wrong, and the nearest thing that would be right.

    Args:
        arguments: of the command line, to show how one of them must be quoted.
    """
    if isinstance(error, MissingConfigException):
        return _missing_file(error)
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override, str(error))
    ambiguous = _AMBIGUOUS.match(str(error))
    if ambiguous is not None:
        return _ambiguous(ambiguous[1])
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if not isinstance(cause, OmegaConfBaseException):
        return _first_line(error)
    key = cause.full_key or ""
    if isinstance(cause, ConfigAttributeError | ConfigKeyError):
        return f"{key}: no such key{_nearest(key, all_keys())}"
    if "not a subclass of TaskConfig" in str(cause):
        return f"eval_tasks.{key}: no such task; add one with +task@eval_tasks.{key}=NAME"
    if isinstance(cause, MissingMandatoryValue):
        return f"{key}: needs a value; give {key}=..."
    line = f"{key}: {_first_line(cause)}" if key else _first_line(cause)
    return line + _meant(key, arguments)


def _meant(key: str, arguments: Sequence[str]) -> str:
    """How to give a text that was read as a list, a map or a reference to another value."""
    argument = find(arguments, key)
    given = rewritten(argument) if argument is not None else None
    return f"; if it is meant as it stands, quote it: {given}" if given is not None else ""


def _unreadable(argument: str, message: str) -> str:
    """An argument that Hydra's grammar does not allow."""
    pair, given = split(argument), rewritten(argument)
    if pair is not None and given is not None:
        return f"{pair[0]}: special characters in {pair[1]} must be quoted: {given}"
    if pair is None:
        return f"argument {argument!r}: give key=value (--help shows the keys)"
    if field_type(pair[0]) is None and not (CONF / pair[0].split("@")[0]).is_dir():
        return f"{pair[0]}: no such key{_nearest(pair[0], all_keys())}"
    reason = next((line for line in message.splitlines() if " input " in line), "")
    reason = f" ({reason})" if reason else ""
    return f"{pair[0]}: the value {pair[1]!r} cannot be read{reason}; put text in quotes"


def _ambiguous(argument: str) -> str:
    """A value with a comma in it, which Hydra takes for several."""
    key, value = split(argument) or (argument, "")
    given = rewritten(argument)
    if given is not None:
        return f"{key}: special characters in {value} must be quoted: {given}; or add --multirun"
    return f'{key}: {value} is several values; put them into brackets, "{key}=[{value}]"'


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
