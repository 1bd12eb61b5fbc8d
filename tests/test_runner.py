"""Where a run lives, what is skipped, and what happens to results of other settings."""

from __future__ import annotations

import fcntl
import os
import shutil
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipeline import records, runner
from pipeline.artifacts import read_json, write_json
from pipeline.errors import PipelineError
from pipeline.stages.base import Context
from tests.conftest import WARM, on_checkpoints, run_pipeline
from tests.stages.contexts import context_of


@pytest.fixture
def source(pico_run: Path) -> list[str]:
    """Arguments for a run of seconds on finished checkpoints."""
    return [*on_checkpoints(pico_run), "stages=[snapshot,weight_extrap]"]


def run_in(folder: Path, *arguments: str) -> str:
    done = WARM.run(arguments, folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_run_dir_the_same_command_goes_on(source: list[str], tmp_path: Path) -> None:
    """Would catch a rerun that starts anew, or one that picks up a run of other settings."""
    run_in(tmp_path, *source)
    (first,) = (tmp_path / "outputs" / "from_checkpoints").iterdir()
    again = run_in(tmp_path, *source)
    assert str(first) in again
    assert again.count("skipped") == 2
    # The name of the folder is the second it starts in, so take the other one out of the way.
    first.rename(first.with_name("2000-01-01_00-00-00"))
    other = run_in(tmp_path, *source, "weight_extrap.targets=[7]")
    assert "skipped" not in other
    assert len(list((tmp_path / "outputs" / "from_checkpoints").iterdir())) == 2


def test_other_settings_set_the_old_results_aside(source: list[str], tmp_path: Path) -> None:
    """Would catch old and new results that mix, or old ones that are deleted."""
    run_dir = tmp_path / "run"
    arguments = [*source, f"run.dir={run_dir}"]
    run_in(tmp_path, *arguments, "weight_extrap.targets=[5]")
    old = read_json(run_dir / "snapshot" / "trajectory.json")
    paths = {item["step"]: item["path"] for item in old["checkpoints"] if item["step"] < 5}
    chosen = ", ".join(f"{step}: {path}" for step, path in paths.items() if step)
    said = run_in(
        tmp_path,
        *arguments,
        "weight_extrap.targets=[6]",
        f"snapshot.checkpoints={{{chosen}}}",
        "snapshot.source=null",
        "extrapolation.last=4",
    )
    assert "kept in" in said
    assert read_json(run_dir / "stale" / "snapshot-1" / "trajectory.json") == old
    assert read_json(run_dir / "snapshot" / "trajectory.json")["steps"] == [0, 1, 2, 3, 4]
    folder = run_dir / "weight_extrap" / "two_point"
    assert {path.name for path in folder.iterdir()} == {"step_5", "step_6"}


def test_a_half_done_stage_is_not_taken_for_done(source: list[str], tmp_path: Path) -> None:
    """Would catch a stage skipped because its folder is there."""
    run_dir = tmp_path / "run"
    arguments = [*source, f"run.dir={run_dir}"]
    run_in(tmp_path, *arguments)
    done = read_json(run_dir / "weight_extrap" / "done.json")
    write_json(run_dir / "weight_extrap" / "started.json", {"key": done["key"]})
    (run_dir / "weight_extrap" / "done.json").unlink()
    said = run_in(tmp_path, *arguments)
    assert "[snapshot] done already" in said
    assert "[weight_extrap] resumes" in said
    assert read_json(run_dir / "weight_extrap" / "done.json")["key"] == done["key"]


def test_a_deleted_artefact_is_made_again(source: list[str], tmp_path: Path) -> None:
    """Would catch a stage that counts as done although its artefact is gone."""
    arguments = [*source, f"run.dir={tmp_path / 'run'}", "stages=[snapshot,report]"]
    run_in(tmp_path, *arguments)
    (tmp_path / "run" / "report" / "index.html").unlink()
    said = run_in(tmp_path, *arguments)
    assert "[snapshot] done already" in said
    assert (tmp_path / "run" / "report" / "index.html").exists()


def test_a_changed_checkpoint_is_seen(source: list[str], tmp_path: Path, pico_run: Path) -> None:
    """Would catch a trajectory that is trusted although a file behind it has changed."""
    copy = tmp_path / "snapshots"
    shutil.copytree(pico_run / "rl_train" / "snapshots", copy)
    arguments = [*source, f"snapshot.source={copy}", f"run.dir={tmp_path / 'run'}"]
    run_in(tmp_path, *arguments)
    shutil.copy(copy / "step_5" / "model.safetensors", copy / "step_6" / "model.safetensors")
    said = run_in(tmp_path, *arguments)
    assert "[snapshot] was made with other settings" in said
    assert "[weight_extrap] done already" not in said


def test_two_processes_in_one_run_directory(source: list[str], tmp_path: Path) -> None:
    """Would catch two runs that write over each other."""
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    with open(run_dir / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = run_pipeline(*source, f"run.dir={run_dir}")
    assert done.returncode == 1
    assert "another pipeline works here" in done.stderr
    assert [path.name for path in run_dir.iterdir()] == [".lock"]


def test_memory_of_a_gpu_is_free_for_the_next_stage(
    long_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch what a stage leaves on a GPU (the probe of hidden states, training in this
    process): vLLM's engine of the next stage finds less than its share free, and does not start."""
    left: list[weakref.ref[list[object]]] = []

    class Model(list[object]):
        """Something that a weak reference can be had of."""

    def work(context: Context) -> dict[str, object]:
        model = Model()
        model.append(model)  # as a trainer and its model hang on each other
        left.append(weakref.ref(model))
        return {}

    emptied: list[bool] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(left[0]() is None))
    context = context_of(long_run)
    stage: Any = SimpleNamespace(run=work, plan=lambda context: "")
    status: Any = SimpleNamespace(stage=lambda name: None)
    job = runner._Work(context, status, None)
    runner._make(job, stage, records.record(context, "report"), "run")
    assert emptied == [True]


@pytest.fixture
def long_run(pico_run: Path, tmp_path: Path) -> Path:
    """A finished run whose stages are said to have taken a second, and training two hours."""
    run_dir = Path(shutil.copytree(pico_run, tmp_path / "long"))
    for path in run_dir.glob("*/done.json"):
        seconds = 7200.0 if path.parent.name == "rl_train" else 1.0
        write_json(path, {**read_json(path), "seconds": seconds})
        started = path.with_name("started.json")
        write_json(started, {**read_json(started), "since": path.stat().st_mtime - 1})
    return run_dir


def states(run_dir: Path, *stages: str, **values: object) -> dict[str, str]:
    """What would become of each stage."""
    context = context_of(run_dir, stages=list(stages), **values)
    plans = runner._plan(context, [(name, records.load_stage(name)) for name in stages])
    return {name: state for name, state, _ in plans}


RL = ("sft_train", "rl_train")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rl_train__checkpoint_every", 3),
        ("rl_train__snapshot_every", 2),  # all that is asked for is there
        ("rl_train__steps", 5),
        ("compute__threads", 2),
        ("compute__vllm_memory", 0.1),
        ("model__dtype", "bfloat16"),
        ("model__attention", "eager"),
        ("algorithm__micro_batch", 8),
        ("engine__gpu_memory_utilization", 0.1),
        ("tracking__mode", "offline"),
    ],
)
def test_what_decides_nothing_leaves_a_run_done(long_run: Path, key: str, value: object) -> None:
    """Would catch hours of training set aside for a value that changes no number of it."""
    assert states(long_run, *RL, **{key: value}) == dict.fromkeys(RL, "done")


