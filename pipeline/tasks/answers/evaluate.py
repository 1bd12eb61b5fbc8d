r"""Whether two expressions are equal: exactly where both are rational, else by many digits.

Expressions with symbols are compared at points drawn from the symbols' names, to 60 of 100
digits, relative to their size: no tolerance is absolute, and what differs anywhere is different.
Points where both sides are real count; if there are none (complex answers), all do. Where floors,
factorials or powers of -1 are about, whole numbers are tried too: they differ there first.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Any

import mpmath
from mpmath import mp

from pipeline.tasks.answers.nodes import BITS, Node, TooLargeError, UnreadableError, show, walk
from pipeline.tasks.answers.notation import listed

DIGITS = 100
CLOSE = mpmath.mpf(10) ** -60
POINTS = 8  # half of them with positive values only
WHOLE = 24  # more points, whole numbers from 1 to MOST
MOST = 40
DISCRETE = {"floor", "ceil", "factorial", "binom", "gcd", "lcm"}
LARGEST = 10_000  # argument of a factorial

Value = Any  # an mpf or mpc


class UndefinedError(Exception):
    """No value at this point: a division by zero, a logarithm of zero."""


def same_expression(gold: Node, answer: Node) -> bool:
    """Whether both have the same value wherever both have one.

    Raises:
        UnreadableError: one of them has no value at all, or one that is too large to compute.
    """
    if gold.value is not None and answer.value is not None:
        return gold.value == answer.value
    if show(gold) == show(answer):
        return True
    if _is_arithmetic(gold) and _is_arithmetic(answer):  # and yet no number
        raise TooLargeError
    pairs = []
    for seed in _points(gold, answer):
        try:
            pairs.append((seed, value(gold, seed), value(answer, seed)))
        except UndefinedError:
            continue
    real = [pair for pair in pairs if _is_real(pair[1]) and _is_real(pair[2])]
    compared = real or pairs
    return bool(compared) and all(_close(gold, answer, *pair) for pair in compared)


def is_constant(node: Node) -> bool:
    """Whether no symbol is in it."""
    return not any(
        n.kind in ("sym", "apply", "unit") or n.name.startswith("mark") for n in walk(node)
    )


def constant(node: Node) -> Value | None:
    """The real value of an expression without symbols; None if it has none."""
    if not is_constant(node):
        return None
    try:
        found = value(node, 0)
    except (UndefinedError, UnreadableError):
        return None
    return mp.re(found) if _is_real(found) else None


def proportion(top: Node, bottom: Node) -> Value | None:
    """top / bottom if it is the same real number at all points; else None.

    Raises:
        UnreadableError: one of them has no value.
    """
    quotients = []
    for seed in _points(top, bottom):
        try:
            over, under = value(top, seed), value(bottom, seed)
        except UndefinedError:
            continue
        if abs(under) <= CLOSE:
            return None
        with mp.workdps(DIGITS):
            quotients.append(over / under)
    first = quotients[0] if quotients else None
    if first is None or not _is_real(first):
        return None
    constant_everywhere = all(abs(q - first) <= CLOSE * abs(first) for q in quotients)
    return mp.re(first) if constant_everywhere else None


def _points(one: Node, other: Node) -> range:
    """The seeds of the points at which two expressions are compared."""
    if is_constant(one) and is_constant(other):
        return range(1)
    nodes = [*walk(one), *walk(other)]
    signs = (n.parts for n in nodes if n.kind == "pow" and not is_constant(n.parts[1]))
    discrete = any(n.kind == "func" and n.name in DISCRETE for n in nodes) or any(
        base.value is not None and base.value < 0 for base, _ in signs
    )
    return range(POINTS + WHOLE if discrete else POINTS)


def _is_arithmetic(node: Node) -> bool:
    """Whether it is + - * / and whole powers of fractions, which are exact or too large."""
    for n in walk(node):
        if n.kind == "pow":
            exponent = n.parts[1].value
            if exponent is not None and exponent.denominator > 1:
                return False
        elif n.kind not in ("num", "add", "mul", "percent"):
            return False
    return True


def _is_real(found: Value) -> bool:
    return bool(abs(mp.im(found)) <= CLOSE * abs(found)) if found != 0 else True


def _close(gold: Node, answer: Node, seed: int, a: Value, b: Value) -> bool:
    if mp.isinf(a) or mp.isinf(b):
        return bool(a == b)
    size = max(abs(a), abs(b))
    if abs(a - b) <= CLOSE * size:
        return True
    if size > CLOSE * mpmath.mpf(10) ** 20:
        return False
    # Two tiny values: nothing but rounding if more digits make them smaller.
    with mp.workdps(2 * DIGITS):
        sharper = [value(side, seed, 2 * DIGITS) for side in (gold, answer)]
        zero = [
            abs(fine) <= CLOSE * abs(coarse) for fine, coarse in zip(sharper, (a, b), strict=True)
        ]
        return all(zero)


def value(node: Node, seed: int, digits: int = DIGITS) -> Value:
    """The value at the point that belongs to `seed`."""
    with mp.workdps(digits):
        try:
            found = _value(node, seed)
        except (ZeroDivisionError, ValueError, TypeError) as error:
            raise UndefinedError from error
        if mp.isnan(found):
            raise UndefinedError
        return found


def _value(node: Node, seed: int) -> Value:
    if node.value is not None:
        return mpmath.mpf(node.value.numerator) / node.value.denominator
    if node.kind in ("sym", "unit"):
        return mp.pi / 180 if node.name == "deg" else _point(show(node), seed)
    if node.kind == "const":
        return {"pi": +mp.pi, "e": +mp.e, "i": mp.j, "infinity": mp.inf}[node.name]
    parts = [_value(part, seed) for part in node.parts]
    if node.kind == "add":
        return mp.fsum(parts)
    if node.kind == "mul":
        return mp.fprod(parts)
    if node.kind == "pow":
        return _power(node, parts[0], parts[1])
    if node.kind == "percent":
        return parts[0] / 100
    if node.kind == "apply":
        arguments = ",".join(mp.nstr(part, 40) for part in parts[1:])
        return _point(f"{show(node.parts[0])}({arguments})", seed)
    if node.kind == "func" and node.name.startswith("mark"):
        return _point(show(node), seed)
    if node.kind == "func" and node.name in FUNCTIONS:
        return FUNCTIONS[node.name](*parts)
    raise UnreadableError(f"{node.kind} {node.name} has no value", foreign=node.kind == "func")


def _point(name: str, seed: int) -> Value:
    """A value between 0.3 and 3.3, of both signs in the second half of the points; then whole."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    if seed >= POINTS:
        return mpmath.mpf(1 + int.from_bytes(digest[:4], "big") % MOST)
    size = mpmath.mpf(int.from_bytes(digest[:16], "big")) / 2**128 * 3 + mpmath.mpf(3) / 10
    return -size if seed >= POINTS // 2 and digest[16] % 2 else size


