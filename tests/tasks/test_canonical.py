r"""Faults caught: equal answers that are two candidates of a vote, different ones that are one, and
answers that stall or crash the reader."""

from __future__ import annotations

import itertools
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.tasks.canonical import canonical

# one answer a row; no two rows may meet
EQUAL = [
    [r"0.5", "1/2", r"\frac12", r"\frac{1}{2}", r"\dfrac{1}{2}", r"50\%", "50%", ".5", "0.50"],
    [r"\boxed{3}", "3", "$3$", "3.", "3.0", r"\(3\)", "+3", "x=3", r"x = 3", "6/2", "3 = n"],
    ["1,234", "1234", r"1{,}234", r"1\,234", "1 234", "1234.0", r"\$1,234", "1.234e3", r"1,\!234"],
    ["8/3", "2 2/3", r"2\frac{2}{3}", r"2\frac23", r"2\ 2/3", r"2.\overline{6}"],
    ["-1/2", "\u22120.5", r"-\frac{1}{2}", r"\frac{-1}{2}", r"-\frac12"],
    ["1600000", r"1.6\times10^{6}", r"1.6 \cdot 10^6", "1.6e6", "1.6*10^6", "1,600,000"],
    ["90", r"90^\circ", "90\u00b0", r"90^{\circ}"],
    ["yes", "Yes", "YES", r"\text{Yes}", r"\textbf{ yes }"],
    ["C", "(C)", r"\text{(C)}", r"\mathrm{C}"],
    ["x^2+1", "x^{2} + 1", "$x^2+1$"],
    ["(1,2)", "(1, 2)", r"\left(1,2\right)", "(1.0, 4/2)"],
    [r"\{1,2\}", "1,2", "2, 1", r"\{2, 1\}", r"\left\{1, \frac42\right\}"],
    ["1000 cm", r"1000\text{ cm}", r"1{,}000~\mathrm{cm}", "1000.0 cm"],
    [r"\emptyset", r"\varnothing"],
    ["no solution", "No  Solution", r"\text{no solution}"],
    *([text] for text in ("(2,1)", "[1,2)", "1000 m", "x", "X", "5 cm", "5", "235", "1.2", "12")),
    *([text] for text in (r"\sqrt{2}", r"2\pi", r"2\Pi", "1:2", "5 or 6", "(1,234)", "10 AM", "0")),
    *([text] for text in ("1e-19", "1.6e-19", r"3.2\times10^{-19}", "204_5", "204_6", "10 PM")),
    *([text] for text in ("1/3", "0.333")),
]  # fmt: skip


@pytest.mark.parametrize("row", EQUAL, ids=lambda row: row[0])
def test_equal_answers_are_one(row: list[str]) -> None:
    assert len({canonical(text) for text in row}) == 1, [(text, canonical(text)) for text in row]


def test_different_answers_are_never_one() -> None:
    forms = [canonical(row[0]) for row in EQUAL]
    for (one, a), (other, b) in itertools.combinations(zip(EQUAL, forms, strict=True), 2):
        assert a != b, (one[0], other[0])


@given(value=st.fractions(-10_000, 10_000, max_denominator=997))
def test_numbers_are_exact(value: Fraction) -> None:
    """Every way to write a fraction is that fraction, to the last digit."""
    sign, over, under = "-" if value < 0 else "", abs(value.numerator), value.denominator
    whole, rest = divmod(over, under)
    spellings = [
        f"{sign}{over}/{under}",
        rf"{sign}\frac{{{over}}}{{{under}}}",
        rf"$\dfrac{{{sign}{over}}}{{{under}}}$",
        f"{100 * value}%",
        rf"x = {sign}{2 * over}/{2 * under}.",
    ]
    if whole and rest:
        spellings += [f"{sign}{whole} {rest}/{under}", rf"{sign}{whole}\frac{{{rest}}}{{{under}}}"]
    if under == 1:
        spellings += [f"{value.numerator:,}", f"{value.numerator}.00"]
    assert {canonical(text) for text in spellings} == {str(value)}


TOKENS = [
    *("1", "23", "456", ",", ".", "-", "+", "x", "=", "(", ")", "{", "}", "[", "]", "yes", "No"),
    *("$", "^", "_", "%", "~", "/", "*", "e5", "E999", "^{9}", " ", r"\{", r"\}", r"\%", r"\,"),
    *(r"\frac{1}{2}", r"\frac12", r"\dfrac{3}{4}", r"\overline{3}", r"\sqrt{2}", r"\boxed{"),
    *(r"\text{cm}", r"\text{Yes}", r"^\circ", r"\cdot", r"\left(", r"\right)"),
]


@settings(max_examples=500, deadline=None)
@given(parts=st.lists(st.sampled_from(TOKENS), max_size=10))
def test_a_canonical_form_is_its_own(parts: list[str]) -> None:
    """A form that is another one the second time would split a vote."""
    once = canonical("".join(parts))
    assert canonical(once) == once


HOSTILE = [
    *("9^{9^{9^9}}", "1e999999999", "2^999*" * 20 + "1", "-" * 120 + "1", "9" * 1999),
    *("(" * 500, "{" * 300 + "1" + "}" * 300, "((" + "1,(" * 300 + "1", "1" + ",000" * 400),
    *("1/0", r"\frac{1}{0}", "0^{-1}", "\u00b2" * 50, "", " ", "\\", "$", r"\boxed{", "\u0661"),
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:12])
def test_hostile_answers_are_some_text(text: str) -> None:
    assert isinstance(canonical(text), str)


def test_a_program_is_left_as_it_is() -> None:
    """Letters and spaces mean something there."""
    one, other = "def f(X):\n    return X ", "def f(x):\n  return x"
    assert canonical(one) == one.strip()
    assert canonical(one) != canonical(other)
