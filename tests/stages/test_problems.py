"""Problems in the user's own files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import run_pipeline

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
