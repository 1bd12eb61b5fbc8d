"""Only what follows the end of a thought is graded: in every kind, as a reward, by config."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pipeline.errors import PipelineError
from pipeline.subject.problem_sets import evaluation_sets
from pipeline.tasks import Grade, Problem, grade_many, load_problems, reward_function
from pipeline.tasks.problem import after_thought
from pipeline.tasks.registry import KINDS
from pipeline.tasks.rewards import training_rows
from tests.tasks.make import task
from tests.test_configs import composed

THINK = "</think>"
TEXTS = [
    ("<think>maybe \\boxed{1}</think> \\boxed{2}", " \\boxed{2}"),
    ("maybe \\boxed{2}", None),
    ("a</think>\\boxed{1}</think>\\boxed{2}", "\\boxed{2}"),
    ("<think>a</think> so <think> \\boxed{2}", None),
    ("\\boxed{2}</think>", ""),
    ("", None),
]


@pytest.mark.parametrize(("text", "rest"), TEXTS)
def test_what_follows_the_last_thought(text: str, rest: str | None) -> None:
    """Catches drafts that are graded, and an unfinished thought that counts as an answer."""
    assert after_thought(text, THINK) == rest
    assert after_thought(text, None) == text


@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_sees_the_thought(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a grader of some kind (maths, code, gym, arithmetic) that is given the draft."""
    seen: list[str] = []

    def see(task: Any, pairs: Any, options: Any, done: Any) -> list[Grade]:
        seen.extend(text for _, text in pairs)
        return [Grade(True, "ok") for _ in pairs]

    monkeypatch.setitem(KINDS, kind, replace(KINDS[kind], grade=see))
    problem = Problem("p", [], "2", "test")
    finished: list[int] = []
    grades = grade_many(
        task("t", kind=kind, grade_after=THINK),
        [(problem, t) for t, _ in TEXTS],
        done=lambda: finished.append(1),
    )
    assert seen == [rest for _, rest in TEXTS if rest is not None]
    assert [g.status for g in grades] == ["ok" if r is not None else "no_answer" for _, r in TEXTS]
    assert len(finished) == TEXTS.count(TEXTS[1]) + 2  # what is not passed on is done


def test_maths_grades_what_follows() -> None:
    """Catches the mark of the task that does not reach its problems."""
    problem = Problem("p", [], "2", "test")
    grades = grade_many(
        task("m", kind="math", grade_after=THINK), [(problem, text) for text, _ in TEXTS]
    )
    assert [g.correct for g in grades] == [True, False, True, False, False, False]


def test_the_reward_of_a_draft_is_zero() -> None:
    """Catches a reward that pays for the thought while evaluation does not."""
    sums = task("sum", kind="arithmetic", operation="sum", grade_after=THINK)
    (problem,) = load_problems(sums, "train", 1, 0)
    (row,) = training_rows([problem])
    said = [f"{problem.answer}", f"99</think>{problem.answer}", f"{problem.answer}</think>99"]
    columns = {key: [row[key]] * 3 for key in ("answer", "meta")}
    rewards = reward_function(sums)([""] * 3, said, **columns)
    assert rewards == [0.0, 1.0, 0.0]


def test_the_configuration_reaches_training_and_every_evaluated_task() -> None:
    """Catches R1's mark that holds for the training task and not for the benchmarks."""
    for overrides in (
        ["+experiment=qwen_math"],
        ["model=r1_distill_qwen_1_5b", "task=gsm8k", "+task@eval_tasks.aime24=aime24"],
    ):
        config = composed(*overrides)
        assert config.task.grade_after == THINK
        marks = [task.grade_after for task, _, _ in evaluation_sets(config)]
        assert marks
        assert set(marks) == {THINK}
    assert composed("task=gsm8k").task.grade_after is None


def test_an_empty_mark_is_refused() -> None:
    """Catches a mark that is found everywhere."""
    with pytest.raises(PipelineError, match="grade_after is empty"):
        load_problems(task("addition", grade_after=""), "train", 1, 0)


def test_two_different_tasks_of_one_name_are_refused() -> None:
    """Catches responses to one benchmark that are graded against another one of the same name."""
    twice = ["+task@eval_tasks.a=aime24", "+task@eval_tasks.b=aime24"]
    config = composed(*twice, "eval_tasks.b.dataset.path=other.jsonl")
    with pytest.raises(PipelineError, match="two different tasks are named aime24"):
        evaluation_sets(config)
