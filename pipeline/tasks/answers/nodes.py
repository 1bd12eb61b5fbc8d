"""An answer as a tree. Numbers are exact fractions from the start: no float is ever compared.

Kinds, with what they hold: num (value, place), const (name: pi, e, i, infinity), sym, unit and
text (name), add, mul, pow (parts), func and apply (name, parts), percent, based (name: base),
ratio, list, tuple (name: its brackets, as in "(]"), set, matrix (name: columns), union, inter,
minus, rel (name: its signs), pm (parts: with +, with -), builder (parts: symbol, condition).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

BITS = 100_000  # of a number that is computed exactly; what is larger is not a plain number


@dataclass(frozen=True, slots=True)
class Node:
    """value: of a num. place: power of ten of the last digit written, of a decimal literal."""

    kind: str
    parts: tuple[Node, ...] = ()
    name: str = ""
    value: Fraction | None = None
    place: int | None = None


class UnreadableError(Exception):
    """The text is no answer that this reader knows.

    foreign: it holds notation that is not known here (another reader may know it), rather than
    known notation put together in a way that has no meaning.
    """

    def __init__(self, reason: str, *, foreign: bool = False) -> None:
        super().__init__(reason)
        self.foreign = foreign


class TooLargeError(UnreadableError):
    """A number that is too large to compute: what it equals is not decided."""

    def __init__(self) -> None:
        super().__init__("a number is too large")


def number(value: Fraction | int, place: int | None = None) -> Node:
    return Node("num", value=Fraction(value), place=place)


def symbol(name: str) -> Node:
    return Node("sym", name=name)


ONE, MINUS_ONE = number(1), number(-1)
INFINITY = Node("const", name="infinity")


def add(parts: list[Node]) -> Node:
    """The sum; of numbers a number."""
    if len(parts) == 1:
        return parts[0]
    values = [part.value for part in parts if part.value is not None]
    if len(values) == len(parts):
        return number(sum(values, Fraction(0)))
    return Node("add", tuple(parts))


def mul(parts: list[Node]) -> Node:
    """The product, its numbers made one; of numbers a number. A lone number keeps its place."""
    flat = [f for part in parts for f in (part.parts if part.kind == "mul" else (part,))]
    numbers = [f for f in flat if f.value is not None]
    rest = [f for f in flat if f.value is None]
    if len(numbers) > 1:
        product = Fraction(1)
        for factor in numbers:
            product *= factor.value or Fraction(0)
            if max(product.numerator.bit_length(), product.denominator.bit_length()) > BITS:
                raise TooLargeError
        numbers = [number(product)]
    if rest and numbers == [ONE]:
        numbers = []
    flat = numbers + rest or [ONE]
    return flat[0] if len(flat) == 1 else Node("mul", tuple(flat))


def negative(node: Node) -> Node:
    if node.value is not None:
        return replace(node, value=-node.value)
    if node.kind == "percent":
        return replace(node, parts=(negative(node.parts[0]),))
    return mul([MINUS_ONE, node])


def power(base: Node, exponent: Node) -> Node:
    """The power; an integer power of a number is computed if it is not too large."""
    b, e = base.value, exponent.value
    if e == 1:
        return base
    if b is not None and e is not None and e.denominator == 1:
        size = max(b.numerator.bit_length(), b.denominator.bit_length())
        if b == 0 and e < 0:
            raise UnreadableError("a division by zero")
        if b in (0, 1, -1) and e != 0:
            return number(b ** (2 + e.numerator % 2))
        if abs(e.numerator) * size <= BITS:
            return number(b**e.numerator)
    if base.kind == "pow" and e is not None and e.denominator == 1:
        inner = base.parts[1].value
        if inner is not None and inner.denominator == 1:
            return power(base.parts[0], number(inner * e))
    return Node("pow", (base, exponent))


def divide(numerator: Node, denominator: Node) -> Node:
    return mul([numerator, power(denominator, MINUS_ONE)])


def walk(node: Node) -> Iterator[Node]:
    """The node and all below it."""
    yield node
    for part in node.parts:
        yield from walk(part)


def rewrite(node: Node, change: Callable[[Node], Node]) -> Node:
    """The tree with `change` applied to every node, the lowest first."""
    return change(replace(node, parts=tuple(rewrite(part, change) for part in node.parts)))


def show(node: Node) -> str:
    """The tree as text: equal trees, equal texts."""
    inner = ",".join(show(part) for part in node.parts)
    if node.value is not None:
        return f"{node.value.numerator:x}/{node.value.denominator:x}"  # hex: of any length
    return f"{node.kind}{node.name and ':' + node.name}" + (f"({inner})" if inner else "")
