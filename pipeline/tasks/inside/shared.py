"""Mutable containers that both processes hold: each has a copy, and the copies are kept alike.

Only one side runs at a time. So it is enough that every message carries, first, the new content of
the containers that its sender changed since the last one. A container keeps its identity on both
sides, whatever is nested in what. One that a side no longer uses is forgotten by both.
"""

from __future__ import annotations

import array
import collections
import importlib
import random
import sys
from collections.abc import Iterator
from typing import Any

from .values import DTYPE, is_numpy

KINDS: dict[type, str] = {
    list: "list",
    dict: "dict",
    set: "set",
    bytearray: "bytearray",
    collections.deque: "deque",
    collections.OrderedDict: "OrderedDict",
    collections.Counter: "Counter",
    collections.defaultdict: "defaultdict",
    array.array: "array",
}
MAPPINGS = ("dict", "OrderedDict", "Counter", "defaultdict")


def kind_of(value: Any) -> str | None:
    """The name of a container's type; None for anything else."""
    kind = type(value)
    if kind in KINDS:
        return KINDS[kind]
    if is_numpy(kind, "ndarray") and kind.__name__ == "ndarray":
        return "ndarray" if DTYPE.fullmatch(value.dtype.str) else None
    return None


def content(value: Any, kind: str) -> list[Any]:
    """What it holds, as a flat list; raw data as bytes."""
    if kind in MAPPINGS:
        return [part for pair in value.items() for part in pair]
    if kind in ("bytearray", "array", "ndarray"):
        return [value.tobytes() if kind != "bytearray" else bytes(value)]
    return list(value)


def form(value: Any, kind: str) -> list[Any]:
    """What is needed besides its content to make one like it."""
    if kind == "deque":
        return [value.maxlen]
    if kind == "defaultdict":
        return [value.default_factory]
    if kind == "array":
        return [value.typecode]
    if kind == "ndarray":
        return [value.dtype.str, value.shape]
    return []


def empty(kind: str, details: list[Any]) -> Any:
    """A new one without content."""
    if kind == "deque":
        return collections.deque(maxlen=details[0])
    if kind == "defaultdict":
        return collections.defaultdict(details[0])
    if kind == "array":
        return array.array(details[0])
    if kind == "ndarray":
        if not DTYPE.fullmatch(details[0]):
            raise ValueError(f"no plain data: {details[0]}")
        return importlib.import_module("numpy").zeros(details[1], details[0])
    return next(make for make, name in KINDS.items() if name == kind)()


def fill(value: Any, kind: str, parts: list[Any]) -> None:
    """Replace its content."""
    if kind in MAPPINGS:
        value.clear()
        for key, held in zip(parts[::2], parts[1::2], strict=True):
            value[key] = held
    elif kind in ("list", "bytearray"):
        value[:] = parts if kind == "list" else parts[0]
    elif kind == "array":
        del value[:]
        value.frombytes(parts[0])
    elif kind == "ndarray":
        numpy = importlib.import_module("numpy")
        value[...] = numpy.frombuffer(parts[0], value.dtype).reshape(value.shape)
    else:
        value.clear()
        (value.extend if kind == "deque" else value.update)(parts)


