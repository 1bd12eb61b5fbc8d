"""Faults caught: a resumed run that sees other data, other rollouts or another optimiser state than
an uninterrupted one, that starts from half a checkpoint, or counts a step twice."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.artifacts import append_jsonl, read_jsonl, write_json
from pipeline.errors import PipelineError
from pipeline.training import callbacks
from pipeline.training.checkpoints import MARKER, mark_whole, prepare_output, resumable
from pipeline.training.launch import launch
from pipeline.training.spec import write_spec
from pipeline.training.worker import run
from tests.training.pico import assert_same, changed, rl_spec, sft_spec, timeless, weights

# 8 problems, 4 a step: the run goes three times through them, so the order of data matters
FEW = {"problems": 8}

KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline.training.spec import read_spec
from pipeline.training.worker import run

def kill(row):
    if row["step"] == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

run(read_spec(Path(sys.argv[1])), kill)
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """An uninterrupted run of 6 steps; read-only."""
    output = tmp_path_factory.mktemp("whole")
    run(rl_spec(output, base, **FEW))
    return output


def _equal(output: Path, whole: Path) -> None:
    for step in (2, 4, 6):
        assert_same(output / f"snapshots/step_{step}", whole / f"snapshots/step_{step}")
    ours, theirs = (timeless(read_jsonl(path / "metrics.jsonl")) for path in (output, whole))
    assert ours == theirs


def test_killed_outright_and_started_again(tmp_path: Path, base: Path, whole: Path) -> None:
    spec = rl_spec(tmp_path, base, **FEW)
    write_spec(spec, tmp_path / "spec.json")
    root = Path(callbacks.__file__).parents[2]
    dead = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "spec.json"), "5"], cwd=root, check=False
    )
    assert dead.returncode == -signal.SIGKILL
    found = resumable(spec)
    assert found is not None
    assert found[1] == 4
    launch(spec)
    _equal(tmp_path, whole)


def test_half_a_checkpoint_does_not_count(
    tmp_path: Path, base: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = rl_spec(tmp_path, base, **FEW)

    def die_at_four(folder: Path, step: int) -> None:
        if step == 4:
            raise KeyboardInterrupt
        mark_whole(folder, step)

    monkeypatch.setattr(callbacks, "mark_whole", die_at_four)
    with pytest.raises(KeyboardInterrupt):
        run(spec)
    monkeypatch.undo()
    assert (tmp_path / "checkpoints/checkpoint-8/model.safetensors").exists()
    found = resumable(spec)
    assert found is not None
    assert found[1] == 2
    run(spec)
    _equal(tmp_path, whole)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == [
        "checkpoint-12",
        "checkpoint-8",
    ]


def test_a_finished_run_started_again_changes_nothing(tmp_path: Path, base: Path) -> None:
    spec = rl_spec(tmp_path, base, steps=2)
    run(spec)
    before = (tmp_path / "snapshots/step_2/model.safetensors").stat()
    run(spec)
    after = (tmp_path / "snapshots/step_2/model.safetensors").stat()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)
    assert [row["step"] for row in read_jsonl(tmp_path / "metrics.jsonl")] == [1, 2]


def test_sft_resumes_bit_for_bit(tmp_path: Path, sft_output: Path) -> None:
    spec = sft_spec(tmp_path)

    def stop(row: dict[str, object]) -> None:
        if row["step"] == 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(spec, stop)
    steps: list[object] = []
    run(spec, lambda row: steps.append(row["step"]))
    assert steps == list(range(31, 61))
    assert_same(tmp_path / "model", sft_output / "model")


def test_a_longer_run_continues_a_shorter_one(tmp_path: Path, base: Path, whole: Path) -> None:
    """Would catch steps that are trained again, or other data, rates or draws in the rest."""
    run(rl_spec(tmp_path, base, **FEW, steps=3))
    steps: list[object] = []
    run(rl_spec(tmp_path, base, **FEW), lambda row: steps.append(row["step"]))
    assert steps == [4, 5, 6]
    _equal(tmp_path, whole)


def test_another_micro_batch_resumes_the_same_run(tmp_path: Path, base: Path, whole: Path) -> None:
    """Would catch rows that are skipped or seen twice where a pass takes fewer of them."""
    spec = rl_spec(tmp_path, base, **FEW, steps=4)
    run(spec)
    steps: list[object] = []
    other = changed(spec, steps=6, micro_batch=2, checkpoint_every=3)
    run(other, lambda row: steps.append(row["step"]))
    assert steps == [5, 6]
    ours, theirs = (read_jsonl(path / "metrics.jsonl") for path in (tmp_path, whole))
    assert [row["reward"] for row in ours] == [row["reward"] for row in theirs]
    one, two = (weights(path / "snapshots/step_6") for path in (tmp_path, whole))
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=0, atol=1e-5)


def test_what_a_finished_run_has_is_not_made_again(tmp_path: Path, whole: Path, base: Path) -> None:
    """Would catch snapshots beyond the asked ones removed, or a run that trains for nothing."""
    output = Path(shutil.copytree(whole, tmp_path / "run"))
    before = sorted(path for path in output.rglob("*"))

    def never(row: dict[str, object]) -> None:
        raise AssertionError(row)

    for changes in ({"steps": 4}, {"snapshot_every": 4}, {"steps": 5, "snapshot_every": 4}):
        run(rl_spec(output, base, **FEW, **changes), never)
    assert sorted(path for path in output.rglob("*")) == before


def test_snapshots_between_the_written_ones_are_trained_again(
    tmp_path: Path, whole: Path, base: Path
) -> None:
    """Would catch a finer trajectory with a hole at its beginning."""
    output = Path(shutil.copytree(whole, tmp_path / "run"))
    run(rl_spec(output, base, **FEW, snapshot_every=3))
    names = {path.name for path in (output / "snapshots").iterdir()}
    assert names == {"step_3", "step_6"}
    assert_same(output / "snapshots/step_6", whole / "snapshots/step_6")


def test_leftovers_of_a_kill_are_cleared(tmp_path: Path, base: Path) -> None:
    spec = rl_spec(tmp_path, base)
    prepare_output(spec)
    whole, half = tmp_path / "checkpoints/checkpoint-4", tmp_path / "checkpoints/checkpoint-6"
    snapshots = [tmp_path / "snapshots" / name for name in ("step_2", "step_4", ".step_6.partial")]
    for folder in (whole, half, *snapshots):
        folder.mkdir(parents=True)
    write_json(whole / MARKER, {"step": 2})
    append_jsonl(tmp_path / "metrics.jsonl", [{"step": step} for step in (1, 2, 3)])
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "rew')
    prepare_output(spec)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["checkpoint-4"]
    assert [path.name for path in (tmp_path / "snapshots").iterdir()] == ["step_2"]
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n'


def test_another_spec_inherits_and_removes_nothing(tmp_path: Path, base: Path) -> None:
    spec = rl_spec(tmp_path, base, steps=2)
    run(spec)
    before = sorted(path for path in tmp_path.rglob("*"))
    for other in (changed(spec, temperature=0.5), rl_spec(tmp_path, tmp_path / "snapshots/step_2")):
        with pytest.raises(PipelineError, match="holds a run from another model, data or values"):
            run(other)
    assert sorted(path for path in tmp_path.rglob("*")) == before
