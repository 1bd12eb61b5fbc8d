"""Grader processes that stay alive between calls and are killed, then replaced, at a time limit.

No signal.alarm (it fires in the main thread of the trainer and cannot interrupt C code) and no
fork of a process that holds a GPU: each worker is a fresh interpreter running grader_worker.py.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import selectors
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.tasks import sandbox
from pipeline.tasks.problem import Grade

WORKER = Path(__file__).with_name("grader_worker.py")
PATIENCE = 10  # wall time over processor time, on a busy machine
START_LIMIT = 300.0  # seconds for a worker to import its libraries on a busy machine
MOST = 16  # workers that start by default; each takes 150 MB
PACKAGES = {"ifeval": "lm-eval[ifeval]", "reasoning_gym": "reasoning-gym"}  # that graders import
FAILED_STARTS = 3  # in a row, after which the fault is the installation and not the moment


class _Worker:
    """One child process and the job it has in hand."""

    def __init__(self, kind: str, limit: float, mode: str) -> None:
        self.child = sandbox.spawn(
            mode,
            [sys.executable, "-P", str(WORKER), kind, str(limit)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            visible={folder: folder for folder in _python_folders()},
        )
        self.process = self.child.process
        self.limit = limit
        self.ready = False
        self.job: int | None = None
        self.deadline = self.last_deadline = time.monotonic() + START_LIMIT
        self.used_before: float | None = None
        self._buffer = b""

    def send(self, index: int, job: Mapping[str, Any]) -> None:
        assert self.process.stdin is not None
        self.job = index
        self.deadline = time.monotonic() + self.limit
        self.last_deadline = time.monotonic() + PATIENCE * self.limit
        self.used_before = self.child.processor_seconds()
        line = json.dumps(job).encode() + b"\n"
        while line:
            line = line[os.write(self.process.stdin.fileno(), line) :]

    def receive(self) -> dict[str, Any] | None:
        """A whole message, or None if there is none yet. Raises EOFError if the child is gone."""
        assert self.process.stdout is not None
        chunk = os.read(self.process.stdout.fileno(), 65536)
        if not chunk:
            raise EOFError
        self._buffer += chunk
        line, newline, rest = self._buffer.partition(b"\n")
        if not newline:
            return None
        self._buffer = rest
        return dict(json.loads(line))

    def is_late(self) -> bool:
        """Whether the job in hand has had its time; if not, the deadline is moved.

        What counts is processor time, where it can be read: a busy machine must not change grades.
        """
        now, used = time.monotonic(), self.child.processor_seconds()
        if not self.ready or now >= self.last_deadline or used is None or self.used_before is None:
            return now >= self.deadline
        left = self.limit - (used - self.used_before)
        if left > 0:
            self.deadline = min(now + max(left, 0.25), self.last_deadline)
        return left <= 0

    def kill(self) -> None:
        self.child.kill()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


class GraderPool:
    """Runs jobs of one kind (of grader_worker.JUDGES) in `workers` processes.

    Args:
        limit: processor seconds for one job, and a tenth of the wall seconds it may take; start-up
            does not count.
        mode: "bwrap" for graders that evaluate what a model wrote, else "none" (sandbox.py).
    """

    def __init__(
        self, kind: str, workers: int = 2, limit: float = 10.0, mode: str = "none"
    ) -> None:
        if workers < 1 or limit <= 0:
            raise PipelineError("grader: workers must be at least 1 and the time limit positive")
        self.kind = kind
        self.workers = workers
        self.limit = limit
        self.mode = mode
        self._pool: list[_Worker] = []
        self._failed_starts = 0

    def run(
        self, jobs: Sequence[Mapping[str, Any]], done: Callable[[], object] | None = None
    ) -> list[dict[str, Any] | None]:
        """Verdicts in the order of `jobs`; None where the worker was killed, died or gave up.

        Args:
            done: called once for each finished job (progress).
        """
        results: list[dict[str, Any] | None] = [None] * len(jobs)
        waiting = deque(range(len(jobs)))
        open_jobs = len(jobs)
        while open_jobs:
            while len(self._pool) < min(self.workers, open_jobs):
                self._pool.append(_Worker(self.kind, self.limit, self.mode))
            self._dispatch(jobs, waiting)
            open_jobs -= self._collect(results, done)
        return results

    def _dispatch(self, jobs: Sequence[Mapping[str, Any]], waiting: deque[int]) -> None:
        """Give waiting jobs to idle workers."""
        for worker in [w for w in self._pool if w.ready and w.job is None]:
            if not waiting:
                break
            index = waiting.popleft()
            try:
                worker.send(index, jobs[index])
            except BrokenPipeError:  # it died while idle: the job is untouched
                waiting.appendleft(index)
                self._discard(worker)

    def _collect(
        self, results: list[dict[str, Any] | None], done: Callable[[], object] | None
    ) -> int:
        """Wait for the next message or deadline; returns the number of jobs that ended."""
        busy = [w for w in self._pool if w.job is not None or not w.ready]
        ended = 0
        with selectors.DefaultSelector() as selector:
            for worker in busy:
                assert worker.process.stdout is not None
                selector.register(worker.process.stdout, selectors.EVENT_READ, worker)
            until = min((w.deadline for w in busy), default=0.0)
            events = selector.select(max(0.0, until - time.monotonic())) if busy else []
        spoken = [key.data for key, _ in events]
        for worker in busy:
            if worker in spoken:
                ended += self._hear(worker, results)
            elif time.monotonic() >= worker.deadline and worker.is_late():
                ended += self._lose(worker)
        if done is not None:
            for _ in range(ended):
                done()
        return ended

    def _hear(self, worker: _Worker, results: list[dict[str, Any] | None]) -> int:
        try:
            message = worker.receive()
        except EOFError:
            return self._lose(worker)
        if message is None:
            return 0
        if not worker.ready:
            worker.ready = True
            self._failed_starts = 0
            return 0
        assert worker.job is not None
        results[worker.job] = None if message.get("undecided") else message
        worker.job = None
        return 1

    def _lose(self, worker: _Worker) -> int:
        """Remove a worker that hangs or died; returns the number of jobs that ended with it."""
        self._discard(worker)
        if worker.ready:
            return 1
        self._failed_starts += 1
        if self._failed_starts < FAILED_STARTS:
            return 0
        self._failed_starts = 0
        self.close()
        package = PACKAGES.get(self.kind, "math-verify")
        raise PipelineError(
            f"the {self.kind} grader does not start; is the package {package} installed? "
            f"try: {Path(sys.executable).name} {WORKER} {self.kind} 10"
        )

    def _discard(self, worker: _Worker) -> None:
        worker.kill()
        self._pool.remove(worker)

    def close(self) -> None:
        """Kill all workers; the pool may be used again."""
        for worker in list(self._pool):
            self._discard(worker)


def grade_answers(
    pool: GraderPool,
    answers: Sequence[str | None],
    jobs: Sequence[Mapping[str, Any]],
    right: Callable[[Mapping[str, Any]], bool],
    done: Callable[[], object] | None = None,
) -> list[Grade]:
    """A grade for each answer: "no_answer" without a job where it is None, "timeout" where the
    pool came to no verdict.

    Args:
        jobs: of the answers that are there, in their order.
        right: what a verdict says.
        done: called once for each answer.
    """
    verdicts = iter(pool.run(jobs, done))
    grades = []
    for answer in answers:
        if answer is None:
            grades.append(Grade(False, "no_answer"))
            if done is not None:
                done()
            continue
        verdict = next(verdicts)
        grades.append(
            Grade(False, "timeout", answer)
            if verdict is None
            else Grade(right(verdict), "ok", answer)
        )
    return grades


def default_workers() -> int:
    """This process's share of the cores: the ranks of a trainer grade at the same time."""
    ranks = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or "1"
    return max(1, len(os.sched_getaffinity(0)) // int(ranks))


def _python_folders() -> list[str]:
    """What a worker reads in a sandbox: itself, the environment and its packages."""
    packages = [entry for entry in sys.path if entry.endswith(("site-packages", "dist-packages"))]
    inside_usr = [f for f in (sys.prefix, *packages) if f.startswith("/usr/")]
    return [str(WORKER), *dict.fromkeys(f for f in (sys.prefix, *packages) if f not in inside_usr)]


@functools.lru_cache(maxsize=8)
def shared_pool(kind: str, workers: int, limit: float, mode: str = "none") -> GraderPool:
    """One pool per setting for the life of this process; killed at its end."""
    pool = GraderPool(kind, workers or min(MOST, default_workers()), limit, mode)
    atexit.register(pool.close)
    return pool
