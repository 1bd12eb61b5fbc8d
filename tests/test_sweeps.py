"""Sweeps as a user starts them: equal work is done once, and the same command continues."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from pipeline.artifacts import read_json
from tests.conftest import PICO, ROOT, WARM, on_checkpoints, pipeline_command, run_pipeline
from tests.test_turns import holder

TARGETS = (5, 6, 8)
STAGES = "stages=[sft_train,rl_train,snapshot,weight_extrap]"


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        pipeline_command("--multirun", *arguments),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def end(process: subprocess.Popen[str], code: int = 0) -> str:
    said, _ = process.communicate(timeout=300)
    assert process.returncode == code, said
    return said


def times(root: Path) -> Mapping[Path, int]:
    """When each artefact was written: of all but what says that a process was there."""
    lively = ("config.yaml", "status.json", "sweep.json", "multirun.yaml", ".lock")
    return {
        path: path.stat().st_mtime_ns
        for path in root.rglob("*")
        if path.is_file() and path.name not in lively
    }


def test_two_that_start_together_train_once(tmp_path: Path, pico_cache: Path) -> None:
    """Would catch jobs that each train, two processes of one command in two folders or in each
    other's way, and a second call that does anything again."""
    arguments = [*PICO, STAGES, f"run.cache={pico_cache}", "weight_extrap.targets=[5],[6],[8]"]
    both = [start(tmp_path, *arguments) for _ in range(2)]
    said = "".join(end(process) for process in both)
    assert said.count("[rl_train] starts") == 1
    assert said.count("[snapshot] starts") == 1
    assert said.count("[weight_extrap] starts") == len(TARGETS)
    (sweep,) = (p for p in (tmp_path / "outputs/pico/multirun").iterdir() if p.name[0] != ".")
    assert len(list(sweep.rglob("rl_train-*/metrics.jsonl"))) == 1
    for number, target in enumerate(TARGETS):
        folder = sweep / str(number) / "weight_extrap" / "two_point"
        assert [path.name for path in folder.glob("step_*")] == [f"step_{target}"]
        assert read_json(folder / f"step_{target}" / "extrapolation.json")["target"] == target
        assert (sweep / str(number) / "rl_train" / "metrics.jsonl").exists()
    (entry,) = (sweep / "shared").glob("rl_train-*")
    recorded = read_json(sweep / "2" / "snapshot" / "trajectory.json")["checkpoints"]
    assert str(entry) in {str(Path(each["path"]).parents[1]) for each in recorded}
    assert read_json(sweep / "sweep.json")["jobs"][1] == ["weight_extrap.targets=[6]"]
    before = times(sweep)
    again = end(start(tmp_path, *arguments))
    assert again.count("skipped") == 4 * len(TARGETS)
    assert "starts" not in again
    assert times(sweep) == before


@pytest.fixture(scope="module")
def finished(pico_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two jobs on finished checkpoints; treat it as read-only."""
    sweep = tmp_path_factory.mktemp("finished") / "sweep"
    done = WARM.run(["--multirun", *arguments(pico_run, sweep)], sweep.parent)
    assert done.returncode == 0, done.stderr
    return sweep


def arguments(pico_run: Path, sweep: Path) -> list[str]:
    stages = "stages=[snapshot,weight_extrap]"
    return [*on_checkpoints(pico_run), stages, f"run.dir={sweep}", "weight_extrap.targets=[5],[7]"]


def test_run_dir_is_the_sweeps_folder(finished: Path) -> None:
    """Would catch jobs that all work in run.dir, the later ones over the earlier ones."""
    assert {path.name for path in finished.iterdir() if path.is_dir()} == {"0", "1", "shared"}
    assert len(list((finished / "shared").glob("snapshot-*"))) == 1


def test_a_killed_owner_is_taken_over(finished: Path, pico_run: Path, tmp_path: Path) -> None:
    """Would catch a sweep that waits for a process that was killed in the middle of shared work,
    or that takes what it left for finished."""
    sweep = Path(shutil.copytree(finished, tmp_path / "sweep", symlinks=True))
    (entry,) = (sweep / "shared").glob("snapshot-*")
    (entry / "done.json").unlink()
    (entry / "trajectory.json").unlink()
    turns = sweep / "shared" / "turns" / entry.name
    with holder(turns) as process:
        run = start(tmp_path, *arguments(pico_run, sweep))
        assert run.stdout is not None
        lines = iter(run.stdout.readline, "")
        waits = next(line for line in lines if line.startswith("[snapshot] waits"))
        assert f"process {process.pid} on" in waits
        assert read_json(sweep / "0" / "status.json")["state"] == "waits"
        process.send_signal(signal.SIGKILL)
        process.wait()
        said = end(run)
    assert said.count("[snapshot] resumes") == 1
    assert (entry / "trajectory.json").exists()
    assert len(list((sweep / "shared").glob("snapshot-*"))) == 1


def test_a_job_run_alone_keeps_its_shared_stages(
    finished: Path, pico_run: Path, tmp_path: Path
) -> None:
    """Would catch a run in a job's folder that writes into what the other jobs read."""
    sweep = Path(shutil.copytree(finished, tmp_path / "sweep", symlinks=True))
    before = times(sweep / "1")
    entries = {path: times(path) for path in (sweep / "shared").glob("weight_extrap-*")}
    alone = arguments(pico_run, sweep / "0")[:-1]
    done = run_pipeline(*alone, "weight_extrap.targets=[5,6]")
    assert done.returncode == 0, done.stderr
    assert "[snapshot] done already" in done.stdout
    assert {p.name for p in (sweep / "0/weight_extrap/two_point").iterdir()} == {"step_5", "step_6"}
    assert times(sweep / "1") == before
    assert {path: times(path) for path in entries} == entries
