"""Chains of differences: wrong lessons, test problems among the lessons, lenient grading."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from pipeline.errors import PipelineError
from pipeline.tasks import Problem, grade, load_problems, reward_function, training_rows
from pipeline.tasks.differences import DIFFERENCES_ALPHABET
from tests.tasks.make import task

SPLITS = ("lessons", "train", "validation", "test")
SHORT: dict[str, Any] = {"digits": 4}  # 10,000 problems: few enough to list


def by_hand(digits: str) -> str:
    """The distances of a row of digits, by subtracting on the larger side."""
    at, found = int(digits[0]), ""
    for digit in digits[1:]:
        at = at - int(digit) if at >= int(digit) else int(digit) - at
        found += str(at)
    return found


def test_the_example_of_the_documentation() -> None:
    """Catches another rule than the one that is documented, which by_hand might share."""
    assert by_hand("739152") == "45411"


@pytest.mark.parametrize("split", SPLITS)
def test_every_answer_and_lesson_is_right(split: str) -> None:
    """Catches a wrong reference, and a wrong response among those that the model learns from."""
    for problem in load_problems(task("differences"), split, 2000, 0):
        assert problem.prompt == f"{problem.id}="
        assert len(problem.id) == 6
        assert problem.answer == by_hand(problem.id)[-1]
        if split == "lessons":
            assert problem.lesson in (problem.answer, f">{by_hand(problem.id)}")
            assert set(f"{problem.prompt}{problem.lesson}") <= set(DIFFERENCES_ALPHABET)
            assert grade(task("differences"), problem, problem.lesson or "").correct
        else:
            assert problem.lesson is None


def test_splits_cover_all_rows_once_and_keep_twins_together() -> None:
    """Catches a problem of RL, validation or test (or its twin) that the lessons gave away."""
    where = {
        problem.id: split
        for seed, split in enumerate(SPLITS)
        for problem in load_problems(task("differences", **SHORT), split, None, seed)
    }
    sizes = [len(load_problems(task("differences", **SHORT), split, None, 7)) for split in SPLITS]
    assert sum(sizes) == len(where) == 10**4
    for a, b, *rest in itertools.product("0123456789", repeat=4):
        assert where["".join([a, b, *rest])] == where["".join([b, a, *rest])]


def test_drawn_splits_are_disjoint() -> None:
    """Catches a leak where problems are too many to list, as in the tiny experiment."""
    found = [{p.id for p in load_problems(task("differences"), split, 3000, 0)} for split in SPLITS]
    for one, other in itertools.combinations(found, 2):
        assert one.isdisjoint(other)


def test_lessons_are_worked_out_in_their_share_and_always_the_same_way() -> None:
    """Catches a way of responding that depends on the draw: one problem taught in two ways."""
    lessons = {
        p.id: p.lesson for p in load_problems(task("differences", **SHORT), "lessons", None, 0)
    }
    again = {p.id: p.lesson for p in load_problems(task("differences", **SHORT), "lessons", 900, 5)}
    assert all(lessons[name] == lesson for name, lesson in again.items())
    for share in (0.0, 0.3, 1.0):
        some = load_problems(task("differences", worked_out=share, **SHORT), "lessons", None, 0)
        assert abs(sum(len(p.lesson or "") > 1 for p in some) / len(some) - share) < 0.03
    assert (
        load_problems(task("differences"), "lessons", 50, 3)
        == load_problems(task("differences"), "lessons", 60, 3)[:50]
    )


CASES = [
    ("1", True, "ok"),
    (">45411", True, "ok"),
    (" 1\n", True, "ok"),
    (">99991", True, "ok"),  # only the answer is judged
    ("2", False, "ok"),
    (">45412", False, "ok"),
    (">1", False, "no_answer"),
    (">4541", False, "no_answer"),  # cut off at a distance that happens to be right
    (">454111", False, "no_answer"),
    ("45411", False, "no_answer"),
    ("01", False, "no_answer"),
    (">>5411", False, "no_answer"),
    ("1=1", False, "no_answer"),
    ("1\n1", False, "no_answer"),
    ("", False, "no_answer"),
    ("١", False, "no_answer"),
]


@pytest.mark.parametrize(("text", "correct", "status"), CASES)
def test_the_answer_or_all_distances_are_graded(text: str, correct: bool, status: str) -> None:
    """Catches a grader that takes a list of guesses, or a chain that stops where it suits."""
    problem = Problem("739152", "739152=", "1", "test", {"distances": 5})
    verdict = grade(task("differences"), problem, text)
    assert (verdict.correct, verdict.status) == (correct, status)


def test_the_reward_is_the_grade() -> None:
    """Catches a reward that loses what the grader needs on its way through the data set."""
    rows = training_rows(load_problems(task("differences"), "train", 3, 0))
    columns = {key: [row[key] for row in rows] for key in ("answer", "meta")}
    texts = [f">{by_hand(rows[0]['problem_id'])}", rows[1]["answer"], ">1"]
    rewards = reward_function(task("differences"))(
        [row["prompt"] for row in rows], texts, **columns
    )
    assert rewards == [1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("split", "count", "options", "part"),
    [
        ("dev", 1, {}, "no split 'dev'"),
        ("train", 1, {"digits": 1}, "options.digits must be >= 2"),
        ("train", 1, {"worked_out": 1.5}, "options.worked_out"),
        ("train", 1, {"steps": 0.1}, "unknown option 'steps'"),
        ("train", None, {}, "too large to list"),
        ("test", 50, {"digits": 2}, "the test split has"),
    ],
)
def test_mistakes_are_named(
    split: str, count: int | None, options: dict[str, Any], part: str
) -> None:
    """Catches a value out of range that would make an empty or endless task."""
    with pytest.raises(PipelineError, match=part) as caught:
        load_problems(task("differences", **options), split, count, 0)
    assert "\n" not in str(caught.value)
