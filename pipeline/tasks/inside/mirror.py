"""Stand-ins for objects and classes that the other process holds.

A class there has a class here: same name, same bases among its like, and those of Python's special
methods that it defines itself. An object there is an instance here. So isinstance, except, with,
for and operators do what they would do in one process, each by a request to the other side.

The tests' process does not tell a candidate what it expects: a comparison or sum of a stand-in and
a plain value is computed here, from the plain value that the object is (a subclass of int, say),
and fails if it is none. Only objects of classes that the tests themselves name are asked ("open").
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

ASKED = {
    *("len", "bool", "iter", "next", "reversed", "str", "repr", "hash", "int", "float", "complex"),
    *("index", "abs", "neg", "pos", "invert", "round", "trunc", "floor", "ceil", "bytes", "format"),
    *("fspath", "enter", "exit", "call", "getitem", "setitem", "delitem", "length_hint"),
}
COMPARED = {"eq", "ne", "lt", "le", "gt", "ge"}
ARITHMETIC = {
    *("add", "sub", "mul", "truediv", "floordiv", "mod", "divmod", "pow", "matmul"),
    *("and", "or", "xor", "lshift", "rshift"),
}
BINARY = COMPARED | {side + name for name in ARITHMETIC for side in ("", "r", "i")}
SPECIAL = [f"__{name}__" for name in sorted({*ASKED, *BINARY, "contains"})]
OPEN = "open to questions"  # no identifier: no attribute of a candidate's class has this name

Ask = Callable[..., Any]


class Link:
    """The way to the other side; there is one in a process."""

    ask: Ask
    numbers: dict[int, int]  # of stand-ins, by identity


class RemoteMeta(type):
    """A class that the other side holds."""

    def __call__(cls, *arguments: Any, **keywords: Any) -> Any:
        return Link.ask("call", cls, arguments, tuple(keywords.items()))

    def __getattr__(cls, name: str) -> Any:
        return Link.ask("get", cls, name)

    def __setattr__(cls, name: str, value: Any) -> None:
        Link.ask("set", cls, name, value)

    def __delattr__(cls, name: str) -> None:
        Link.ask("delete", cls, name)

    def __bool__(cls) -> bool:
        return True

    # what enumerations are asked, and generic classes
    def __iter__(cls) -> Any:
        return Link.ask("special", "__iter__", cls)

    def __len__(cls) -> int:
        return Link.ask("special", "__len__", cls)

    def __getitem__(cls, key: Any) -> Any:
        return Link.ask("special", "__getitem__", cls, key)

    def __contains__(cls, value: Any) -> bool:
        return Link.ask("special", "__contains__", cls, value)


class Remote:
    """An object that the other side holds."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        return Link.ask("get", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("__"):  # what Python notes on exceptions
            super().__setattr__(name, value)
        else:
            Link.ask("set", self, name, value)

    def __delattr__(self, name: str) -> None:
        Link.ask("delete", self, name)

    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        return Link.ask("get", self, "__dict__")

    def __copy__(self) -> Any:
        return Link.ask("copy", self)

    def __deepcopy__(self, memo: object) -> Any:
        return Link.ask("deepcopy", self)


setattr(Remote, OPEN, False)


class _Doc:
    """The docstring of a class, and of its objects their own."""

    def __init__(self, text: str | None) -> None:
        self.text = text

    def __get__(self, instance: Any, owner: type) -> Any:
        return self.text if instance is None else Link.ask("get", instance, "__doc__")


def is_remote(value: Any) -> bool:
    """Whether this is a stand-in for an object or class of the other side."""
    return issubclass(type(value), (Remote, RemoteMeta))


def open_up(kind: type) -> None:
    """Let objects of this class be asked about plain values too."""
    type.__setattr__(kind, OPEN, True)


def special_methods(kind: type, base: type) -> list[str]:
    """The special methods that a class defines, beyond those of `base`; "-name" if it has none."""
    found: dict[str, bool] = {}
    for ancestor in kind.__mro__:
        if ancestor in base.__mro__:
            break
        for name in SPECIAL:
            if name in vars(ancestor):
                found.setdefault(name, vars(ancestor)[name] is not None)
    return [name if there else f"-{name}" for name, there in found.items()]


def mirror_class(
    name: str,
    doc: str | None,
    bases: list[type],
    special: list[str],
    plain: type | None = None,
    shown: type | None = None,
) -> type:
    """A class that stands for one of the other side.

    Args:
        bases: stand-ins for its bases, and exceptions.
        plain: the type of values that its objects are (int, ...; its instances are such values), or
            of containers (list, ...; asked when needed), or None.
        shown: what its objects say is their class.
    """
    contained = plain is not None and plain.__hash__ is None
    namespace: dict[str, Any] = {"__slots__": (), "__doc__": _Doc(doc), "__module__": "remote"}
    for method in special:
        bare = method.lstrip("-")
        if bare not in SPECIAL:
            raise ValueError(f"no special method: {bare}")
        namespace[bare] = None if method[0] == "-" else _forward(bare, plain, contained)
    if shown is types.FunctionType:
        namespace["__get__"] = _bind  # so that it is a method where a class holds it
    if "__eq__" in namespace and "__hash__" not in namespace:
        namespace["__hash__"] = None
    shown = plain if contained else shown
    if shown is not None:
        namespace["__class__"] = property(lambda self: shown)
    wanted = tuple(bases)
    if plain is not None and not contained and not any(issubclass(b, plain) for b in wanted):
        wanted = (*wanted, plain)
    if not any(issubclass(base, Remote) for base in wanted):
        wanted = (Remote, *wanted)
    try:
        return RemoteMeta(name, wanted, namespace)
    except TypeError:  # bases that do not go together once some are left out
        return RemoteMeta(name, (Remote, *wanted[-1:]), namespace)


def _bind(function: Any, instance: Any, owner: type) -> Any:
    return function if instance is None else types.MethodType(function, instance)


def _forward(name: str, plain: type | None, contained: bool) -> Callable[..., Any]:
    """A special method that asks the other side."""

    def ask(self: Any, *operands: Any) -> Any:
        return Link.ask("special", name, self, *operands)

    def binary(self: Any, other: Any, *more: Any) -> Any:
        if is_remote(other) or getattr(type(self), OPEN):
            return ask(self, other, *more)
        if plain is None:
            return NotImplemented
        value = Link.ask("plain", self) if contained else self
        method = getattr(plain, name, None)
        return NotImplemented if method is None else method(value, other, *more)

    def contains(self: Any, value: Any) -> Any:
        if is_remote(value) or getattr(type(self), OPEN):
            return ask(self, value)
        return any(part is value or part == value for part in self)

    def call(self: Any, *arguments: Any, **keywords: Any) -> Any:
        return Link.ask("call", self, arguments, tuple(keywords.items()))

    if name == "__call__":
        return call
    if name == "__contains__":
        return contains
    return binary if name.strip("_") in BINARY else ask