def _alike(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(
        a is b or (type(a) is bytes and a == b) for a, b in zip(one, other, strict=True)
    )


class Entry:
    """A shared container, its kind, and its content when both sides last agreed."""

    __slots__ = ("agreed", "kind", "value")

    def __init__(self, value: Any, kind: str) -> None:
        self.value = value
        self.kind = kind
        self.agreed: list[Any] = []


def _references(entry: Entry) -> int:
    return sys.getrefcount(entry.value)


UNUSED = _references(Entry([], "list"))  # references of a container that only its entry holds


class Shared:
    """The containers that this side shares with the other, by number."""

    def __init__(self, first: int) -> None:
        """first: 0 on one side and 1 on the other, so that both can hand out numbers."""
        self.entries: dict[int, Entry] = {}
        self.numbers: dict[int, int] = {}  # by identity
        self._next = first
        # The state before an assertion's left side, see before().
        self._old: dict[int, tuple[Entry, list[Any]]] | None = None
        self._new: dict[int, tuple[Entry, list[Any]]] = {}

    def add(self, value: Any, kind: str, number: int | None = None) -> int:
        """Share a container; its number is the other side's, or a new one."""
        if number is None:
            number = self._next
            self._next += 2
        self.entries[number] = Entry(value, kind)
        self.numbers[id(value)] = number
        return number

    def agree(self, number: int) -> None:
        """Both sides now hold what this side holds."""
        entry = self.entries[number]
        entry.agreed = content(entry.value, entry.kind)

    def changed(self) -> Iterator[int]:
        """Numbers of those that this side has changed since both agreed."""
        for number, entry in list(self.entries.items()):
            if number not in self._new and not _alike(
                content(entry.value, entry.kind), entry.agreed
            ):
                yield number

    def unused(self) -> list[int]:
        """Forget what nothing on this side refers to any more; their numbers."""
        numbers = [
            number
            for number, entry in self.entries.items()
            if _references(entry) <= UNUSED and number not in self._new
        ]
        self.forget(numbers)
        return numbers

    def forget(self, numbers: list[int]) -> None:
        for number in numbers:
            entry = self.entries.pop(number, None)
            if entry is not None:
                del self.numbers[id(entry.value)]

    def update(self, number: int, parts: list[Any]) -> None:
        """The other side changed it."""
        entry = self.entries[number]
        if self._new:  # the right side of an assertion is being computed
            self._new[number] = entry, parts
            return
        if self._old is not None:
            self._old.setdefault(number, (entry, content(entry.value, entry.kind)))
        fill(entry.value, entry.kind, parts)
        self.agree(number)

    def get(self, number: int) -> Any:
        """The container; a copy of its newest state while an older one is shown."""
        entry = self.entries[number]
        if number not in self._new:
            return entry.value
        newest = empty(entry.kind, form(entry.value, entry.kind))
        fill(newest, entry.kind, self._new[number][1])
        return newest

    def before(self) -> None:
        """An assertion `left == right` begins.

        A call on the left may change its arguments in place. What the right side computes from them
        is computed from what they were before: or a program could empty a list, return it, and be
        compared with itself. left_side() hides the changes, after() shows them.
        """
        self.after()
        self._old = {}

    def left_side(self, value: Any) -> Any:
        """The left side, with copies of what is about to be hidden."""
        if not self._old:
            self._old = None
            return value
        value = _detached(value, {})
        for number, (entry, parts) in self._old.items():
            self._new[number] = entry, content(entry.value, entry.kind)
            fill(entry.value, entry.kind, parts)
        return value

    def after(self) -> None:
        """The assertion was computed."""
        for entry, parts in self._new.values():
            fill(entry.value, entry.kind, parts)
            entry.agreed = content(entry.value, entry.kind)
        self._old, self._new = None, {}


def _detached(value: Any, made: dict[int, Any]) -> Any:
    """A copy of a container and the containers and tuples in it; anything else as it is."""
    if id(value) in made:
        return made[id(value)]
    if type(value) is tuple:
        return tuple(_detached(part, made) for part in value)
    kind = kind_of(value)
    if kind is None:
        return value
    copy = made[id(value)] = empty(kind, form(value, kind))
    fill(copy, kind, [_detached(part, made) for part in content(value, kind)])
    return copy


class Randomness:
    """The state of the random numbers, where tests set it: one for both sides."""

    def __init__(self) -> None:
        self.shared = False
        self.state: tuple[Any, ...] = ()

    def share(self) -> None:
        """From now on a side that draws or seeds tells the other."""
        self.shared = True
        self.state = random.getstate()

    def changed(self) -> tuple[Any, ...] | None:
        """The state, if it is not what both sides last agreed on."""
        if not self.shared or random.getstate() == self.state:
            return None
        self.state = random.getstate()
        return self.state

    def update(self, state: list[Any] | None) -> None:
        """The other side drew or seeded."""
        if self.shared and state is not None:
            version, numbers, spare = state
            self.state = version, tuple(numbers), spare
            random.setstate(self.state)
