"""Runs one candidate program against its tests in the sandbox and says how it ended.

What counts is processor time, and the time in which a program sleeps; that a busy machine makes it
wait for a processor does not. Every file that a child writes is a temporary file with a size limit,
so endless output fills no memory and no pipe has to be drained.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import IO, Any, Literal

from pipeline.tasks import sandbox
from pipeline.tasks.child_process import Child

Outcome = Literal["passed", "failed", "timeout"]
Stream = int | IO[bytes]  # a descriptor or a file
FILE = 16 * 2**20  # bytes that a child may write into one file, its output included
ASLEEP = 3  # times the processor seconds of a call: how long it may neither run nor want to
GUARD = 50  # times the processor seconds: wall time after which a program is ended in any case
POLL = 0.05  # seconds between two looks


@dataclass(frozen=True)
class Limits:
    """Processor seconds: `seconds` for one test input or one call, `total_seconds` for all tests.

    memory_mb: address space of the candidate. packages: it may import installed packages.
    sandbox: "bwrap", or "none" (no protection).
    """

    seconds: float = 6.0
    total_seconds: float = 60.0
    memory_mb: int = 2048
    packages: bool = False
    sandbox: str = "bwrap"

    def arguments(self, role: str) -> list[str]:
        # The clock here is what ends a program; this limit is for one that outlives its parent.
        return [role, str(self.memory_mb * 2**20), str(int(self.total_seconds) + 5), str(FILE)]


class Clock:
    """The time that a program, and whoever asks it, have had.

    A program that is ready to run, and is not let, is not charged for it: Linux keeps account of
    that for every thread. What is left of the wall time when all of them sleep is idle time.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.spent = 0.0  # processor seconds of children before this one
        self.idle = 0.0

    def outlasts(self, program: Child, judge: Child, calls: Callable[[], int]) -> bool:
        """Wait until `judge` has ended; True once the time is over.

        Args:
            judge: the tests' process, or the program itself.
            calls: how many calls the program has had: each has its own time.
        """
        children = [program] if judge is program else [program, judge]
        begun = last = time.monotonic()
        used = dict.fromkeys(children, 0.0)
        wanted = dict.fromkeys(children, 0.0)  # and time in which they waited for a processor
        call, call_used, call_idle = calls(), 0.0, self.idle
        while judge.outlasts(POLL):
            now, before = time.monotonic(), sum(wanted.values())
            for child in children:
                used[child] = max(used[child], child.processor_seconds() or 0.0)
                wanted[child] = max(wanted[child], used[child] + (child.waiting_seconds() or 0.0))
            self.idle += max(0.0, now - last - (sum(wanted.values()) - before))
            last = now
            if calls() != call:
                call, call_used, call_idle = calls(), used[program], self.idle
            if (
                used[program] - call_used > self.limits.seconds
                or self.spent + sum(used.values()) > self.limits.total_seconds
                or self.idle - call_idle > ASLEEP * self.limits.seconds
                or self.idle > self.limits.total_seconds
                or now - begun > GUARD * self.limits.seconds
            ):
                return True
        self.spent += sum(used.values())
        return False


def run_tests(code: str, job: dict[str, Any], limits: Limits) -> Outcome:
    """Test functions of `code` (inside/check.py describes the job)."""
    with _file(json.dumps({**job, "code": code})) as job_file, _file("") as verdict:
        to_candidate, from_candidate = os.pipe(), os.pipe()
        children: list[Child] = []
        try:
            children.append(_start(limits, "serve", to_candidate[0], from_candidate[1]))
            files = [job_file, verdict]
            children.append(_start(limits, "check", from_candidate[0], to_candidate[1], files))
            for end in (*to_candidate, *from_candidate):
                os.close(end)  # so that the end of one child is seen by the other
            candidate, tests = children
            late = Clock(limits).outlasts(
                candidate, tests, lambda: os.fstat(verdict.fileno()).st_size
            )
        finally:
            for child in children:
                child.kill()
        verdict.seek(0)
        passed = verdict.read().endswith(b"passed")
    return "timeout" if late else "passed" if passed else "failed"


def run_program(
    code: str, inputs: Sequence[str], outputs: Sequence[str], limits: Limits
) -> Outcome:
    """Run a program once for each input and compare what it prints; stops at the first failure."""
    clock = Clock(limits)
    for given, expected in zip(inputs, outputs, strict=True):
        # the lines of a test end as they do on Linux, whatever the file was written on
        with _file(code) as source, _file(given.replace("\r\n", "\n")) as stdin, _file("") as out:
            child = _start(limits, "program", stdin, out, [source])
            try:
                late = clock.outlasts(child, child, lambda: 0)
            finally:
                child.kill()
            if late:
                return "timeout"
            out.seek(0)
            printed = out.read().decode("utf-8", errors="replace")
        if child.process.returncode != 0 or not same_output(printed, expected):
            return "failed"
    return "passed"


def _start(
    limits: Limits, role: str, stdin: Stream, stdout: Stream, files: Sequence[IO[bytes]] = ()
) -> Child:
    """A child in its role; `files` are open in it, and it is told their descriptors."""
    descriptors = [file.fileno() for file in files]
    arguments = [*limits.arguments(role), *map(str, descriptors)]
    return sandbox.spawn_child(
        limits.sandbox, arguments, stdin, stdout, descriptors, limits.packages
    )


@contextmanager
def _file(text: str) -> Iterator[IO[bytes]]:
    with tempfile.TemporaryFile() as file:
        os.fchmod(file.fileno(), 0o666)  # opened once more as /dev/stdin, by another user
        file.write(text.encode("utf-8", errors="replace"))
        file.seek(0)
        yield file


def same_output(printed: str, expected: str) -> bool:
    """Equal line by line, spaces at the ends aside; numbers may be written differently (1 = 1.0).

    The rule of LiveCodeBench's checker (arXiv 2403.07974).
    """
    left, right = printed.strip().split("\n"), expected.strip().split("\n")
    return len(left) == len(right) and all(
        a.strip() == b.strip() or _same_numbers(a.split(), b.split())
        for a, b in zip(left, right, strict=True)
    )


def _same_numbers(left: list[str], right: list[str]) -> bool:
    if len(left) != len(right):
        return False
    for a, b in zip(left, right, strict=True):
        if a == b:
            continue
        try:
            if Decimal(a) != Decimal(b):
                return False
        except InvalidOperation:
            return False
    return True
