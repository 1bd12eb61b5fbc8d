r"""Faults caught: equal wrong answers that split a vote though their spelling does not tell, and
looks by math-verify that cannot change anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from pipeline.evaluation.voting import majority
from pipeline.tasks import votes
from pipeline.tasks.votes import merge_votes
from tests.tasks.make import task

TASKS = {
    "maths": task("maths", kind="math", grade_after="</think>", workers=1),
    "sums": task("sums", kind="addition"),
}
WRONG = [r"\sqrt{8}", r"2\sqrt{2}", r"\frac{4}{\sqrt{2}}"]  # one number


def ballot(
    right: int, wrong: Sequence[str | None], name: str = "maths", model: str = "m"
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    predictions: list[str | None] = [*(["7"] * right), *wrong]
    row = {"model": model, "task": name, "split": "test", "problem_id": "p"}
    grades = [
        {"correct": number < right, "prediction": prediction}
        for number, prediction in enumerate(predictions)
    ]
    return [row] * len(grades), grades


def outcome(grades: Sequence[dict[str, Any]]) -> float:
    return majority([g["prediction"] for g in grades], [g["correct"] for g in grades])


def test_the_grader_joins_what_spelling_does_not() -> None:
    rows, grades = ballot(2, [*WRONG, "9", None])
    assert outcome(grades) == 1.0
    merge_votes(rows, grades, TASKS)
    assert outcome(grades) == 0.0
    assert [g["prediction"] for g in grades] == ["7", "7", *[WRONG[0]] * 3, "9", None]


def test_several_ballots_are_apart() -> None:
    """Another model's votes on the same problem are its own."""
    rows, grades = ballot(1, WRONG[:2])
    more, others = ballot(1, ["x+1", "9"], model="n")
    merge_votes([*rows, *more], [*grades, *others], TASKS)
    assert outcome(grades) == 0.0
    assert outcome(others) == pytest.approx(1 / 3)


CERTAIN: dict[str, tuple[int, Sequence[str | None]]] = {
    "right whatever is equal": (4, WRONG),
    "wrong already": (1, ["9", "9", *WRONG]),
    "never right": (0, WRONG),
    "numbers differ for sure": (1, ["1/2", "0.25", "9"]),
    "no answers": (1, [None, None]),
}


@pytest.mark.parametrize("case", CERTAIN)
def test_nothing_is_asked_where_nothing_can_change(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **more: Any) -> None:
        raise AssertionError("asked")

    monkeypatch.setattr(votes, "grade_many", refuse)
    rows, grades = ballot(*CERTAIN[case])
    before = [dict(grade) for grade in grades]
    merge_votes(rows, grades, TASKS)
    assert grades == before


def test_other_kinds_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(votes, "grade_many", None)
    rows, grades = ballot(1, WRONG, name="sums")
    merge_votes(rows, grades, TASKS)
    assert [g["prediction"] for g in grades] == ["7", *WRONG]


def test_many_different_answers_cost_a_limited_number_of_looks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """64 samples that are all different would be 2000 pairs."""
    asked: list[Any] = []

    def count(asker: Any, pairs: Any, **more: Any) -> list[Any]:
        from pipeline.tasks import Grade

        asked.extend(pairs)
        return [Grade(False, "ok")] * len(pairs)

    monkeypatch.setattr(votes, "grade_many", count)
    rows, grades = ballot(1, [f"x+{number}" for number in range(63)])
    merge_votes(rows, grades, TASKS)
    assert len(asked) == votes.MOST * (votes.MOST - 1) // 2
