"""status.json of a run directory: what the run does now, for whoever looks on from elsewhere.

It is written whole at every change and at most every two seconds in between; its time says that
the process lives (`pipeline.liveness`). Of finished stages, done.json speaks.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from pipeline import progress
from pipeline.artifacts import write_json
from pipeline.faults import describe
from pipeline.liveness import beating, this

FILE = "status.json"
RUNS, WAITS, FAILED, STOPPED, DONE = "runs", "waits", "failed", "stopped", "done"
LOG = "PIPELINE_LOG"  # environment variable: where a launcher sends what this process prints
_EVERY = 2.0  # seconds


class Status:
    """A context: inside, status.json says what the run does; after it, how it ended.

    Args:
        run_dir: the run directory.
        name: the experiment.
        stages: those that will run.
        totals: how many steps a stage has, of those that report steps.
        given: the overrides that the run was started with.
        file: its name in the run directory; of a part, with `of`: what it is a part of.
    """

    def __init__(
        self,
        run_dir: Path,
        name: str,
        stages: Sequence[str],
        totals: Mapping[str, int],
        given: Sequence[str] = (),
        file: str = FILE,
        of: str | None = None,
    ) -> None:
        self._path = run_dir / file
        self._values: dict[str, Any] = {"name": name, "stages": list(stages), "state": RUNS}
        self._values |= {"given": list(given)} | ({} if of is None else {"of": of})
        self._values |= {"process": this().to_json(), "since": time.time(), "log": log_path()}
        self._totals = totals
        self._written = 0.0
        self._lock = threading.Lock()  # bars are moved by worker threads
        self._first: tuple[str, float, float] | None = None  # of the bar shown: label, done, time
        self._open = ExitStack()

    def __enter__(self) -> Status:
        self._write()
        self._open.enter_context(beating(self._path))
        progress.listen(self.progress)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        progress.listen(None)
        self._open.close()
        self.end(error)

    def end(self, error: BaseException | None) -> None:
        """How it ended: done, with an error, or stopped from outside."""
        self._values.pop("waits_for", None)
        if error is None:
            self._values |= {"state": DONE, "stage": None, "progress": None}
        elif isinstance(error, Exception):
            self._values |= {"state": FAILED, "error": describe(error) or _last_line(error)}
        else:  # an interrupt, or a signal that asked to stop
            self._values |= {"state": STOPPED, "error": str(error) or type(error).__name__}
        self._write()

    def stage(self, name: str) -> None:
        """A stage begins, or resumes."""
        self._first = None
        self._values |= {"state": RUNS, "stage": name, "stage_since": time.time(), "progress": None}
        self._values.pop("waits_for", None)
        self._write()

    def waits(self, name: str, process: str, run: str) -> None:
        """Another run does what this one needs."""
        now = {"state": WAITS, "stage": name, "waits_for": {"process": process, "run": run}}
        if any(self._values.get(key) != value for key, value in now.items()):
            self._values |= {**now, "stage_since": time.time(), "progress": None}
            self._write()

    def step(self, stage: str, step: int) -> None:
        """A stage that counts steps has made one, in whichever process."""
        self.progress(stage, step, self._totals.get(stage), "step")

    def progress(self, label: str, done: float, total: float | None, unit: str) -> None:
        """How far the stage is: `done` of `total` of its present part, in `unit`."""
        now = time.time()
        with self._lock:
            if self._first is None or self._first[0] != label or done < self._first[1]:
                self._first = label, done, now
            elif now - self._written < _EVERY and done != total:
                return
            _, first, since = self._first
        left = None
        if total is not None and done > first and now > since:
            left = round((total - done) * (now - since) / (done - first), 1)
        shown = {"label": label, "done": done, "total": total, "unit": unit, "seconds_left": left}
        self._values["progress"] = shown
        with contextlib.suppress(OSError):  # of no use to the work itself
            self._write()

    def _write(self) -> None:
        with self._lock:
            self._written = time.time()
            write_json(self._path, {**self._values, "updated": self._written})


def log_path() -> str | None:
    """The file that this process's errors are printed to, if it can be known."""
    if os.environ.get(LOG):
        return os.environ[LOG]
    for descriptor in (2, 1):
        try:
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
        except OSError:
            continue
        if path.is_file():
            return str(path)
    return None


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return ": ".join([type(error).__name__, *lines[-1:]])
