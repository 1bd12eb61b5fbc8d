r"""The comparison of answers: a table of golds with what is right and wrong, rules, hostile input.

A line of answers/*.txt is: gold ⇒ right ¦ right ✗ wrong ¦ wrong.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from decimal import ROUND_HALF_DOWN, ROUND_HALF_UP, Decimal
from fractions import Fraction
from pathlib import Path

import pytest

from pipeline.tasks import Problem, grade_many
from pipeline.tasks.answers.judge import judge
from pipeline.tasks.answers.nodes import number
from pipeline.tasks.answers.numbers import meets
from pipeline.tasks.answers.reader import unreadable
from tests.tasks.make import task

TABLES = sorted(Path(__file__).with_name("answers").glob("*.txt"))


def cases(table: Path) -> Iterator[tuple[str, str, bool]]:
    """(gold, answer, whether it is right)."""
    for line in table.read_text(encoding="utf-8").splitlines()[1:]:
        rest, _, wrong = line.partition(" ✗ ")
        gold, _, right = rest.partition(" ⇒ ")
        for text, verdict in ((right, True), (wrong, False)):
            yield from ((gold, answer, verdict) for answer in text.split(" ¦ ") if answer)


@pytest.mark.parametrize("table", TABLES, ids=lambda path: path.stem)
def test_what_is_right_and_what_is_wrong(table: Path) -> None:
    """Catches, for each class of notation, false rights and false wrongs."""
    found = [(g, a, judge(g, a) == "right") for g, a, _ in cases(table)]
    assert [
        f"{g}  {a}" for (g, a, ok), e in zip(found, cases(table), strict=True) if ok != e[2]
    ] == []


def test_numbers_decided_at_once_are_decided_as_in_the_workers() -> None:
    """Catches a short cut for plain numbers with rules of its own."""
    wanted = list(cases(next(path for path in TABLES if path.stem == "numbers")))
    pairs = [(Problem("p", [], g, "test"), f"\\boxed{{{a}}}") for g, a, _ in wanted]
    assert [g.correct for g in grade_many(task("m", kind="math", workers=2), pairs)] == [
        right for *_, right in wanted
    ]


def test_numbers_longer_than_python_reads_are_too_large() -> None:
    """Catches a ValueError for 4301 digits, which ends a grader, or the load of a whole file."""
    long = "7" * 5000
    assert judge(long, long) == "right"
    assert judge("7", long) == judge(long, "7") == judge("7", f"0.{long}") == "timeout"
    assert judge("7", f"1e{long}") in ("timeout", "wrong")
    assert unreadable(f"x+{long}") == "a number is too large"


def test_every_gold_of_the_tables_can_be_read() -> None:
    """Catches golds that only equal text would match. Sums are left to math-verify."""
    golds = {gold for table in TABLES for gold, *_ in cases(table) if "\\sum" not in gold}
    assert {gold: why for gold in golds if (why := unreadable(gold)) is not None} == {}


@pytest.mark.parametrize("seed", range(20))
def test_a_decimal_is_met_by_what_rounds_to_it(seed: int) -> None:
    """Catches tolerances that are absolute, or wider or narrower than half of the last digit.

    Compared with the rounding of the decimal module, at both readings of a tie.
    """
    rng = random.Random(seed)
    for _ in range(200):
        digits, place = rng.randint(2, 15), rng.randint(-40, 40)
        significand = rng.randint(10 ** (digits - 1), 10**digits - 1) * rng.choice((1, -1))
        gold = number(significand * Fraction(10) ** place, place)
        # up to one and a half units away, in steps of 1/1000
        moved = significand * 1000 + rng.randint(-1500, 1500)
        value = Decimal(moved).scaleb(place - 3)
        unit = Decimal(1).scaleb(place)
        rounded = {value.quantize(unit, mode) for mode in (ROUND_HALF_UP, ROUND_HALF_DOWN)}
        answer = number(moved * Fraction(10) ** (place - 3))
        assert meets(gold, answer) == (Decimal(significand).scaleb(place) in rounded)


def test_an_exact_gold_is_met_exactly() -> None:
    """Catches any tolerance for integers and fractions."""
    tiny = Fraction(1, 10**80)
    for value in (Fraction(0), Fraction(70), Fraction(1, 3), Fraction(1, 10**60)):
        assert meets(number(value), number(value))
        assert not meets(number(value), number(value + tiny))


HOSTILE = [
    *(
        text * 300
        for text in ("(", "{", "\\frac", "^", "2^", "-", "|", "f(", "a_", "\\text{", "x'")
    ),
    *(text * 300 for text in ("1/", "1 234 ", "1{,}", "1,234,", "\\{", "\\begin{pmatrix}", "5!")),
    *(text * 300 for text in ("½", "²", "%", "\\$", "x<", "\\\\", "&", "\\dot", "\\pm ", ":", "=")),
    "9^{9^{9",
    "1e999999999",
    "\\frac{1}{" * 200 + "1" + "}" * 200,
    "99999999!",
    "0.\\overline{" + "3" * 1900 + "}",
    "e^{" * 300 + "x" + "}" * 300,
    "\\binom{10^{9}}{10^{8}}",
    "\\frac{1}{0}",
    "\\ln 0",
    "0^{-1}",
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:12])
def test_hostile_answers_are_wrong_and_nothing_else(text: str) -> None:
    """Catches exceptions, endless loops and rights on degenerate samples."""
    assert judge("5", text) in ("wrong", "timeout")
    assert judge(text, "5") != "right"


# Ways to write an answer that change nothing.
HARMLESS: dict[str, Callable[[str], str]] = {
    "dollars": lambda g: f"${g}$",
    "full stop": lambda g: f"{g}.",
    "bold": lambda g: f"**{g}**",
    "dfrac": lambda g: g.replace("\\frac", "\\dfrac"),
    "left, right": lambda g: (
        re.sub(r"(?<!\\left)\(", r"\\left(", g) if g.count("(") == g.count(")") else g
    ),
    "thin spaces": lambda g: re.sub(r"(?<=[^\w,!]) ", r"\\,", g),
    "Unicode": lambda g: g.replace("-", "−").replace("\\pi", "π ").replace("^\\circ", "°"),
    "box": lambda g: f"\\boxed{{{g}}}",
    "display": lambda g: f"\\displaystyle {g}",
}


def _digit(gold: str, rng: random.Random) -> str | None:
    places = [match.start() for match in re.finditer(r"\d", gold)]
    if not places:
        return None
    place = rng.choice(places)
    other = rng.choice([d for d in "123456789" if d != gold[place]])
    return gold[:place] + other + gold[place + 1 :]


def _sign(gold: str, rng: random.Random) -> str | None:
    return None if gold == "0" else gold[1:] if gold.startswith("-") else f"-{gold}"


def _swapped(gold: str, rng: random.Random) -> str | None:
    match = re.search(r"\\d?frac\{([^{}]*)\}\{([^{}]*)\}", gold)
    if match is None:
        return None
    return f"{gold[: match.start()]}\\frac{{{match[2]}}}{{{match[1]}}}{gold[match.end() :]}"


def _exponent(gold: str, rng: random.Random) -> str | None:
    match = re.search(r"\^\{?(\d)", gold)
    return None if match is None else gold[: match.start(1)] + "7" + gold[match.end(1) :]


def _factor(gold: str, rng: random.Random) -> str | None:
    places = [m.start() for m in re.finditer(r"(?<![a-zA-Z\\{ ])[a-z](?![a-zA-Z}])", gold)]
    return None if not places or "=" in gold else gold[: places[0]] + gold[places[0] + 1 :]


def golds(data_dir: Path) -> list[str]:
    """Different golds of the benchmark files, every third."""
    found: dict[str, None] = {}
    for name in ("math500", "aime24", "aime25", "gsm8k"):
        for line in (data_dir / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
            found[str(json.loads(line)["answer"]).rpartition("####")[2].strip()] = None
    return list(found)[::3]


def test_golds_are_right_however_they_are_written(data_dir: Path) -> None:
    """Catches false wrongs on real golds."""
    for name, write in HARMLESS.items():
        wrong = [g for g in golds(data_dir) if judge(g, write(g)) != "right"]
        assert (name, wrong) == (name, [])


@pytest.mark.parametrize("change", [_digit, _sign, _swapped, _exponent, _factor])
def test_changed_golds_are_wrong(
    data_dir: Path, change: Callable[[str, random.Random], str | None]
) -> None:
    """Catches false rights on real golds: a digit, a sign, a fraction, a power, a factor."""
    rng = random.Random(0)
    pairs = [(g, a) for g in golds(data_dir) if (a := change(g, rng)) is not None and a != g]
    assert pairs
    assert [pair for pair in pairs if judge(*pair) == "right"] == []
