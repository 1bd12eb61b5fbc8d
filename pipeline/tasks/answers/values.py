r"""Equality of single values: numbers and expressions, with percent, units, bases and ratios.

The rules, for a gold and an answer:

- An exact gold (integer, fraction, root, power, symbols) is met exactly. 0.333 is not 1/3.
- A decimal gold (0.49, 3.2 \times 10^{-19}, 4.5e33) is met by what rounds to it at its last digit,
  which is taken to be the second significant one if it has one only (3e8 is 3.0e8) and the 15th if
  it has more than 15 (a printed float).
- p% is p/100 or p: 25%, 25, 0.25 and 1/4 all meet 25%, and 25% meets 25 and 1/4.
- Units differ or are left out. Left out on one side they do not count (90° and 90).
- 204_5 is not 204_6; without its base on one side, the digits count.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from mpmath import mp

from pipeline.tasks.answers.evaluate import (
    Value,
    constant,
    is_constant,
    proportion,
    same_expression,
)
from pipeline.tasks.answers.nodes import Node, divide, mul, number, show, walk
from pipeline.tasks.answers.numbers import meets, tolerance
from pipeline.tasks.answers.units import BARE_LETTERS


def same_value(gold: Node, answer: Node) -> bool:
    """Whether the answer is the gold's value, by the rules above."""
    g, gold_units = split_units(gold)
    a, answer_units = split_units(answer)
    if gold_units and not answer_units:
        a, answer_units = letters_as_units(a)
    elif not gold_units and not answer_units and is_constant(g) and not is_constant(a):
        a, _ = letters_as_units(a)
    if {"deg"} in (set(gold_units), set(answer_units)):
        angles = _as_radians(g, gold_units), _as_radians(a, answer_units)
        if angles[0] is not None and angles[1] is not None:
            return plain_value(angles[0], angles[1])
    if gold_units and answer_units and gold_units != answer_units:
        return False
    return plain_value(g, a)


def _as_radians(node: Node, units: dict[str, Fraction]) -> Node | None:
    """An angle in radians: of degrees, and of what says radians or holds pi; else None."""
    if units == {"deg": 1}:
        return mul([node, Node("const", name="pi"), number(Fraction(1, 180))])
    holds_pi = any(n.kind == "const" and n.name == "pi" for n in walk(node))
    return node if units == {"rad": 1} or (not units and holds_pi) else None


def split_units(node: Node) -> tuple[Node, dict[str, Fraction]]:
    """The value, and {unit: its power} of the units that multiply or divide the whole."""
    units: dict[str, Fraction] = {}
    rest = []
    for factor in node.parts if node.kind == "mul" else (node,):
        base, exponent = factor.parts if factor.kind == "pow" else (factor, number(1))
        if base.kind == "mul" and factor.kind == "pow" and exponent.value is not None:
            inner, found = split_units(base)
            for name, power in found.items():
                units[name] = units.get(name, Fraction(0)) + power * exponent.value
            rest.append(replace(factor, parts=(inner, exponent)) if found else factor)
        elif base.kind == "unit" and exponent.value is not None:
            units[base.name] = units.get(base.name, Fraction(0)) + exponent.value
        else:
            rest.append(factor)
    if not units:
        return node, {}
    return mul(rest), {name: power for name, power in units.items() if power}


def letters_as_units(node: Node) -> tuple[Node, dict[str, Fraction]]:
    """5 m, where m can only be a unit: next to a gold that is a number or has a unit."""
    if node.kind != "mul":
        return node, {}

    def changed(part: Node) -> Node:
        if part.kind == "sym" and part.name in BARE_LETTERS:
            return replace(part, kind="unit")
        if part.kind == "pow" and part.parts[1].value is not None:
            return replace(part, parts=(changed(part.parts[0]), part.parts[1]))
        return part

    return split_units(replace(node, parts=tuple(map(changed, node.parts))))


def plain_value(gold: Node, answer: Node) -> bool:
    """The rules without units."""
    if gold.kind == "percent" or answer.kind == "percent":
        return _same_percent(gold, answer)
    if gold.kind == "ratio" or answer.kind == "ratio":
        return _same_ratio(gold, answer)
    if gold.kind == "based" or answer.kind == "based":
        if gold.kind == answer.kind:
            return show(gold) == show(answer)
        digits = [n.parts[0] if n.kind == "based" else n for n in (gold, answer)]
        return digits[0] == digits[1]
    if gold.kind == "pmod" or answer.kind == "pmod":
        return _same_residue(gold, answer)
    if gold.place is not None:
        return (
            meets(gold, answer) if answer.value is not None else _rounds_to(gold, constant(answer))
        )
    return same_expression(gold, answer) or _same_multiple(gold, answer)


def _same_percent(gold: Node, answer: Node) -> bool:
    if gold.kind == answer.kind:
        return plain_value(gold.parts[0], answer.parts[0])
    if gold.kind == "percent":
        inside = gold.parts[0]
        return plain_value(inside, answer) or plain_value(inside, mul([answer, number(100)]))
    inside = answer.parts[0]
    return plain_value(gold, inside) or plain_value(gold, divide(inside, number(100)))


def _same_ratio(gold: Node, answer: Node) -> bool:
    """3:4 is 6:8 and 3/4; two that may be times of day (3:30) must be written alike."""
    if gold.kind == answer.kind:
        if len(gold.parts) != len(answer.parts):
            return False
        alike = all(map(same_expression, gold.parts, answer.parts))
        if alike or (_is_time(gold) and _is_time(answer)):
            return alike
        pairs = zip(gold.parts[1:], answer.parts[1:], strict=True)
        return all(
            same_expression(mul([g, answer.parts[0]]), mul([a, gold.parts[0]])) for g, a in pairs
        )
    sides = [
        divide(*n.parts) if n.kind == "ratio" and len(n.parts) == 2 else n for n in (gold, answer)
    ]
    return all(n.kind != "ratio" for n in sides) and plain_value(sides[0], sides[1])


def _is_time(node: Node) -> bool:
    hours, *rest = [part.value for part in node.parts]
    return hours in range(25) and all(value in (0, *range(10, 60)) for value in rest)


def _same_residue(gold: Node, answer: Node) -> bool:
    if gold.kind != answer.kind:
        sides = [n.parts[0] if n.kind == "pmod" else n for n in (gold, answer)]
        return plain_value(sides[0], sides[1])
    (g, m), (a, n) = gold.parts, answer.parts
    if not same_expression(m, n):
        return False
    if g.value is not None and a.value is not None and m.value:
        return (g.value - a.value) % m.value == 0
    return same_expression(g, a)


def _rounds_to(gold: Node, answer: Value | None) -> bool:
    """Whether a real value is within half a unit of the gold's last digit."""
    if answer is None or gold.value is None:
        return False
    with mp.workdps(50):
        middle, half = (mp.mpf(x.numerator) / x.denominator for x in (gold.value, tolerance(gold)))
        return bool(abs(answer - middle) <= half)


def _same_multiple(gold: Node, answer: Node) -> bool:
    """2.2 x for 2.1972 x: one decimal times what is exact, right to the decimal's digits."""
    if gold.kind != "mul":
        return False
    decimals = [part for part in gold.parts if part.place is not None]
    if len(decimals) != 1 or decimals[0].value == 0:
        return False
    rest = mul([part for part in gold.parts if part is not decimals[0]])
    return _rounds_to(decimals[0], proportion(answer, rest))
