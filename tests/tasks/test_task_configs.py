"""Every conf/task/*.yaml names options that exist, and mistakes are found before anything runs."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.errors import PipelineError
from pipeline.tasks import check_task, load_problems
from tests.tasks.make import task

FOLDER = Path(__file__).resolve().parents[2] / "conf" / "task"
TASKS = {path.stem: yaml.safe_load(path.read_text()) for path in sorted(FOLDER.glob("*.yaml"))}
REAL = {name: task for name, task in TASKS.items() if task["kind"] != "none"}


def arguments(task: dict[str, Any]) -> dict[str, Any]:
    options = dict(task.get("options") or {})
    if "sandbox" in options:
        options["sandbox"] = "none"  # whether bubblewrap is here is not the question
    return {
        "kind": task["kind"],
        "dataset": task.get("dataset"),
        "prompt_template": task.get("prompt_template"),
        **options,
    }


@pytest.mark.parametrize("name", REAL)
def test_task_files_hold_known_options(name: str) -> None:
    """Catches a misspelt option or shares that are no partition in a file of ours."""
    if REAL[name]["kind"] == "reasoning_gym":
        pytest.importorskip("reasoning_gym")
    check_task(task(REAL[name]["name"], **arguments(REAL[name])))


@pytest.mark.parametrize("name", [n for n, t in REAL.items() if not t.get("dataset")])
def test_generated_tasks_have_all_three_splits(name: str) -> None:
    """Catches splits too small to evaluate on: 8 problems of each at least."""
    if REAL[name]["kind"] == "reasoning_gym":
        pytest.importorskip("reasoning_gym")
    for split in ("train", "validation", "test"):
        assert len(load_problems(task(name, **arguments(REAL[name])), split, 8, 0)) == 8


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
