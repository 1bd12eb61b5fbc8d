"""Arithmetic tasks: leaks between splits, wrong references, lenient or cheatable grading."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pipeline.errors import PipelineError
from pipeline.tasks import Problem, grade, load_problems
from pipeline.tasks.arithmetic import ADDITION_ALPHABET
from tests.tasks.make import task
from tests.tasks.shared import content

WORDS = task("s", kind="arithmetic")

SPLITS = ("train", "validation", "test")


def operands(problem: Problem) -> tuple[int, ...]:
    return tuple(sorted(int(n) for n in problem.id.rpartition(":")[2].replace("+", ",").split(",")))


def test_addition_splits_cover_all_pairs_once_and_keep_twins_together() -> None:
    """Catches a problem (or its twin b+a) in two splits, or lost, when seeds differ by split."""
    seen: dict[tuple[int, ...], str] = {}
    total = 0
    for seed, split in enumerate(SPLITS):
        problems = load_problems(task("addition"), split, None, seed)
        total += len(problems)
        for problem in problems:
            assert seen.setdefault(operands(problem), split) == split
            a, b = problem.id.split("+")
            assert problem.prompt == f"{a}+{b}="
            assert problem.answer == str(int(a) + int(b))
            assert set(problem.prompt + problem.answer) <= set(ADDITION_ALPHABET)
    assert total == 100 * 100
    assert len(seen) == 100 * 101 // 2


def test_split_shares_are_close_to_what_was_asked() -> None:
    """Catches shares applied in the wrong order or to the wrong split."""
    shares = {"train": 0.5, "validation": 0.2, "test": 0.3}
    for split, share in shares.items():
        count = len(load_problems(task("addition", splits=shares), split, None, 0))
        assert abs(count / 10_000 - share) < 0.03


@pytest.mark.parametrize("kind", ["addition", "arithmetic"])
def test_same_seed_same_problems_other_seed_other_order(kind: str) -> None:
    """Catches an unseeded or process-dependent order; a short list is a prefix of a longer one."""
    extra: dict[str, Any] = {} if kind == "addition" else {"operands": 4, "low": 0, "high": 999}
    asked = task("t", kind=kind, **extra)
    long = load_problems(asked, "train", 50, 3)
    assert load_problems(asked, "train", 20, 3) == long[:20]
    assert load_problems(asked, "train", 50, 4) != long
    assert len({p.id for p in long}) == 50


def test_drawn_splits_of_an_unlistable_set_are_disjoint() -> None:
    """Catches a leak in the sampling path: same numbers in another order count as the same."""
    options: dict[str, Any] = {"operation": "largest", "operands": 3, "low": 10, "high": 99}
    found = [
        {operands(p) for p in load_problems(task("l", kind="arithmetic", **options), s, 3000, 0)}
        for s in SPLITS
    ]
    assert found[0].isdisjoint(found[1])
    assert found[0].isdisjoint(found[2])
    assert found[1].isdisjoint(found[2])


@pytest.mark.parametrize(
    ("operation", "expected"),
    [("sum", sum), ("largest", max), ("smallest", min), ("product", lambda n: n[0] * n[1] * n[2])],
)
def test_chat_references_match_an_independent_computation(
    operation: str, expected: Callable[[list[int]], int]
) -> None:
    """Catches a wrong operation or prompt: the numbers are read back from the prompt's words."""
    problems = load_problems(
        task(operation, kind="arithmetic", operation=operation, operands=3, high=60), "train", 40, 0
    )
    for problem in problems:
        words = content(problem).replace(",", " ").replace("?", " ").split()
        numbers = [int(word) for word in words if word.isdigit()]
        assert len(numbers) == 3
        assert int(problem.answer) == expected(numbers)
        if operation in ("largest", "smallest"):
            assert len(set(numbers)) == 3


ADDITION_CASES = [
    ("46", True, "ok"),
    (" 46\n", True, "ok"),
    ("046", False, "ok"),
    ("460", False, "ok"),
    ("46+", False, "no_answer"),
    ("45 46", False, "no_answer"),
    ("", False, "no_answer"),
    ("٤٦", False, "no_answer"),
]


@pytest.mark.parametrize(("text", "correct", "status"), ADDITION_CASES)
def test_addition_takes_the_whole_response(text: str, correct: bool, status: str) -> None:
    """Catches a grader that finds the answer somewhere in a list of guesses."""
    verdict = grade(task("addition"), Problem("12+34", "12+34=", "46", "test"), text)
    assert (verdict.correct, verdict.status) == (correct, status)


CHAT_CASES = [
    ("The answer is 46.", "last", True),
    ("12 + 34 = 46", "last", True),
    ("46, because 12 + 34", "last", False),
    ("46, because 12 + 34", "first", True),
    ("46.0", "last", True),
    ("46.5", "last", False),
    ("-46", "last", False),
    ("40-46", "last", True),
    ("1,046", "last", False),
    ("**46**", "last", True),
    ("x46", "last", False),
    ("9" * 6000, "last", False),
]


@pytest.mark.parametrize(("text", "extract", "correct"), CHAT_CASES)
def test_chat_answer_is_one_number_of_the_response(text: str, extract: str, correct: bool) -> None:
    """Catches reading part of a number (46.5, 1,046) or the wrong end of the response."""
    problem = Problem("s", [], "46", "test", {"extract": extract})
    assert grade(WORDS, problem, text).correct is correct


def test_thousands_are_read_and_words_alone_are_no_answer() -> None:
    """Catches 1,234 read as 234 and a silent 'wrong' where there was nothing to grade."""
    problem = Problem("s", [], "1234", "test", {})
    assert grade(WORDS, problem, "It is 1,234.").correct
    for written in ("$1{,}234$", "1\\,234", "1,\\!234", "1~234"):
        assert grade(WORDS, problem, f"It is {written}.").correct
        assert not grade(WORDS, replace(problem, answer="234"), f"It is {written}.").correct
    assert not grade(WORDS, problem, "It is −1234.").correct
    assert grade(WORDS, problem, "I do not know.").status == "no_answer"


@pytest.mark.parametrize(
    ("split", "count", "options", "part"),
    [
        ("dev", 1, {}, "no split 'dev'"),
        ("train", 10, {"digit": 3}, "unknown option 'digit'"),
        ("train", 10, {"splits": {"train": 0.9}}, "sum to 1"),
        ("test", 5000, {}, "the test split has"),
        ("train", None, {"digits": 6}, "too large to list"),
        ("train", 10, {"digits": 0}, "digits"),
    ],
)
def test_mistakes_are_named(
    split: str, count: int | None, options: dict[str, Any], part: str
) -> None:
    """Catches a misspelt option that is ignored and a short list where more was asked for."""
    with pytest.raises(PipelineError, match=part) as caught:
        load_problems(task("addition", **options), split, count, 0)
    assert "\n" not in str(caught.value)
