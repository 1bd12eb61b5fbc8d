"""Children that do not outlive their parent, however it ends."""

from __future__ import annotations

import ctypes
import functools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

GRACE_SECONDS = 10.0  # between asking a group to end and ending it
PARENT = "PIPELINE_PARENT"  # environment variable: process id of a launcher
_PR_SET_PDEATHSIG = 1


def die_with_parent(sign: int = signal.SIGHUP) -> None:
    """Ask Linux to send `sign` to this process when its parent dies, be it by SIGKILL.

    Where the parent has named itself (`be_parent`) and is gone already, `sign` comes at once. Under
    nohup SIGHUP is ignored, also by children: then it is SIGKILL.
    """
    if signal.getsignal(sign) is signal.SIG_IGN:
        sign = signal.SIGKILL
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, sign)
    # taken out: it is not the parent of what this process starts
    if os.environ.pop(PARENT, str(os.getppid())) != str(os.getppid()):
        os.kill(os.getpid(), sign)


def be_parent() -> None:
    """Let processes started from here know whose children they are: importing takes them seconds
    in which this one may die unnoticed."""
    os.environ[PARENT] = str(os.getpid())


@functools.cache
def watch_parent() -> None:
    """In a process of `multiprocessing`: a thread kills it once its parent is gone, also one that
    died before this was called. (Linux's own signal would come where only the thread ends that
    started this process, as threads of a user's program may.) Elsewhere it does nothing.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def follow() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=follow, name="watch_parent", daemon=True).start()


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End the process group that `process` leads: ask, wait, then kill. Returns once it is gone.

    It is not asked by SIGTERM: ranks would finish their step first, and launchers are deaf to it.
    """
    for sign in (signal.SIGHUP, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:
            break
        deadline = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < deadline and _alive(process):
            time.sleep(0.05)
    process.wait()


def _alive(process: subprocess.Popen[bytes]) -> bool:
    process.poll()
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True
