"""Several processes on one output: would catch a byte that nobody, or two, wrote differently."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import PipelineError
from pipeline.trajectory import plan, share, writer
from pipeline.trajectory.combine import write
from pipeline.trajectory.entries import Entry
from pipeline.trajectory.plan import make_plan
from pipeline.trajectory.rule import make_rule
from pipeline.trajectory.share import Share
from pipeline.trajectory.sources import discover
from tests.trajectory.pico import run_tensors, write_run

RANK = """
import os, signal, sys
from pathlib import Path
from pipeline.errors import PipelineError
from pipeline.trajectory import plan, writer
from pipeline.trajectory.combine import write
from pipeline.trajectory.plan import make_plan
from pipeline.trajectory.rule import make_rule
from pipeline.trajectory.share import Share, telling
from pipeline.trajectory.sources import discover

def stop(*_):
    if sys.argv[4] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    raise PipelineError("no more")

if len(sys.argv) > 4:  # how this rank ends, at its first piece
    writer.ShardFile.write = stop
plan.plan_shards = lambda tensors: writer.plan_shards(tensors, limit=900)
root, out, method = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
targets = {t: out / f"step_{t}" for t in (90, 200)}
share = Share.from_environment()
run = discover(root, None)
with telling([out], share):
    made = make_plan(run, make_rule(method), 0, 60, list(targets), ["*norm*"])
    write(made, targets, share)
"""


def start(rank: int, *arguments: object) -> subprocess.Popen[bytes]:
    """One of two processes, as a launcher starts it."""
    repo = str(Path(__file__).parents[2])
    return subprocess.Popen(
        [sys.executable, "-c", RANK, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": repo, "RANK": str(rank), "WORLD_SIZE": "2"},
        stderr=subprocess.PIPE,
    )


def finish(rank: subprocess.Popen[bytes]) -> None:
    _, errors = rank.communicate()
    assert rank.returncode == 0, errors.decode()


def until(condition: Callable[[], bool], rank: subprocess.Popen[bytes]) -> None:
    """Poll until the condition holds or the process has ended."""
    deadline = time.monotonic() + 60
    while not condition() and rank.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)


@pytest.mark.parametrize("method", ["two_point", "rank1"])
def test_two_ranks_write_the_bytes_of_one(
    tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_run(tmp_path / "run", run_tensors([0, 20, 40, 60]))
    for rank in [start(rank, root, tmp_path / "two", method) for rank in range(2)]:
        finish(rank)
    same_as_alone(tmp_path, root, method, monkeypatch)


def same_as_alone(tmp_path: Path, root: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folders below `two` are, byte for byte, those that one process writes."""
    monkeypatch.setattr(plan, "plan_shards", lambda t: writer.plan_shards(t, limit=900))
    one = {t: tmp_path / f"one/step_{t}" for t in (90, 200)}
    write(make_plan(discover(root, None), make_rule(method), 0, 60, [90, 200], ["*norm*"]), one)
    for step in ("step_90", "step_200"):
        names = sorted(p.name for p in (tmp_path / "one" / step).iterdir())
        assert names == sorted(p.name for p in (tmp_path / "two" / step).iterdir())
        assert sum(name.endswith(".safetensors") for name in names) > 1
        for name in names:
            alone, together = (tmp_path / n / step / name for n in ("one", "two"))
            assert alone.read_bytes() == together.read_bytes(), name
    assert not list((tmp_path / "two").glob(".*"))


def test_what_a_killed_start_left_is_not_taken_for_this_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch a shard that is completed by the marker of a process that is dead: a late rank
    then opens it anew, and half of it stays zero."""
    root = write_run(tmp_path / "run", run_tensors([0, 20, 40, 60]))
    arguments = (root, tmp_path / "two", "two_point")
    dead, left = start(0, *arguments, "killed"), start(1, *arguments)
    until(lambda: any((tmp_path / "two").glob(".*/.rows.1-of-2.json")), left)
    left.kill()
    assert [dead.wait(), left.wait()] == [-signal.SIGKILL, -signal.SIGKILL]
    markers = list((tmp_path / "two").glob(".step_90.*/.*.1-of-2"))
    assert markers
    first = start(0, *arguments)
    until(lambda: not any(path.exists() for path in markers), first)
    assert first.poll() is None  # it waits for the other
    assert not (tmp_path / "two/step_90").exists()
    finish(start(1, *arguments))
    finish(first)
    same_as_alone(tmp_path, root, "two_point", monkeypatch)


@pytest.mark.parametrize("rank", [0, 1])
def test_the_others_give_up_when_one_fails(tmp_path: Path, rank: int) -> None:
    """Would catch processes that wait for ever, and a failure that a restart still sees."""
    root = write_run(tmp_path / "run", run_tensors([0, 20, 40, 60]))
    arguments = (root, tmp_path / "two", "two_point")
    failing, other = start(rank, *arguments, "failed"), start(1 - rank, *arguments)
    assert b"no more" in failing.communicate()[1]
    assert f"gave up, since process {rank} of 2 failed".encode() in other.communicate()[1]
    assert (failing.returncode, other.returncode) == (1, 1)
    for again in [start(rank, *arguments) for rank in range(2)]:
        finish(again)


def test_one_that_never_comes_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a process that waits for ever for one that was not started."""
    monkeypatch.setattr(share, "PATIENCE", 0.0)
    for rank, absent in ((0, 1), (1, 0)):
        with pytest.raises(PipelineError, match=f"waited 0 s for process {absent}; did it fail"):
            share.meet(tmp_path, Share(rank, 3))


@given(st.lists(st.integers(0, 1000), max_size=30), st.integers(1, 5))
def test_every_tensor_has_one_owner_and_loads_are_even(sizes: list[int], world: int) -> None:
    entries = [Entry(str(i), torch.int8, (n,), ()) for i, n in enumerate(sizes)]
    shares = [Share(rank, world).own(entries) for rank in range(world)]
    assert sorted(e.name for share in shares for e in share) == sorted(e.name for e in entries)
    loads = [sum(e.nbytes for e in share) for share in shares]
    assert max(loads) - min(loads) <= max(sizes, default=0)


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    slurm = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS")
    for name in ("RANK", "WORLD_SIZE", *slurm):
        monkeypatch.delenv(name, raising=False)
    assert Share.from_environment() == Share(0, 1)
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    assert Share.from_environment() == Share(0, 1)  # the batch script itself
    for pseudo in (0xFFFFFFFB, 0xFFFFFFFA):  # the script and an interactive shell as steps
        monkeypatch.setenv("SLURM_STEP_ID", str(pseudo))
        assert Share.from_environment() == Share(0, 1)
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    assert Share.from_environment() == Share(0, 4)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")  # srun -n 1 in an allocation of four tasks
    assert Share.from_environment() == Share(0, 1)
    monkeypatch.setenv("RANK", "5")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(PipelineError, match="rank 5 of 2"):
        Share.from_environment()