def _power(node: Node, base: Value, exponent: Value) -> Value:
    if base == 0 and mp.re(exponent) <= 0:
        raise UndefinedError
    if base != 0 and abs(exponent * mp.log(abs(base), 2)) > BITS:
        raise TooLargeError
    rational = node.parts[1].value
    is_negative = mp.im(base) == 0 and mp.re(base) < 0
    if (
        is_negative
        and rational is not None
        and rational.denominator % 2
        and rational.denominator > 1
    ):
        return mp.power(-base, exponent) * (-1) ** rational.numerator
    return mp.power(base, exponent)


def _root(radicand: Value, degree: Value) -> Value:
    odd = mp.isint(degree) and int(mp.re(degree)) % 2
    if odd and mp.im(radicand) == 0 and mp.re(radicand) < 0:
        return -mp.power(-radicand, 1 / degree)
    return mp.power(radicand, 1 / degree)


def _factorial(n: Value) -> Value:
    if abs(n) > LARGEST:
        raise TooLargeError
    return mp.factorial(n)


def _integers(function: Callable[..., int]) -> Callable[..., Value]:
    def of(*parts: Value) -> Value:
        if not all(mp.isint(part) for part in parts):
            raise UndefinedError
        return mpmath.mpf(function(*(int(part) for part in parts)))

    return of


def _rounded(function: Callable[[Value], Value]) -> Callable[[Value], Value]:
    """floor and ceil of what rounding may have moved off an integer."""

    def of(part: Value) -> Value:
        nearest = mp.nint(mp.re(part))
        return nearest if abs(part - nearest) < CLOSE * max(1, abs(part)) else function(part)

    return of


TRIGONOMETRIC = "sin cos tan cot sec csc sinh cosh tanh coth"
FUNCTIONS: dict[str, Callable[..., Value]] = {
    **{name: getattr(mp, name) for name in listed(TRIGONOMETRIC)},
    "arcsin": mp.asin,
    "arccos": mp.acos,
    "arctan": mp.atan,
    "arccot": mp.acot,
    "arcsec": mp.asec,
    "arccsc": mp.acsc,
    "ln": mp.log,
    "log": lambda argument, base: mp.log(argument) / mp.log(base),
    "root": _root,
    "abs": abs,
    "norm": abs,
    "floor": _rounded(mp.floor),
    "ceil": _rounded(mp.ceil),
    "factorial": _factorial,
    "binom": mp.binomial,
    "max": max,
    "min": min,
    "gcd": _integers(math.gcd),
    "lcm": _integers(math.lcm),
    "Re": mp.re,
    "Im": mp.im,
    "arg": mp.arg,
}
