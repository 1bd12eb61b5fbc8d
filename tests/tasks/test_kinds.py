"""Every kind of task from its example: the row is read, posed as stated, graded and rewarded."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, dataclass, replace
from pathlib import Path

import pytest

from pipeline import tasks
from pipeline.tasks import DatasetConfig, Problem, TaskConfig, load_problems, reward_function
from pipeline.tasks.registry import KINDS
from pipeline.tasks.rewards import training_rows
from tests.conftest import ROOT
from tests.tasks.make import needs_ifeval, task
from tests.tasks.shared import content


def example_task(name: str, folder: Path) -> TaskConfig:
    """The task that the example of a kind is of, its record in a file of its own."""
    if name == "reasoning_gym":
        pytest.importorskip("reasoning_gym")
    if name == "ifeval":
        needs_ifeval()
    example = KINDS[name].example
    file = None
    if example.record is not None:
        file = folder / "rows.jsonl"
        file.write_text(json.dumps(example.record) + "\n")
    options = dict(example.options)
    if "sandbox" in KINDS[name].schema.__dataclass_fields__:
        options["sandbox"] = "none"  # whether bubblewrap is here is not the question
    return task("example", kind=name, dataset=file, **options)


def find(asked: TaskConfig) -> list[Problem]:
    """The problems of all its splits; of an endless kind one."""
    count = 1 if KINDS[asked.kind].endless else None
    splits = [split for split, share in tasks.shares(asked).items() if share]
    return [problem for split in splits for problem in load_problems(asked, split, count, 0)]


@pytest.mark.parametrize("name", KINDS)
def test_the_example_is_posed_and_rewarded_as_it_says(name: str, tmp_path: Path) -> None:
    """Catches an example that says otherwise than the code does, a column that is not read, and a
    reward that differs from the grade."""
    example, asked = KINDS[name].example, example_task(name, tmp_path)
    posed = [
        problem
        for problem in find(asked)
        if example.prompt
        == (problem.prompt if isinstance(problem.prompt, str) else content(problem))
    ]
    (problem,) = posed
    (row,) = training_rows([problem])
    said = [example.right, example.wrong]
    columns = {key: [row[key]] * 2 for key in ("answer", "meta")}
    assert reward_function(asked)([row["prompt"]] * 2, said, **columns) == [1.0, 0.0]


def test_a_key_of_the_prompt_is_one_change() -> None:
    """Catches a list of a task's keys somewhere on the way: a key that is added to TaskConfig, and
    used where it poses, must reach the prompts of every kind."""

    @dataclass
    class Prefixed(TaskConfig):
        answer_prefix: str = ""

        def pose(self, problem: str, default: str = "{problem}", *, chat: bool = True) -> str:
            return f"{super().pose(problem, default, chat=False)}{self.answer_prefix}"

    for kind in ("addition", "arithmetic", "differences"):
        asked = Prefixed(name="t", kind=kind, answer_prefix=" A:")
        (problem,) = load_problems(asked, "test", 1, 0)
        assert str(problem.prompt).endswith(" A:")
    naming = {
        path.name
        for path in (ROOT / "pipeline").rglob("*.py")
        if any(key in path.read_text() for key in ("system_prompt", "prompt_template"))
    }
    assert naming - {"spec.py", "specs.py"} == {"task.py"}  # of training processes


def test_a_task_is_fixed_once_it_is_made() -> None:
    """Catches a stage that changes the task of another one."""
    asked = task("t", kind="math", dataset={"path": "a.jsonl"})
    with pytest.raises(FrozenInstanceError, match=r"TaskConfig\.name is fixed"):
        asked.name = "other"
    with pytest.raises(FrozenInstanceError, match=r"DatasetConfig\.path is fixed"):
        asked.source.path = "other"
    assert replace(asked, name="other").dataset == DatasetConfig(path="a.jsonl")
    assert asked.name == "t"


def test_the_front_door_has_what_it_names() -> None:
    """Catches a name that is no longer where the package looks for it."""
    for names in tasks._NAMES.values():
        for name in names:
            assert getattr(tasks, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'load_problem'"):
        _ = tasks.load_problem
