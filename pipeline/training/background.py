"""One piece of work at a time in a thread, while training goes on: writing a snapshot.

An error in it is raised where the next thing asks whether it is done, in the thread of training.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Background:
    """Runs jobs one after another; `seconds` is how long the last finished one took."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self.seconds: float | None = None

    @property
    def busy(self) -> bool:
        """Whether a job is at work."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, job: Callable[[], None]) -> None:
        """Wait for the job before, then run `job` beside the caller."""
        self.wait()
        self._thread = threading.Thread(target=self._run, args=(job,), name="snapshot")
        self._thread.start()

    def wait(self) -> None:
        """Return once nothing is at work.

        Raises:
            BaseException: what the job raised.
        """
        self.join()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def join(self) -> None:
        """The same, whatever came of it: for a caller that has an error of its own."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def finished(self) -> float | None:
        """Seconds that a job took which has ended since the last call; None if none has."""
        if self.busy:
            return None
        self.wait()
        seconds, self.seconds = self.seconds, None
        return seconds

    def _run(self, job: Callable[[], None]) -> None:
        began = time.monotonic()
        try:
            job()
            self.seconds = time.monotonic() - began
        except BaseException as error:  # noqa: BLE001  # raised again in the caller's thread
            self._error = error
