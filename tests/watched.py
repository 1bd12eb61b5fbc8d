"""A process of `multiprocessing` that says its number and stays: for `test_processes`."""

from __future__ import annotations

import os
import signal

from pipeline.processes import watch_parent


def child() -> None:
    watch_parent()
    print(os.getpid(), flush=True)
    signal.pause()
