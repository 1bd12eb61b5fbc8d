"""python -m pipeline.status: what it says of runs in every state, from files alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline import progress
from pipeline.artifacts import read_json, write_json
from pipeline.errors import PipelineError
from pipeline.liveness import PATIENCE, Process, this
from pipeline.status.reader import Run, Sweep, active, read, to_json
from pipeline.status.show import show
from pipeline.status.writer import LOG, Status
from pipeline.stopping import Requeue
from tests.conftest import ROOT


def status(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.status", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def run_at(folder: Path, **values: Any) -> Path:
    """A run that has done sft_train and is at rl_train, with other values."""
    folder.mkdir(parents=True)
    base = {
        "name": "pico",
        "stages": ["sft_train", "rl_train", "snapshot"],
        "state": "runs",
        "stage": "rl_train",
        "process": this().to_json(),
        "log": str(folder / "log"),
        "progress": {
            "label": "rl_train", "done": 30, "total": 120, "unit": "step", "seconds_left": 300.0,
        },
    }  # fmt: skip
    write_json(folder / "status.json", {**base, **values})
    write_json(folder / "sft_train" / "done.json", {"seconds": 12.0})
    (folder / "rl_train").mkdir()
    return folder


def only(path: Path) -> Run:
    (found,) = read(path)
    assert isinstance(found, Run)
    return found


DEAD = Process(this().host, this().machine, os.getppid(), 1).to_json()
FAR = Process("far", "far boot ns", 1, 1).to_json()


def test_a_run_at_work(tmp_path: Path) -> None:
    """Would catch a stage, its progress or the time left that is not told."""
    found = only(run_at(tmp_path / "run"))
    assert found.stages == {"sft_train": "done", "rl_train": "runs", "snapshot": "to do"}
    text = show([found])
    assert "rl_train       runs    30/120 step, 25 %, 5 min left" in text
    assert "sft_train      done    12 s" in text
    assert active(found)


def test_a_killed_process_does_not_run(tmp_path: Path) -> None:
    """Would catch a run that seems at work for ever; the log's end may say what killed it."""
    folder = run_at(tmp_path / "run", process=DEAD)
    (folder / "log").write_text("fine\nslurmstepd: error: Detected 1 oom_kill event\n\n")
    found = only(folder)
    assert found.state == "died"
    assert not active(found)
    assert "oom_kill event" in show([found])
    assert f"log: {folder / 'log'}" in show([found])


def test_a_process_elsewhere_is_judged_by_its_signs_of_life(tmp_path: Path) -> None:
    """Would catch a living run of another node that counts as dead, and the other way round."""
    folder = run_at(tmp_path / "run", process=FAR)
    assert only(folder).state == "runs"
    old = time.time() - PATIENCE - 5
    os.utime(folder / "status.json", (old, old))
    assert only(folder).state == "silent"


def test_a_failed_run_says_why(tmp_path: Path) -> None:
    """Would catch a failure without its reason, or with the progress of a run at work."""
    folder = tmp_path / "run"
    folder.mkdir()

    def fail() -> None:
        with Status(folder, "pico", ["rl_train", "snapshot"], {"rl_train": 6}) as writer:
            writer.stage("rl_train")
            writer.step("rl_train", 2)
            raise PipelineError("rl_train: loss is nan\nat step 3")

    with pytest.raises(PipelineError):
        fail()
    found = only(folder)
    assert (found.state, found.stage) == ("failed", "rl_train")
    assert found.error == "rl_train: loss is nan at step 3"
    assert found.progress is None
    assert found.stages == {"rl_train": "failed", "snapshot": "to do"}


@pytest.mark.parametrize(
    ("error", "state", "words"),
    [
        (KeyError("x"), "failed", "KeyError: 'x'"),
        (OSError(28, "No space left on device", "/a/b"), "failed", "/a/b: no space left"),
        (Requeue("stopped by SIGTERM"), "stopped", "stopped by SIGTERM"),
        (KeyboardInterrupt(), "stopped", "KeyboardInterrupt"),
    ],
)
def test_every_end_is_told(tmp_path: Path, error: BaseException, state: str, words: str) -> None:
    """Would catch a bug, a full disk or a pre-emption that leaves a run "at work"."""
    with pytest.raises(type(error)), Status(tmp_path, "pico", ["rl_train"], {}):
        raise error
    found = only(tmp_path)
    assert found.state == state
    assert words in str(found.error)


