"""When a number meets a gold number: exact golds exactly, decimals to the digits they give."""

from __future__ import annotations

from fractions import Fraction

from pipeline.tasks.answers.nodes import Node

PRINTED = 15  # significant digits that a printed float has for sure


def meets(gold: Node, answer: Node) -> bool:
    """Both are num. An answer's own digits do not matter: it is an exact fraction."""
    assert gold.value is not None
    assert answer.value is not None
    if gold.value == answer.value:
        return True
    return gold.place is not None and abs(gold.value - answer.value) <= tolerance(gold)


def tolerance(gold: Node) -> Fraction:
    """Half a unit of the last digit that a decimal gives: relative, at most 5 %.

    A single digit is taken as two (3e8 is 3.0e8), more than 15 as 15 (they are those of a printed
    float). Zero is exact.
    """
    assert gold.value is not None
    assert gold.place is not None
    unit = Fraction(10) ** gold.place
    digits = abs(gold.value) / unit
    if digits == 0:
        return Fraction(0)
    while digits < 10:
        digits, unit = digits * 10, unit / 10
    while digits >= 10**PRINTED:
        digits, unit = digits / 10, unit * 10
    return unit / 2
