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
from collections.abc import Iterable, Sequence
from types import UnionType
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.config import PipelineConfig
from pipeline.errors import PipelineError

_ASSIGNMENT = re.compile(r"([+]{0,2})([\w./@$-]+)=(.*)", re.DOTALL)
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


def quoted(value: str) -> str:
    """`value` in double quotes, as Hydra's grammar and then OmegaConf read it back."""
    value = re.sub(r"(\\*)\$\{", lambda m: m[1] * 2 + r"\${", value)
    value = re.sub(r'(\\*)"', lambda m: m[1] * 2 + r"\"", value)
    return '"' + re.sub(r"(\\+)$", lambda m: m[1] * 2, value) + '"'


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
    elif typing.get_origin(field_type(key)) is list and re.fullmatch(r"\[.*\]", value, re.DOTALL):
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


def check_texts(arguments: Iterable[str]) -> None:
    """Refuse a text that Hydra has read as a number or a truth value and spells otherwise.

    `2024_05` would be 202405, `1e3` 1000.0: another folder than the one that was named.

    Raises:
        PipelineError: says how to quote it.
    """
    parser = OverridesParser.create()
    for argument in arguments:
        pair = split(argument)
        if pair is None or not is_text(pair[0]):
            continue
        value = parser.parse_override(argument).value()
        if isinstance(value, bool | int | float) and str(value) != pair[1].strip():
            raise PipelineError(
                f"{pair[0]}: {pair[1]} is read as the value {value}; quote it: "
                f"{rewritten(argument)}"
            )
