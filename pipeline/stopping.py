"""Asked to stop: SIGTERM and SIGUSR1, by which schedulers say that a job's time is up.

A command that is stopped so ends with `REQUEUE` (EX_TEMPFAIL of sysexits.h), and the same command
resumes. Stages whose every row is kept end at once; training first writes a checkpoint.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

REQUEUE = 75
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
AGAIN = "run the same command again to resume"


class Requeue(BaseException):
    """Unwinds the process as an interrupt does, with a word of what is kept."""


@contextlib.contextmanager
def stopped_by(handle: Callable[[str], None]) -> Iterator[None]:
    """While inside, `handle` is called with the name of each signal that asks to stop.

    Only a main thread can listen; in any other nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def caught(number: int, frame: FrameType | None) -> None:
        handle(signal.Signals(number).name)

    before = {sign: signal.signal(sign, caught) for sign in SIGNALS}
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)


def unwind(name: str) -> None:
    """What a process does that has nothing to write first.

    Raises:
        Requeue: always.
    """
    raise Requeue(f"stopped by {name}: {AGAIN}")
