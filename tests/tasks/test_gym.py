"""reasoning-gym tasks: disjoint splits, the package's own scores, a clear error without it."""

import importlib.util
from typing import Any

import pytest

from pipeline.errors import PipelineError
from pipeline.tasks import (
    Problem,
    grade_many,
    gym,
    load_problems,
    reward_function,
    training_rows,
)
from tests.tasks.make import task
from tests.tasks.shared import content

LEGS = task("legs", kind="reasoning_gym")
CONFIG = {"min_animals": 2, "max_animals": 2, "max_instances": 3}
needs_gym = pytest.mark.skipif(
    importlib.util.find_spec("reasoning_gym") is None, reason="reasoning-gym is not installed"
)


def load(split: str, count: int = 30, seed: int = 0, **options: Any) -> list[Problem]:
    options = {"generator": "leg_counting", "config": CONFIG, **options}
    return load_problems(task("legs", kind="reasoning_gym", **options), split, count, seed)


@needs_gym
def test_splits_share_no_question() -> None:
    """Catches splits made by seed alone: small generators repeat questions across seeds."""
    questions = [
        {content(p) for p in load(split, 100, seed)}
        for seed, split in enumerate(["train", "validation", "test"])
    ]
    assert [len(q) for q in questions] == [100, 100, 100]
    assert not (questions[0] & questions[1] | questions[0] & questions[2])
    assert not questions[1] & questions[2]


@needs_gym
def test_references_pass_and_other_answers_fail() -> None:
    """Catches an entry that is made again with another seed or index than the problem's."""
    problems = load("test")
    right = [(p, f"<answer>1</answer> no: <answer>{p.answer}</answer>") for p in problems]
    wrong = [(p, f"<answer>{int(p.answer) + 1}</answer>") for p in problems]
    assert all(g.correct for g in grade_many(LEGS, right))
    assert not any(g.correct for g in grade_many(LEGS, wrong))
    assert grade_many(LEGS, [(problems[0], problems[0].answer)])[0].status == "no_answer"


@needs_gym
def test_the_reward_is_the_grader() -> None:
    """Catches meta data lost between the training set and the reward."""
    problems = load("train", 3)
    rows = training_rows(problems)
    columns = {key: [row[key] for row in rows] for key in ("answer", "meta", "problem_id")}
    said = [f"<answer>{p.answer}</answer>" for p in problems[:2]] + ["<answer>-1</answer>"]
    completions = [[{"role": "assistant", "content": text}] for text in said]
    reward = reward_function(
        task("legs", kind="reasoning_gym", generator="leg_counting", config=CONFIG)
    )
    assert reward([p.prompt for p in problems], completions, **columns) == [1.0, 1.0, 0.0]


@needs_gym
def test_mistakes_are_named() -> None:
    """Catches tracebacks for a wrong name, parameter or an exhausted generator."""
    cases: list[tuple[dict[str, Any], str]] = [
        ({"generator": "no_such"}, "no data set 'no_such'"),
        ({"config": {"legs": 3}}, "options.config"),
        ({"config": {"min_animals": 1, "max_animals": 1, "max_instances": 1}}, "distinct"),
        ({"extract": "regex"}, "options.extract"),
        ({"count": None}, "how many"),
    ]
    for changed, part in cases:
        with pytest.raises(PipelineError, match=part):
            load("test", **changed)


def test_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches an ImportError traceback where the optional package is absent."""
    monkeypatch.setattr(gym, "find_spec", lambda name: None)
    with pytest.raises(PipelineError, match="pip install reasoning-gym"):
        load("train")
