"""Arguments of the command line that Hydra reads otherwise than they were meant.

Hydra's grammar takes `=`, `,`, brackets, quotes, `#` and every letter beyond ASCII for its own, so
a path with one of them must be quoted twice: for Hydra, and for the shell. Numbers and booleans
lose their spelling. Here is what finds the argument, and writes it as it must be given.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
import typing
from collections.abc import Iterable, Iterator, Sequence
from types import UnionType
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.config import PipelineConfig
from pipeline.errors import PipelineError
from pipeline.fields import nearest
from pipeline.quoting import quoted

_ASSIGNMENT = re.compile(r"([+]{0,2})([\w./@$-]+)=(.*)", re.DOTALL)
_SPELT = (str, str | None, bool)  # types that keep what was written, or should
_PAIR = re.compile(r"(?:^|,)\s*([\w.-]+)\s*:\s*")


def split(argument: str) -> tuple[str, str] | None:
    """(key, value as written) of an assignment; None for anything else."""
    match = _ASSIGNMENT.fullmatch(argument)
    return None if match is None else (match[2], match[3])


def find(arguments: Sequence[str], key: str) -> str | None:
    """The last of the arguments that sets `key`."""
    return next((a for a in reversed(arguments) if (split(a) or ("",))[0] == key), None)


def field_type(key: str) -> Any:
    """The type of a key of the schema, e.g. `list[int]`; Any below open maps, None for others."""
    kind: Any = PipelineConfig
    for part in key.split("."):
        options = [option for option in typing.get_args(kind) if option is not type(None)]
        if kind is Any:
            return Any
        if typing.get_origin(kind) is dict:
            kind = options[1]
            continue
        schema = next((k for k in (kind, *options) if dataclasses.is_dataclass(k)), None)
        if schema is None:
            return None
        kind = typing.get_type_hints(schema).get(part)
    return kind


def is_text(key: str) -> bool:
    """True if the key takes text, such as a path."""
    kind = field_type(key)
    return kind is str or (str in typing.get_args(kind) and typing.get_origin(kind) is UnionType)


def rewritten(argument: str) -> str | None:
    """The argument as the shell must get it, its texts quoted; None where that is not the fault.

    For a key that takes text all of the value is one; of a map or a list, every element.
    """
    match = _ASSIGNMENT.fullmatch(argument)
    if match is None:
        return None
    plus, key, value = match.groups()
    inner = value[1:-1].strip()
    open_key = field_type(key) is Any or key.startswith("hydra.")
    if is_text(key):
        texts, value = [value], quoted(_bare(value))
    elif re.fullmatch(r"\{.*\}", value, re.DOTALL) and _PAIR.match(inner):
        _, *rest = _PAIR.split(inner)
        texts = [text.strip() for text in rest[1::2]]
        pairs = zip(rest[::2], texts, strict=True)
        value = "{" + ", ".join(f"{name}: {quoted(_bare(text))}" for name, text in pairs) + "}"
    elif field_type(key) == list[str] and re.fullmatch(r"\[.*\]", value, re.DOTALL):
        texts = [text.strip() for text in inner.split(",")]
        value = "[" + ", ".join(quoted(_bare(text)) for text in texts) + "]"
    elif open_key and value[:1] not in ("{", "["):
        texts, value = [value], quoted(_bare(value))
    else:
        return None
    new = f"{plus}{key}={value}"
    return shlex.quote(new) if _reads_as(new, [_bare(text) for text in texts]) else None


def _bare(text: str) -> str:
    """Without the quotes that somebody has put already."""
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def _reads_as(argument: str, texts: Sequence[str]) -> bool:
    """Whether Hydra and OmegaConf get these texts out of it."""
    try:
        value = OverridesParser.create().parse_override(argument).value()
        found = OmegaConf.to_container(OmegaConf.create({"value": value}), resolve=True)
    except (HydraException, OmegaConfBaseException):
        return False
    assert isinstance(found, dict)
    read = found["value"]
    if isinstance(read, dict):
        return [*read.values()] == [*texts]
    return [*read] == [*texts] if isinstance(read, list) else [read] == [*texts]


def check_spelling(arguments: Iterable[str]) -> None:
    """Refuse a text that Hydra has read as a number or a truth value and spells otherwise.

    `2024_05` would be 202405, `1e3` 1000.0: another folder than the one that was named. And a
    number for a switch is true to OmegaConf, whatever was meant.

    Raises:
        PipelineError: says how to quote it.
    """
    parser = OverridesParser.create()
    for argument in arguments:
        pair = split(argument)
        if pair is None:
            continue
        key, written = pair
        value = parser.parse_override(argument).value() if field_type(key) in _SPELT else None
        if field_type(key) is bool and not isinstance(value, bool | str | None):
            raise PipelineError(f"{key}: {written} is neither true nor false")
        if field_type(key) is bool or not isinstance(value, bool | int | float):
            continue
        if str(value) != written.strip():
            raise PipelineError(
                f"{key}: {written} is read as the value {value}; quote it: {rewritten(argument)}"
            )


def check_methods(arguments: Iterable[str], several: bool) -> None:
    """Refuse what would be given for a method and not be used.

    Args:
        several: whether `extrapolations` holds methods, which then are all there are.

    Raises:
        PipelineError: says how to give it instead.
    """
    shared = tuple(f"extrapolation.{key}" for key in ("first", "last", "hold"))
    for argument in arguments:
        key, value = split(argument) or ("", "")
        named = re.fullmatch(r"extrapolations\.([^.]+)\.name", key)
        if named is not None:
            raise PipelineError(f"{key}: among several methods a name is its key; rename the key")
        one = key == "extrapolation" or (key.startswith("extrapolation.") and key not in shared)
        if one and (several or (key == "extrapolation" and value.startswith("["))):
            raise PipelineError(
                f"{argument}: is for a single method; for several give each as "
                "+extrapolation@extrapolations.NAME=OPTION, and its options as "
                "extrapolations.NAME.options.KEY=VALUE"
            )


def check_keys(config: DictConfig) -> None:
    """Refuse keys that the schema does not know: `+key=value` adds any, and nobody would read them.

    Raises:
        PipelineError: names the key, and the nearest there is.
    """
    for key in _unknown(config, PipelineConfig, ""):
        raise PipelineError(f"{key}: no such key{nearest(key, all_keys())}")


def _unknown(config: DictConfig, schema: type, prefix: str) -> Iterator[str]:
    hints = typing.get_type_hints(schema)
    for name in map(str, config):
        node = None if OmegaConf.is_missing(config, name) else config[name]
        if name not in hints:
            yield f"{prefix}{name}"
        elif isinstance(node, DictConfig):
            sections = {f"{prefix}{name}.": node}
            if name in ("eval_tasks", "extrapolations"):
                sections = {f"{prefix}{name}.{entry}.": node[entry] for entry in map(str, node)}
            for below, section in sections.items():
                kind = OmegaConf.get_type(section)
                if dataclasses.is_dataclass(kind):
                    yield from _unknown(section, kind, below)


def all_keys() -> list[str]:
    """Every key of the schema, dotted."""
    return list(_keys(PipelineConfig, ""))


def _keys(schema: type, prefix: str) -> Iterator[str]:
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        yield prefix + field.name
        if dataclasses.is_dataclass(hints[field.name]):
            yield from _keys(hints[field.name], f"{prefix}{field.name}.")
