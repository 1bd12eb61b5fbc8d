"""Every conf/task/*.yaml names options that exist, and mistakes are found before anything runs."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import CONF
from pipeline.errors import PipelineError
from pipeline.subject.problem_sets import has_split
from pipeline.tasks import TaskConfig, check_task, load_problems
from tests.tasks.make import needs_ifeval, task
from tests.test_configs import composed

NAMES = [path.stem for path in sorted((CONF / "task").glob("*.yaml")) if path.stem != "none"]
GENERATED = [
    *("addition", "differences", "largest_of_three", "one_digit_product", "one_digit_sum"),
    *("reasoning_gym", "knights_and_knaves", "two_digit_sum"),
]
FIVE_LINES = """\
defaults: [base/maths@_here_, _self_]
name: mine
dataset:
  path: {path}
  problem: question
"""


def real(name: str) -> TaskConfig:
    """The task of a file of ours, without its sandbox: whether bubblewrap is here is not asked."""
    found = composed(f"task={name}").task
    if found.kind == "reasoning_gym":
        pytest.importorskip("reasoning_gym")
    if found.kind == "ifeval":
        needs_ifeval()
    there = {"sandbox"} & found.options.keys()
    return replace(found, options=found.options | dict.fromkeys(there, "none"))


@pytest.mark.parametrize("name", NAMES)
def test_task_files_hold_known_options(name: str) -> None:
    """Catches a misspelt option or shares that are no partition in a file of ours."""
    check_task(real(name))


@pytest.mark.parametrize("name", GENERATED)
def test_generated_tasks_have_all_three_splits(name: str) -> None:
    """Catches splits too small to evaluate on: 8 problems of each at least."""
    asked = real(name)
    for split in ("train", "validation", "test"):
        assert len(load_problems(asked, split, 8, 0)) == 8


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"kind": "maths"}, "unknown kind 'maths'"),
        ({"dataset": None}, r"needs task\.dataset"),
        ({"dataset": {"path": "absent.jsonl"}}, r"absent\.jsonl: no such file"),
        ({"splits": {"test": 0.5}}, "sum to 1"),
        ({"time_limit": 3}, "unknown option 'time_limit'"),
    ],
)
def test_mistakes_are_found_without_loading(changes: dict[str, Any], part: str) -> None:
    """Catches a dry run that says all is well."""
    call = {"kind": "math", "dataset": {"path": "some/hub_id"}, **changes}
    with pytest.raises(PipelineError, match=part):
        check_task(task("t", **call))
    check_task(task("t", kind="math", dataset={"path": "some/hub_id"}))


@pytest.mark.parametrize("key", ["task", "eval_tasks.extra"])
def test_a_data_set_of_ones_own_is_five_lines(key: str, tmp_path: Path) -> None:
    """Catches a base that does not land where the task is put, shares that the base would add to
    those of the file, and a task without shares that is taken to have a validation split."""
    data, conf = tmp_path / "mine.jsonl", tmp_path / "conf" / "task"
    rows = [{"question": f"{i} + 1?", "answer": i + 1} for i in range(40)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    conf.mkdir(parents=True)
    (conf / "mine.yaml").write_text(FIVE_LINES.format(path=data))
    assert len(FIVE_LINES.splitlines()) == 5
    group = "task=mine" if key == "task" else f"+task@{key}=mine"
    place = f"hydra.searchpath=[{conf.parent.as_uri()}]"
    config = composed(place, group)
    found = config.task if key == "task" else config.eval_tasks["extra"]
    assert [has_split(found, split) for split in ("train", "validation", "test")] == [0, 0, 1]
    assert len(load_problems(found, "test", None, 0)) == 40
    mine = composed(place, group, f"+{key}.options.splits={{train: 0.5, validation: 0.5}}")
    dealt = mine.task if key == "task" else mine.eval_tasks["extra"]
    sizes = [len(load_problems(dealt, split, None, 0)) for split in ("train", "validation")]
    assert sum(sizes) == 40
    assert not has_split(dealt, "test")


@pytest.mark.parametrize("name", ["aime26", "hmmt25"])
def test_contests_read_the_columns_of_their_files(name: str, tmp_path: Path) -> None:
    """Catches a column or split of another data set's, and a whole-number answer read as text only:
    the contests' files hold both."""
    rows = [
        {"problem_idx": 1, "problem": "What is $6 \\cdot 7$?", "answer": 42},
        {"problem_idx": 2, "problem": "What is $\\cos 60^\\circ$?", "answer": "\\frac{1}{2}"},
    ]
    data = tmp_path / "contest.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = real(name)
    assert found.dataset is not None
    mine = replace(found, dataset=replace(found.dataset, path=str(data)))
    problems = load_problems(mine, "test", None, 0)
    assert {problem.answer for problem in problems} == {"42", "\\frac{1}{2}"}
    assert all("\\boxed{}" in str(problem.prompt) for problem in problems)
    assert not has_split(mine, "train")


def test_knights_and_knaves_are_puzzles_whose_own_answer_is_right() -> None:
    """Catches another generator under this name, or an answer that its own verifier refuses."""
    gym = pytest.importorskip("reasoning_gym")
    [problem] = load_problems(real("knights_and_knaves"), "test", 1, 0)
    made = gym.create_dataset(problem.meta["dataset"], **problem.meta["config"])
    entry = made[problem.meta["index"]]
    assert made.score_answer(problem.answer, entry) == 1
    assert made.score_answer("Nobody is anything", entry) < 1
    assert "always lie" in str(problem.prompt)
