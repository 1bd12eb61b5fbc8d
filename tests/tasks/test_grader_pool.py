"""The grader processes: hanging, dying and recovering."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.tasks import grader_pool
from pipeline.tasks.grader_pool import GraderPool

HANGS = {"answer": "5", "prediction": "\\int_0^1 9^{9^{9^{9}}} dx"}
GIVES_UP = {"answer": "5", "prediction": "9^{9^{9^{9}}}"}


@pytest.fixture
def pool() -> Iterator[GraderPool]:
    with closing(GraderPool("math", workers=2, limit=1.0)) as pool:
        yield pool


def test_a_hanging_job_is_killed_and_the_others_are_graded(pool: GraderPool) -> None:
    """Catches a time limit that does not stop big-integer arithmetic, lost or shifted results."""
    jobs = [{"answer": str(i), "prediction": str(i + i % 2)} for i in range(6)]
    progress: list[None] = []
    results = pool.run([*jobs[:3], HANGS, *jobs[3:], GIVES_UP], lambda: progress.append(None))
    expected = [True, False, True, None, False, True, False, None]
    assert [r and r["correct"] for r in results] == expected
    assert len(progress) == 8


def test_workers_live_on_between_calls_and_dead_ones_are_replaced(pool: GraderPool) -> None:
    """Catches an interpreter start for every call, and a pool that breaks when a worker dies."""
    job = {"answer": "1/2", "prediction": "0.5"}
    assert pool.run([job, job]) == [{"correct": True}] * 2
    before = [w.process.pid for w in pool._pool]
    pool.run([job, job])
    assert [w.process.pid for w in pool._pool] == before
    for worker in pool._pool:
        os.kill(worker.process.pid, signal.SIGKILL)
        worker.process.wait()
    assert pool.run([job, job]) == [{"correct": True}] * 2


def test_a_scheduler_s_signal_costs_no_verdict(pool: GraderPool) -> None:
    """Slurm signals every process of a job; training finishes its step, with its rewards."""
    job = {"answer": "1/2", "prediction": "0.5"}
    pool.run([job, job])
    before = [w.process.pid for w in pool._pool]
    for worker in pool._pool:
        for sign in (signal.SIGTERM, signal.SIGUSR1):
            os.kill(worker.process.pid, sign)
    assert pool.run([job, job]) == [{"correct": True}] * 2
    assert [w.process.pid for w in pool._pool] == before


def test_no_worker_outlives_close(pool: GraderPool) -> None:
    """Catches leaked grader processes."""
    pool.run([{"answer": "1", "prediction": "2"}])
    processes = [w.process for w in pool._pool]
    pool.close()
    assert processes
    assert all(p.poll() is not None for p in processes)


def test_a_worker_ends_when_its_parent_is_gone() -> None:
    """Catches workers left behind by a SIGKILL of the pipeline: end of input ends them."""
    worker = subprocess.Popen(
        [sys.executable, "-P", str(grader_pool.WORKER), "math", "3"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert worker.stdin is not None
    worker.stdin.close()
    assert worker.wait(timeout=120) == 0


def test_a_grader_that_cannot_start_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Catches an endless restart, or time-outs reported for a missing package."""
    broken = tmp_path / "worker.py"
    broken.write_text("raise SystemExit(1)")
    monkeypatch.setattr(grader_pool, "WORKER", broken)
    with closing(GraderPool("math")) as pool, pytest.raises(PipelineError, match="math-verify"):
        pool.run([HANGS])


def test_ranks_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches eight ranks that each start a grader on every core."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    monkeypatch.delenv("LOCAL_SIZE", raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert grader_pool.default_workers() == 64
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert grader_pool.default_workers() == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "100")
    assert grader_pool.default_workers() == 1


def test_a_busy_machine_does_not_change_grades(
    pool: GraderPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches wall time taken for work: a job that got part of its 1 s of processor is not late."""
    pool.run([{"answer": "1", "prediction": "1"}])
    worker = next(w for w in pool._pool if w.ready)
    now, used = 1000.0, 50.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(worker.child, "processor_seconds", lambda: used)
    worker.send(0, HANGS)
    now, used = 1001.0, 50.25
    assert not worker.is_late()
    assert worker.deadline == 1001.75
    now, used = 1002.0, 51.0
    assert worker.is_late()
    now, used = 1010.0, 50.25
    assert worker.is_late()  # it may wait, but not for ever


def test_processor_time_is_that_of_the_child(pool: GraderPool) -> None:
    """Catches fields of /proc read wrongly: imports use time, an idle worker does not."""
    pool.run([{"answer": "1/2", "prediction": "0.5"}])
    (idle,) = pool._pool
    used = idle.child.processor_seconds()
    assert used is not None
    assert 0.05 < used < 60
    assert idle.child.processor_seconds() == used
