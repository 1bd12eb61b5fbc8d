"""Several processes on one extrapolation, as torchrun and srun start them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.artifacts import read_json, read_jsonl
from tests.conftest import ROOT, on_checkpoints, pipeline_command, run_pipeline

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
EXTRAPOLATE = "stages=[weight_extrap]"


def step(rank: int, world: int = 2) -> dict[str, str]:
    """What srun tells a task."""
    return {"SLURM_STEP_ID": "0", "SLURM_PROCID": str(rank), "SLURM_NTASKS": str(world)}


@pytest.fixture
def arguments(pico_run: Path, tmp_path: Path) -> list[str]:
    """A run directory whose snapshot stage is done."""
    run_dir = tmp_path / "run"
    given = [*on_checkpoints(pico_run), "weight_extrap.targets=[8,12]", f"run.dir={run_dir}"]
    for folder in (run_dir, tmp_path / "alone"):
        done = run_pipeline(*given, f"run.dir={folder}", "stages=[snapshot]")
        assert done.returncode == 0, done.stderr
    done = run_pipeline(*given, f"run.dir={tmp_path / 'alone'}", EXTRAPOLATE)
    assert done.returncode == 0, done.stderr
    return given


def same_as_alone(tmp_path: Path) -> None:
    files = [
        {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}
        for root in (tmp_path / name / "weight_extrap/two_point" for name in ("run", "alone"))
    ]
    assert files[0] == files[1]


def test_two_processes_under_torchrun(arguments: list[str], tmp_path: Path) -> None:
    """Would catch ranks that run the pipeline twice, speak twice, or write other bytes than one."""
    command = [sys.executable, *TORCHRUN, *pipeline_command(*arguments, EXTRAPOLATE)[1:]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("[weight_extrap] starts") == 1
    assert done.stdout.count("[weight_extrap] done in") == 1
    assert done.stderr.count("extrapolate: 100%") == 1
    same_as_alone(tmp_path)
    assert read_json(tmp_path / "run/weight_extrap/done.json")["stage"] == "weight_extrap"
    rows = read_jsonl(tmp_path / "run/metrics.jsonl")
    assert [row["stage"] for row in rows] == ["snapshot", "weight_extrap"]
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("done already, skipped") == 1
    assert len(read_jsonl(tmp_path / "run/metrics.jsonl")) == 2


def test_tasks_of_a_step_may_come_late(arguments: list[str], tmp_path: Path) -> None:
    """Would catch a task that needs the first to be there first, or hangs when all is done."""
    command = pipeline_command(*arguments, EXTRAPOLATE)
    early = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **step(1)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while early.poll() is None and not list((tmp_path / "run").rglob(".meet.1")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    first = run_pipeline(*arguments, EXTRAPOLATE, **step(0))
    assert first.returncode == 0, first.stderr
    assert early.communicate(timeout=60) == ("", "")
    assert early.returncode == 0
    same_as_alone(tmp_path)
    late = run_pipeline(*arguments, EXTRAPOLATE, **step(1))
    assert (late.returncode, late.stdout, late.stderr) == (0, "", "")


REFUSED = {
    "stages=[snapshot,weight_extrap]": ("snapshot runs in one process", "stages=[weight_extrap]"),
    "weight_extrap.write=false": ("weight_extrap.write=false", "start one"),
    "": ("run.dir", "where to meet"),
}


@pytest.mark.parametrize("change", REFUSED)
@pytest.mark.parametrize("rank", [0, 1])
def test_what_cannot_be_shared_is_refused_in_one_line(
    change: str, rank: int, tmp_path: Path
) -> None:
    """Would catch two processes that train, or extrapolate in two directories."""
    given = [change, f"run.dir={tmp_path / 'run'}"] if change else []
    done = run_pipeline("+experiment=from_checkpoints", EXTRAPOLATE, *given, **step(rank))
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert all(words in line for words in REFUSED[change])
    assert not (tmp_path / "run").exists()


def test_one_task_and_a_batch_script_are_alone(pico_run: Path, tmp_path: Path) -> None:
    """Would catch a job script that waits for tasks which nobody started."""
    arguments = [*on_checkpoints(pico_run), "stages=[snapshot]"]
    script = {key: value for key, value in step(0, 4).items() if key != "SLURM_STEP_ID"}
    for name, environment in {"script": script, "task": step(0, 1)}.items():
        done = run_pipeline(*arguments, f"run.dir={tmp_path / name}", **environment)
        assert done.returncode == 0, done.stderr
