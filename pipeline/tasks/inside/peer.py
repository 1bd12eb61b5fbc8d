"""One end of the line between tests and candidate: requests, answers, and references to objects.

A message is one line of JSON: what its sender has forgotten and changed of the shared containers,
then a request "q", a result "r" or an exception "x". While a request waits for its answer, the
other side may send requests of its own (it calls a function that it was passed), so both sides run
the same loop. Values and containers are copied (values.py, shared.py); everything else stays where
it is, gets a number, and has a stand-in on the other side (mirror.py).
"""

from __future__ import annotations

import abc
import copy
import importlib
import threading
import types
from collections.abc import Callable
from typing import Any

from . import shared, values
from .line import Line
from .mirror import Link, is_remote, mirror_class, special_methods

OURS = ("solution", "__main__")  # modules that only one side has
ACTS: dict[str, Callable[..., Any]] = {
    "get": getattr,
    "set": setattr,
    "delete": delattr,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}
BUILT_IN = {kind.__name__: kind for kind in vars(types).values() if isinstance(kind, type)}


class Peer:
    """What both ends do."""

    def __init__(self, incoming: int, outgoing: int, first: int) -> None:
        """incoming, outgoing: descriptors. first: 0 for the tests, 1 for the candidate."""
        self.line = Line(incoming, outgoing)
        self.shared = shared.Shared(first)
        self.owned: dict[int, Any] = {}  # what the other side may refer to, by number
        self.owned_numbers: dict[int, int] = {}  # by identity
        self.named: dict[int, Any] = {}  # functions that both sides have, by identity
        self.described: set[int] = set()  # classes that the other side knows
        self.remote: dict[int, Any] = {}  # stand-ins, by the other side's number
        self.library: dict[type, type] = {}  # their classes, for objects of a class of both sides
        self.randomness = shared.Randomness()
        self.lock = threading.RLock()  # a candidate may call from threads
        Link.ask, Link.numbers = self.request, {}

    def send(self, kind: str, parts: list[Any]) -> None:
        message: dict[str, Any] = {"changed": [], "random": self.randomness.changed()}
        for number in self.shared.changed():
            entry = self.shared.entries[number]
            held = shared.content(entry.value, entry.kind)
            message["changed"].append([number, [self.encode(part) for part in held]])
            entry.agreed = held
        message[kind] = [self.encode(part) for part in parts]
        message["forgotten"] = self.shared.unused()  # last: also of these the changes were told
        self.line.send(message)

    def receive(self) -> dict[str, Any]:
        message = self.line.receive()
        self.randomness.update(message["random"])
        for number, parts in message["changed"]:
            self.shared.update(number, [self.decode(part) for part in parts])
        self.shared.forget(message["forgotten"])
        return message

    def request(self, *parts: Any) -> Any:
        """Have the other side do something; its result, or its exception raised."""
        with self.lock:
            self.send("q", list(parts))
            while True:
                message = self.receive()
                if "q" in message:
                    self.answer(message["q"])
                elif "x" in message:
                    raise self.decode(message["x"][0])
                else:
                    return self.decode(message["r"][0])

    def answer(self, parts: list[Any]) -> None:
        """Do what the other side asks."""
        try:
            result = self.perform(*[self.decode(part) for part in self.permitted(parts)])
        except BaseException as error:  # noqa: BLE001  (whatever it is, the other side handles it)
            with self.lock:
                self.send("x", [error])
        else:
            with self.lock:
                self.send("r", [result])

    def permitted(self, parts: list[Any]) -> list[Any]:
        """The request, if the other side may make it."""
        return parts

    def perform(self, what: str, *operands: Any) -> Any:
        if what == "call":
            function, arguments, keywords = operands
            return function(*arguments, **dict(keywords))
        if what == "special":
            name, value, *rest = operands
            if name == "__getitem__":  # of a class too
                return value[rest[0]]
            method = getattr(type(value), name, None)
            if method is None:
                raise TypeError(f"{type(value).__name__} object has no {name}")
            return method(value, *rest)
        if what == "plain":
            return values.plain_container(operands[0])
        return ACTS[what](*operands)

    # values to JSON

    def encode(self, value: Any) -> Any:
        if type(value) in values.SCALARS:
            return value
        if is_remote(value):
            return ["yours", Link.numbers[id(value)]]
        form = values.encode(value, self.encode)
        if form is not None:
            return form
        kind = shared.kind_of(value)
        if kind is not None:
            return self._container(value, kind)
        if isinstance(value, types.TracebackType):
            return None  # its frames stay here
        if isinstance(value, types.ModuleType):
            return ["module", value.__name__]
        if isinstance(value, type):
            return self._class(value, shown=True)
        if id(value) in self.named or self.known_by_name(value):
            return self._named(value, values.name_of(value))
        number = self._own(value)
        described = self._class(type(value))
        if isinstance(value, BaseException):
            return ["error", number, described, *map(self.encode, value.args)]
        plain = next((kind for kind in values.PLAIN if isinstance(value, kind)), None)
        return [
            "object",
            number,
            described,
            self.encode(values.plain_value(value, plain)) if plain else None,
        ]

    def known_by_name(self, value: Any) -> bool:
        """Whether the other side may take this function from its own modules."""
        return False

    def _named(self, value: Any, name: list[str]) -> list[Any]:
        """A function that both sides have; from now on either may say its name."""
        self.named[id(value)] = value
        return ["name", *name]

    def function_here(self, module: str, name: str) -> Any:
        found = values.resolve(module, name)
        self._named(found, [])
        return found

    def _own(self, value: Any) -> int:
        number = self.owned_numbers.setdefault(id(value), len(self.owned))
        self.owned[number] = value  # kept: its number must stay its own
        return number

    def _container(self, value: Any, kind: str) -> list[Any]:
        number = self.shared.numbers.get(id(value))
        if number is not None:
            return ["shared", number]
        number = self.shared.add(value, kind)
        held = shared.content(value, kind)
        self.shared.entries[number].agreed = held
        details = [self.encode(part) for part in shared.form(value, kind)]
        return ["new", number, kind, details, [self.encode(part) for part in held]]

    def _class(self, kind: type, shown: bool = False) -> list[Any]:
        """shown: the class itself is passed, not one of its objects."""
        if is_remote(kind):
            return ["yours", Link.numbers[id(kind)]]
        number = self._own(kind)
        if number in self.described:
            return ["class", number]
        self.described.add(number)
        plain = next((p for p in (*values.PLAIN, *values.CONTAINERS) if issubclass(kind, p)), None)
        base: type = plain if plain in values.PLAIN else object
        if issubclass(kind, BaseException):
            base = next(b for b in kind.__mro__ if b.__module__ == "builtins")
        if base is kind:
            base = object
        return [
            "class",
            number,
            values.name_of(kind),
            kind.__doc__ if isinstance(kind.__doc__, str) else None,
            [self._class(b) for b in kind.__bases__ if b is not object],
            special_methods(kind, base),
            None if plain is None else plain.__name__,
        ]

    # JSON to values

    def decode(self, form: Any) -> Any:
        if not isinstance(form, list):
            return form
        tag, *rest = form
        if tag == "yours":
            return self.owned[rest[0]]
        if tag == "shared":
            return self.shared.get(rest[0])
        if tag == "new":
            return self._new_container(*rest)
        if tag == "class":
            return self._mirror(*rest)
        if tag == "error":
            return self._error(*rest)
        if tag == "object":
            return self._object(*rest)
        if tag == "module":
            return self.module(rest[0])
        if tag == "name":
            return self.function_here(*rest)
        return values.decode(form, self.decode)

    def module(self, name: str) -> types.ModuleType:
        return importlib.import_module(name)

    def _new_container(self, number: int, kind: str, details: Any, parts: Any) -> Any:
        if number in self.shared.entries:
            raise ValueError(f"container {number} is there already")
        value = shared.empty(kind, [self.decode(detail) for detail in details])
        self.shared.add(value, kind, number)
        shared.fill(value, kind, [self.decode(part) for part in parts])
        self.shared.agree(number)
        return value

    def _stand_in(self, number: int, value: Any) -> Any:
        self.remote[number] = value
        Link.numbers[id(value)] = number
        return value

    def _mirror(self, number: int, *description: Any) -> Any:
        if number in self.remote:
            return self.remote[number]
        (module, name), doc, bases, special, plain = description
        ancestors = [self.decode(base) for base in bases]
        here = self.class_here(module, name)
        if here is not None:
            self.remote[number] = here
            return here
        kept = [b for b in ancestors if is_remote(b) or issubclass(b, BaseException)]
        plains = {kind.__name__: kind for kind in (*values.PLAIN, *values.CONTAINERS)}
        shown = BUILT_IN.get(name) if module == "builtins" else None
        made = mirror_class(name.rpartition(".")[2], doc, kept, special, plains.get(plain), shown)
        for ancestor in ancestors:
            if isinstance(ancestor, abc.ABCMeta):  # a library's, of which it is one
                ancestor.register(made)
        return self._stand_in(number, made)

    def class_here(self, module: str, name: str) -> type | None:
        """The same class in this process, if it has it and may take the other side's word."""
        found = None if module in OURS else values.resolve(module, name)
        return found if isinstance(found, type) else None

    def _error(self, number: int, described: Any, *forms: Any) -> BaseException:
        if number in self.remote:
            return self.remote[number]
        kind, arguments = self.decode(described), [self.decode(form) for form in forms]
        if not issubclass(kind, BaseException):
            raise TypeError(f"{kind.__name__} is no exception")
        try:
            made = kind.__new__(kind, *arguments) if is_remote(kind) else kind(*arguments)
        except TypeError:  # its arguments are not those that it was made from
            made = kind.__new__(kind, *arguments)
        return self._stand_in(number, made) if is_remote(kind) else made

    def _object(self, number: int, described: Any, plain: Any) -> Any:
        if number in self.remote:
            return self.remote[number]
        kind, value = self.decode(described), self.decode(plain)
        if not is_remote(kind):  # a class of both sides whose objects are not copied
            if kind not in self.library:
                special = special_methods(kind, object)
                made = mirror_class(kind.__name__, kind.__doc__, [], special, shown=kind)
                self.library[kind] = made
            kind = self.library[kind]
        base = next((b for b in values.PLAIN if issubclass(kind, b)), None)
        made = object.__new__(kind) if base is None else base.__new__(kind, value)
        return self._stand_in(number, made)
