"""One piece of work at a time in a thread, while training goes on: writing a snapshot.

An error in it is raised where the next thing asks whether it is done, in the thread of training.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent import futures


class Background:
    """Runs jobs one after another."""

    def __init__(self) -> None:
        self._threads = futures.ThreadPoolExecutor(1, "snapshot")
        self._job: futures.Future[float] | None = None

    @property
    def busy(self) -> bool:
        """Whether a job is at work."""
        return self._job is not None and not self._job.done()

    def start(self, job: Callable[[], None]) -> None:
        """Wait for the job before, then run `job` beside the caller."""
        self.wait()
        self._job = self._threads.submit(_seconds, job)

    def wait(self) -> None:
        """Return once nothing is at work.

        Raises:
            BaseException: what the job raised.
        """
        if self._job is not None:
            self._job.result()

    def join(self) -> None:
        """The same, whatever came of it: for a caller that has an error of its own."""
        if self._job is not None:
            futures.wait([self._job])

    def finished(self) -> float | None:
        """Seconds that a job took which has ended since the last call; None if none has."""
        if self._job is None or self.busy:
            return None
        job, self._job = self._job, None
        return job.result()


def _seconds(job: Callable[[], None]) -> float:
    began = time.monotonic()
    job()
    return time.monotonic() - began