def test_bars_tell_the_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a stage whose bar moves and whose status does not, and one that writes a file
    at each of thousands of steps."""
    monkeypatch.setenv(LOG, "/logs/1.log")
    with Status(tmp_path, "pico", ["evaluate"], {}) as writer:
        writer.stage("evaluate")
        with progress.bar(1000, "rows", "row") as bar:
            bar.update(10)
            first = read_json(tmp_path / "status.json")
            bar.update(1)
            assert read_json(tmp_path / "status.json") == first
            bar.update(989)
        last = read_json(tmp_path / "status.json")
    assert {**first["progress"], "seconds_left": None} == {
        "label": "rows", "done": 10, "total": 1000, "unit": "row", "seconds_left": None,
    }  # fmt: skip
    assert last["progress"]["done"] == 1000
    assert last["log"] == "/logs/1.log"
    assert only(tmp_path).state == "done"


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A sweep of five jobs: done, at work, waiting, failed, not begun."""
    states: list[dict[str, Any]] = [
        {"state": "done", "stage": None, "progress": None},
        {},
        {"state": "waits", "waits_for": {"process": "process 1 on far", "run": "r/1"}},
        {"state": "failed", "error": "rl_train: no GPU"},
    ]
    folder = tmp_path / "outputs" / "pico" / "multirun" / "2026-01-01_00-00-00"
    jobs = [[f"weight_extrap.targets=[{target}]"] for target in (5, 6, 7, 8, 9)]
    for number, values in enumerate(states):
        run_at(folder / str(number), **values)
    write_json(folder / "sweep.json", {"command": [], "jobs": jobs, "started": 0.0})
    (folder / "shared" / "rl_train-0123456789abcdef").mkdir(parents=True)
    return folder


def test_a_sweep_and_a_folder_of_sweeps(sweep: Path) -> None:
    """Would catch jobs that have not begun left out, and the shared store taken for a run."""
    (found,) = read(sweep)
    assert isinstance(found, Sweep)
    states = ["done", "runs", "waits", "failed", "queued"]
    assert [job.state for job in found.jobs] == states
    assert found.jobs[4].job == "weight_extrap.targets=[9]"
    assert found.counts == dict.fromkeys(states, 1)
    text = show([found])
    assert "made by process 1 on far for r/1" in text
    assert "why: rl_train: no GPU" in text
    assert read(sweep.parents[3]) == [found]
    assert to_json(found)["jobs"][3]["error"] == "rl_train: no GPU"


def test_jobs_of_a_search_are_told_apart(tmp_path: Path) -> None:
    """Would catch jobs without a word on what is tried in them."""
    command = ["+experiment=pico", "evaluate.controls=false", "extrapolation.last=range(3,6)"]
    write_json(tmp_path / "sweep.json", {"command": command, "jobs": None, "started": 0.0})
    given = ["extrapolation.last=4", "+experiment=pico", "evaluate.controls=False"]
    run_at(tmp_path / "0", state="done", given=given)
    (found,) = read(tmp_path)
    assert isinstance(found, Sweep)
    assert [job.job for job in found.jobs] == ["extrapolation.last=4"]


def test_folders_may_have_other_names(tmp_path: Path) -> None:
    """Would catch jobs that count twice, once under their folder's name and once as not begun."""
    jobs = [["seed=1"], ["seed=2"], ["seed=3"]]
    write_json(tmp_path / "sweep.json", {"command": ["seed=1,2,3"], "jobs": jobs, "started": 0.0})
    for seed in (1, 2):
        run_at(tmp_path / f"seed_{seed}", state="done", given=[f"seed={seed}", "+experiment=pico"])
    (found,) = read(tmp_path)
    assert isinstance(found, Sweep)
    assert found.counts == {"done": 2, "queued": 1}
    assert {job.job for job in found.jobs} == {"seed=1", "seed=2", "seed=3"}


def test_the_command_line(sweep: Path) -> None:
    """Would catch a status that takes its time, imports torch, or is no JSON; and mistakes that
    are not one line."""
    done = status(str(sweep), "--json")
    assert done.returncode == 0, done.stderr
    (told,) = json.loads(done.stdout)
    assert told["counts"]["failed"] == 1
    code = "import sys, pipeline.status.__main__; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    loaded = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert not {"torch", "transformers", "wandb", "matplotlib", "numpy"} & set(loaded)
    for arguments, words in (
        ([str(sweep / "nowhere")], "no such folder"),
        ([str(sweep / "shared")], "holds no run"),
        (["--loud", str(sweep)], "--loud: no such option"),
        ([], "no folder given"),
    ):
        refused = status(*arguments)
        assert refused.returncode == 1
        (line,) = refused.stderr.splitlines()
        assert words in line


def test_watching_ends_with_the_last_job(tmp_path: Path) -> None:
    """Would catch a watch that never ends, or one that ends before anything is shown."""
    run_at(tmp_path / "run", state="done", stage=None, progress=None)
    done = status(str(tmp_path), "--watch")
    assert done.returncode == 0
    assert "done" in done.stdout


def test_a_run_of_an_earlier_version(tmp_path: Path) -> None:
    """Would catch a run without status.json that crashes the command, or counts as at work."""
    (tmp_path / "config.yaml").write_text("name: old\n")
    write_json(tmp_path / "snapshot" / "done.json", {"seconds": 1.0})
    assert only(tmp_path).state == "done"
    (tmp_path / "evaluate").mkdir()
    assert only(tmp_path).state == "stopped"
    (tmp_path / "status.json").write_text('{"state": "ru')
    assert only(tmp_path).stages["snapshot"] == "done"
