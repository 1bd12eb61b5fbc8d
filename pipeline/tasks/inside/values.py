"""JSON forms of values that both processes can hold alike: exact, and only of types listed here.

Scalars are themselves. Everything else is a list whose first item says what it is. Whatever is not
listed here stays where it is and is referred to (peer.py).
"""

from __future__ import annotations

import collections
import importlib
import re
import sys
from collections.abc import Callable
from typing import Any

SCALARS = (type(None), bool, str, float)
SMALL = 2**63  # integers from here on travel as hexadecimal: decimal takes quadratic time
PLAIN = (int, float, complex, str, bytes, tuple, frozenset)  # a subclass is such a value and more
CONTAINERS = (list, dict, set, bytearray, collections.deque)
VIEWS = {
    type(getattr(kind(), view)()): view
    for kind in (dict, collections.OrderedDict)
    for view in ("keys", "values", "items")
}
# Types whose __reduce__ gives the type and plain arguments, and that equal by value.
REDUCED = {
    "builtins": ("complex", "range", "slice"),
    "datetime": ("date", "time", "datetime", "timedelta", "timezone"),
    "decimal": ("Decimal",),
    "fractions": ("Fraction",),
    "ipaddress": ("IPv4Address", "IPv6Address", "IPv4Network", "IPv6Network"),
    "pathlib": ("PosixPath", "PurePosixPath", "PureWindowsPath"),
}
SINGLES = {"Ellipsis": ..., "NotImplemented": NotImplemented}
DTYPE = re.compile(r"[<>|=]?[?bBiufcSUmM]\d*(\[[0-9A-Za-z]+\])?")

Code = Callable[[Any], Any]


def is_numpy(kind: type, name: str) -> bool:
    """Whether a type is numpy's `name` or a subtype; False where numpy is not loaded."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and issubclass(kind, getattr(numpy, name))


def encode(value: Any, item: Code) -> Any:
    """JSON form of a value, or None if it is none of the listed types.

    Args:
        item: encodes what a value holds.
    """
    kind = type(value)
    if kind is int:
        return value if -SMALL < value < SMALL else ["int", hex(value)]
    if kind is bytes:
        return ["bytes", value.hex()]
    if kind is tuple or kind is frozenset:
        return [kind.__name__, *map(item, value)]
    if kind in VIEWS:
        return [VIEWS[kind], *map(item, value)]
    for name, single in SINGLES.items():
        if value is single:
            return ["single", name]
    return _encode_library(value, kind, item)


def _encode_library(value: Any, kind: type, item: Code) -> Any:
    module, name = kind.__module__, kind.__name__
    if name in REDUCED.get(module, ()) and getattr(sys.modules.get(module), name, None) is kind:
        arguments = (value.real, value.imag) if kind is complex else value.__reduce__()[1]
        return ["reduced", module, name, *map(item, arguments)]
    if module == "uuid" and name == "UUID":
        return ["uuid", value.hex]
    if module == "zoneinfo" and name == "ZoneInfo" and value.key:
        return ["zone", value.key]
    if kind is re.Pattern:
        return ["pattern", item(value.pattern), value.flags]
    if is_numpy(kind, "generic") and DTYPE.fullmatch(value.dtype.str):
        return ["numpy", value.dtype.str, value.tobytes().hex()]
    return None


def decode(form: list[Any], item: Code) -> Any:
    """Inverse of encode. Raises ValueError, TypeError or KeyError for what encode does not give."""
    tag, *rest = form
    if tag == "int":
        return int(rest[0], 16)
    if tag == "bytes":
        return bytes.fromhex(rest[0])
    if tag in ("tuple", "frozenset"):
        return (tuple if tag == "tuple" else frozenset)(map(item, rest))
    if tag in ("keys", "values", "items"):
        pairs = [item(part) for part in rest]
        held = dict(pairs) if tag == "items" else dict(enumerate(pairs))
        return dict.fromkeys(pairs).keys() if tag == "keys" else getattr(held, tag)()
    if tag == "single":
        return SINGLES[rest[0]]
    return _decode_library(tag, rest, item)


def _decode_library(tag: str, rest: list[Any], item: Code) -> Any:
    if tag == "reduced":
        module, name, *arguments = rest
        if name not in REDUCED[module]:
            raise ValueError(f"{module}.{name} is no value")
        return getattr(importlib.import_module(module), name)(*map(item, arguments))
    if tag == "uuid":
        return importlib.import_module("uuid").UUID(hex=rest[0])
    if tag == "zone":
        return importlib.import_module("zoneinfo").ZoneInfo(rest[0])
    if tag == "pattern":
        return re.compile(item(rest[0]), rest[1])
    if tag == "numpy" and DTYPE.fullmatch(rest[0]):
        numpy = importlib.import_module("numpy")
        return numpy.frombuffer(bytes.fromhex(rest[1]), numpy.dtype(rest[0]))[0]
    raise ValueError(f"no value has the form {tag!r}")


def resolve(module: str, name: str) -> Any:
    """What a module holds under a dotted name; None if there is no such thing."""
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError):
        return None
    return found


def name_of(value: Any) -> list[str]:
    """Module and qualified name of a class or function, as far as it has them."""
    owner = getattr(value, "__objclass__", value)
    module = getattr(owner, "__module__", None)
    name = getattr(value, "__qualname__", None)
    return [module if isinstance(module, str) else "", name if isinstance(name, str) else ""]


def plain_value(value: Any, kind: Any) -> Any:
    """The value of a plain type that an object of a subclass is."""
    if kind in (tuple, frozenset):
        return kind(kind.__iter__(value))
    arguments = kind.__getnewargs__(value)
    return complex(*arguments) if kind is complex else arguments[0]


def plain_container(value: Any) -> Any:
    """What an object of a container's subclass holds, whatever the subclass says."""
    kind: Any
    for kind in CONTAINERS:
        if isinstance(value, kind):
            return dict(dict.items(value)) if kind is dict else kind(kind.__iter__(value))
    raise TypeError(f"{type(value).__name__} is no container")