def test_more_steps_are_a_continuation(long_run: Path) -> None:
    """Would catch a longer run that trains its first steps again."""
    assert states(long_run, *RL, rl_train__steps=9) == {"sft_train": "done", "rl_train": "resume"}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"algorithm__learning_rate": 2e-4}, r"algorithm\.learning_rate: 0\.0001 → 0\.0002"),
        ({"sft_train__steps": 90}, r"sft_train\.steps: 80 → 90"),  # of the stage before it
        ({"algorithm__lr_schedule": "cosine"}, r"algorithm\.lr_schedule: constant → cosine, rl_t"),
        ({"rl_train__snapshot_dtype": "bfloat16"}, r"float32 → bfloat16"),
        ({"seed": 1}, r"seed: 0 → 1"),
    ],
)
def test_hours_of_work_are_not_set_aside_unasked(
    long_run: Path, changed: dict[str, object], said: str
) -> None:
    """Would catch work that is thrown away for a slip, and a refusal that names no value."""
    with pytest.raises(PipelineError, match=rf"rl_train: 2 h of work.*{said}") as caught:
        states(long_run, *RL, **changed)
    assert "run.discard=true" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert states(long_run, *RL, **changed, run__discard=True)["rl_train"] == "stale"


def test_steps_under_another_schedule_and_snapshots_between_the_written_ones(
    long_run: Path,
) -> None:
    """Would catch a run that continues although its first part would have been another, or that
    counts as done without a snapshot that is asked for."""
    shutil.rmtree(long_run / "rl_train" / "snapshots" / "step_1")
    with pytest.raises(PipelineError, match=r"snapshot_every=1: no snapshot of step 1"):
        states(long_run, *RL)
    assert states(long_run, *RL, rl_train__snapshot_every=2)["rl_train"] == "done"
    shutil.rmtree(long_run / "rl_train" / "checkpoints")
    with pytest.raises(PipelineError, match=r"no checkpoint of at most rl_train\.steps=8 is left"):
        states(long_run, *RL, rl_train__snapshot_every=2, rl_train__steps=8)


