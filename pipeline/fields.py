"""Are plain values (JSON, options) of the types that their readers take, and which one is not.

A configuration is typed by its schema. What comes from elsewhere (a model's config.json, an
adapter's, the free options of a task or a method) is checked here, once, so that no reader meets
a list where it counts on a number.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from pipeline.artifacts import kind_of
from pipeline.errors import PipelineError

T = TypeVar("T")
IDLE = "idle"  # metadata of a configuration's field that decides no result (`pipeline.settings`)
ADDED = "added"  # of one that decides nothing at its default
_WORDS = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    type(None): "null",
    dict: "a map",
    list: "a list",
}


def idle(default: T) -> T:
    """The default of a dataclass field with IDLE."""
    return dataclasses.field(default=default, metadata={IDLE: True})


def added(default: T) -> T:
    """The default of a dataclass field with ADDED: what results were made with before the field
    was there, so that they are still known by their values.
    """
    return dataclasses.field(default=default, metadata={ADDED: True})


def check_fields(where: str, values: Mapping[str, Any], hints: Mapping[str, Any]) -> None:
    """Refuse a value of another type than its hint; keys without a hint may hold anything.

    Args:
        where: the file or key that the values are of, for the message.

    Raises:
        PipelineError: names the first such field, what it holds and what is wanted.
    """
    for key, value in values.items():
        if key in hints and not fits(value, hints[key]):
            shown = repr(value)
            shown = shown if len(shown) <= 60 else shown[:57] + "..."
            raise PipelineError(
                f"{where}: {key} is {kind_of(value)} ({shown}), not {words(hints[key])}; correct it"
            )


def fits(value: Any, hint: Any) -> bool:
    """True if `value` is of the type that `hint` describes; a whole number is a number as well."""
    if hint is Any:
        return True
    kind, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind in (types.UnionType, typing.Union):
        return any(fits(value, option) for option in inner)
    if kind is typing.Literal:
        return value in inner
    if kind in (None, type(None)):
        return value is None
    if kind in (int, float):
        numbers = (int, float) if kind is float else int
        return isinstance(value, numbers) and not isinstance(value, bool)
    if issubclass(kind, Mapping):
        return isinstance(value, Mapping) and (
            not inner or all(fits(k, inner[0]) and fits(v, inner[1]) for k, v in value.items())
        )
    if issubclass(kind, Sequence) and kind is not str:
        return isinstance(value, list | tuple) and all(fits(item, inner[0]) for item in value)
    return isinstance(value, kind)


def words(hint: Any) -> str:
    """A type hint as one would say it."""
    kind, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind in (types.UnionType, typing.Union):
        return " or ".join(words(option) for option in inner)
    if kind is typing.Literal:
        return "one of " + ", ".join(map(str, inner))
    if inner and issubclass(kind, Mapping):
        return f"a map to {_several(inner[1])}"
    if inner and issubclass(kind, Sequence):
        return f"a list of {_several(inner[0])}"
    return next((word for known, word in _WORDS.items() if kind is known), "a map")


def _several(hint: Any) -> str:
    plurals = {str: "texts", int: "whole numbers", float: "numbers"}
    return plurals.get(hint, "values")


def nearest(word: str, options: Iterable[str]) -> str:
    """A question for the end of a message: which of the options may have been meant."""
    near = difflib.get_close_matches(word, list(options), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""
