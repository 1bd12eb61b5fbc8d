"""What a step of the GPU check runs its commands with: processes of its own, a time limit, logs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.processes import die_with_parent

ROOT = Path(__file__).resolve().parents[2]
LOG_LINES = 120  # that are kept of each command


class StepError(RuntimeError):
    """A command of a step ended badly, or the step's time is up."""


@dataclass
class Bench:
    """What a step gets: a folder, its time, and a way to run commands."""

    work: Path
    tiny: bool
    log: Path
    deadline: float = 0.0
    running: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, name: str, *arguments: str) -> subprocess.Popen[str]:
        """Start a Python command in a process group of its own; its words go to NAME.log."""
        stream = (self.work / f"{name}.log").open("a", encoding="utf-8")
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},  # what it says last is the last line
            stdout=stream,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        stream.close()
        self.running.append(process)
        return process

    def wait(self, name: str, process: subprocess.Popen[str]) -> None:
        """Wait for its end.

        Raises:
            StepError: it ended badly, or the step's time is up; with its last words.
        """
        try:
            code = process.wait(timeout=max(1.0, self.deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise StepError(f"{name}: out of time; last: {self.last(name, 1)}") from None
        if code:
            raise StepError(f"{name}: exit code {code}; last: {self.last(name, 3)}")

    def until(
        self, started: Sequence[tuple[str, subprocess.Popen[str]]], end: float
    ) -> dict[str, str]:
        """Wait for all of them until the moment `end`, and kill those that still run then; the last
        words of those that ended badly by themselves."""
        failed = {}
        for name, process in started:
            try:
                code = process.wait(timeout=max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                continue
            if code:
                failed[name] = f"exit code {code}; last: {self.last(name, 3)}"
        _kill([process for _, process in started])
        return failed

    def run(self, name: str, *arguments: str) -> None:
        self.wait(name, self.start(name, *arguments))

    def pipeline(self, name: str, *overrides: str) -> list[str]:
        """Arguments of a pipeline run in the folder NAME."""
        places = (f"run.dir={self.work / name}", f"run.cache={self.work / 'cache'}")
        return ["-m", "pipeline", *overrides, *places, "tracking.mode=disabled"]

    def last(self, name: str, count: int) -> str:
        lines = (
            (self.work / f"{name}.log").read_text(encoding="utf-8", errors="replace").split("\n")
        )
        return " | ".join([line for line in lines if line.strip()][-count:])[-600:]

    def end(self) -> None:
        """Kill what the step has left running, and keep the ends of its logs."""
        _kill(self.running)
        self.running.clear()
        with self.log.open("a", encoding="utf-8") as kept:
            for path in sorted(self.work.glob("*.log")):
                lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
                kept.write(f"==> {path.name}\n" + "\n".join(lines[-LOG_LINES:]) + "\n")
                path.unlink()


def _kill(processes: Sequence[subprocess.Popen[str]]) -> None:
    """End those that still run."""
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


Step = Callable[[Bench], dict[str, Any]]