def test_begun_work_counts_from_its_beginning(long_run: Path) -> None:
    """Would catch a run of hours that was killed before its end, and is thrown away."""
    folder = long_run / "rl_train"
    (folder / "done.json").unlink()
    started = read_json(folder / "started.json")
    newest = max(path.stat().st_mtime for path in folder.rglob("*"))
    write_json(folder / "started.json", {**started, "since": newest - 1800})
    os.utime(folder / "started.json", (newest, newest))
    with pytest.raises(PipelineError, match="rl_train: 30 min of work"):
        states(long_run, *RL, seed=1)
    assert states(long_run, *RL, rl_train__steps=9)["rl_train"] == "resume"


def test_a_refusal_changes_nothing(long_run: Path) -> None:
    """From the command line: one line, exit code 1, every file as it was."""
    before = {path: path.stat().st_mtime_ns for path in long_run.rglob("*")}
    arguments = ["+experiment=pico", "tracking.mode=disabled", f"run.dir={long_run}"]
    done = run_pipeline(*arguments, "algorithm.learning_rate=2e-4", "stages=[sft_train,rl_train]")
    assert done.returncode == 1
    assert "algorithm.learning_rate: 0.0001 → 0.0002" in done.stderr
    assert done.stderr.count("\n") == 1
    assert before == {path: path.stat().st_mtime_ns for path in long_run.rglob("*")}


def test_a_record_of_an_earlier_version(long_run: Path) -> None:
    """Would catch a run of an earlier version that crashes the plan, or is taken for something."""
    for name in ("started.json", "done.json"):
        path = long_run / "rl_train" / name
        kept = {k: v for k, v in read_json(path).items() if k in ("stage", "seconds", "finished")}
        write_json(path, {**kept, "key": "0" * 64, "inputs": {"sft_train": "0" * 64}})
    with pytest.raises(PipelineError, match="an earlier version made it"):
        states(long_run, *RL)


def test_another_export_keeps_the_trajectory(long_run: Path) -> None:
    """Would catch everything behind the trajectory made again for a folder beside it."""
    stages = ("snapshot", "linear_probe")
    found = states(long_run, *stages, snapshot__export=[2])
    assert found["snapshot"] == "resume"
    context = context_of(long_run, snapshot__export=[2])
    assert records.record(context, "linear_probe").key == context.done_key("linear_probe")
