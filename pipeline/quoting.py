"""How a value is written on the command line: for Hydra's grammar, and then for the shell."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

# What Hydra takes as it stands; a number or truth value would lose its spelling.
_PLAIN = re.compile(r"(?i)(?!(?:null|true|false|nan|inf)$)[a-z_./][a-z0-9_./@+-]*", re.ASCII)


def quoted(value: str) -> str:
    """`value` in double quotes, as Hydra's grammar and then OmegaConf read it back."""
    value = re.sub(r'(\\*)"', lambda m: m[1] * 2 + r"\"", literal(value))
    return '"' + re.sub(r"(\\+)$", lambda m: m[1] * 2, value) + '"'


def literal(value: str) -> str:
    """`value` with `${` escaped, so that OmegaConf takes it for text and not for a reference."""
    return re.sub(r"(\\*)\$\{", lambda m: m[1] * 2 + r"\${", value)


def assignment(key: str, value: str | Mapping[int, str], more: bool = False) -> str:
    """`key=value` as one would type it in a shell.

    Args:
        value: text, or a map to texts.
        more: end the map with dots: the reader is to go on.
    """
    if isinstance(value, str):
        return shlex.quote(f"{key}={_written(value)}")
    pairs = [f"{name}: {_written(text)}" for name, text in value.items()]
    return shlex.quote(f"{key}={{{', '.join([*pairs, *(['...'] if more else [])])}}}")


def _written(value: str) -> str:
    return value if _PLAIN.fullmatch(value) else quoted(value)
