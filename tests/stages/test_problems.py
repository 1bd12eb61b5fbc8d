"""Problems in the user's own files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline.artifacts import read_json, read_jsonl
from pipeline.subject.problem_sets import evaluation_sets
from pipeline.tasks import load_problems
from tests.conftest import PICO, run_pipeline
from tests.tasks.make import task
from tests.test_configs import composed

ROWS = [{"question": f"{i} + 1?", "gold": i + 1} for i in range(3)]
GOOD = "".join(json.dumps(row) + "\n" for row in ROWS)
COLUMNS = ["problem=question", "answer=gold"]
BAD = {
    "columns": (GOOD, [], "has no column 'problem'; columns: question, gold"),
    "torn": (GOOD[:-8], COLUMNS, "line 3 is not JSON"),
    "few": (GOOD, COLUMNS, "4 problems wanted but the test split has 3"),
}


def test_a_benchmark_that_cannot_be_fetched_is_refused_before_any_training(tmp_path: Path) -> None:
    """Would catch a node without a network that trains for hours and then cannot evaluate."""
    run_dir = tmp_path / "run"
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    arguments = ["+experiment=pico", "+task@eval_tasks.mine=math500", f"run.dir={run_dir}"]
    done = run_pipeline(*arguments, **offline)
    assert done.returncode == 1
    assert "cannot load HuggingFaceH4/MATH-500 from the hub" in done.stderr.splitlines()[-1]
    assert not run_dir.exists()
    assert run_pipeline(*arguments, "dry_run=true", **offline).returncode == 0


@pytest.mark.parametrize("fault", BAD)
def test_a_broken_benchmark_is_refused_before_any_training(tmp_path: Path, fault: str) -> None:
    """Would catch a file that is first opened when hours of training are over."""
    content, columns, message = BAD[fault]
    file, run_dir = tmp_path / "mine.jsonl", tmp_path / "run"
    file.write_text(content)
    done = run_pipeline(
        "+experiment=pico",
        "+task@eval_tasks.mine=math500",
        f"eval_tasks.mine.dataset.path={file}",
        *(f"eval_tasks.mine.dataset.{column}" for column in columns),
        "evaluate.test_problems=4",
        f"run.dir={run_dir}",
    )
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert message in line
    assert not run_dir.exists()


def test_a_task_under_two_keys_is_one() -> None:
    """Would catch its problems asked twice: responses that are never complete."""
    once = composed("+task@eval_tasks.a=aime24", "+task@eval_tasks.b=aime25")
    twice = composed(
        "+task@eval_tasks.a=aime24", "+task@eval_tasks.b=aime25", "+task@eval_tasks.c=aime24"
    )
    assert evaluation_sets(twice) == evaluation_sets(once)


def test_two_prompts_of_a_data_set_pose_the_same_problems(tmp_path: Path) -> None:
    """Would catch a choice of problems that hangs on the task's name, which has to differ."""
    file = tmp_path / "mine.jsonl"
    rows = [{"problem": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(40)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    chosen = [
        [problem.id for problem in load_problems(asked, "test", 7, 0)]
        for asked in (
            task("mine", kind="math", dataset=file, splits={"test": 1.0}),
            task("brief", kind="math", dataset=file, splits={"test": 1.0},
                 prompt_template="{problem} Be brief."),
        )
    ]  # fmt: skip
    assert chosen[0] == chosen[1]


def test_one_task_with_two_prompts_is_evaluated_as_two(pico_run: Path, tmp_path: Path) -> None:
    """Would catch responses to one prompt that count for the other, a third key that doubles a
    task, and a second start that samples again."""
    run_dir = tmp_path / "run"
    shutil.copytree(pico_run, run_dir)
    command = [
        *PICO,
        f"run.dir={run_dir}",
        "stages=[evaluate]",
        "+task@eval_tasks.plain=addition",
        "+task@eval_tasks.swapped=addition",
        "+task@eval_tasks.again=addition",
        *(f"eval_tasks.{key}.options.digits=1" for key in ("plain", "swapped", "again")),
        *(f"eval_tasks.{key}.name=sums" for key in ("plain", "again")),
        "eval_tasks.swapped.name=sums-2",
        "eval_tasks.swapped.prompt_template='={problem}'",
        "evaluate.test_problems=4",
        "evaluate.checkpoints=[4]",
    ]
    done = run_pipeline(*command)
    assert done.returncode == 0, done.stderr
    scores = read_json(run_dir / "evaluate" / "scores.json")
    places = {(row["model"], row["task"], row["split"]) for row in scores["rows"]}
    for model in ("base", "rl-4", "two_point-5"):
        for name in ("sums", "sums-2"):
            assert (model, name, "test") in places
    rows = read_jsonl(run_dir / "evaluate" / "generations.jsonl")
    prompts = {name: {r["prompt"] for r in rows if r["task"] == name} for name in
               ("sums", "sums-2")}  # fmt: skip
    assert prompts["sums"].isdisjoint(prompts["sums-2"])
    compared = {(c["task"], c["model"]) for c in scores["controls"]["comparisons"]}
    assert {name for name, _ in compared} == {"sums", "sums-2"}
    (run_dir / "evaluate" / "done.json").unlink()
    again = run_pipeline(*command)
    assert again.returncode == 0, again.stderr
    assert read_jsonl(run_dir / "evaluate" / "generations.jsonl") == rows
    assert read_json(run_dir / "evaluate" / "scores.json") == scores
