"""Whether a process still lives, as others see it who know only files.

A process is named by its machine (host, boot and process namespace), its number and the moment it
started, so a number that is given out again is not taken for it. On the same machine that settles
it. From another one a sign of life does: the file that it keeps is touched every few seconds, and
whoever watches compares that file with itself, so clocks of two machines need not agree.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

BEAT = 10.0  # seconds between signs of life
PATIENCE = 180.0  # seconds without one: a file server may show a file's age late


@dataclass(frozen=True)
class Process:
    """A process anywhere.

    machine: what no other machine, boot or process namespace shares; start: in ticks since the
    boot, 0 where the system does not say.
    """

    host: str
    machine: str
    pid: int
    start: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(value: object) -> Process | None:
        """None where it is no process, as in a file that a crash has left empty."""
        kinds = {"host": str, "machine": str, "pid": int, "start": int}
        if not isinstance(value, Mapping):
            return None
        if not all(isinstance(value.get(key), kind) for key, kind in kinds.items()):
            return None
        return Process(**{key: value[key] for key in kinds})

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@cache
def machine() -> str:
    """The host's name, its boot and its process namespace: numbers mean something within those."""
    words = [socket.gethostname()]
    with contextlib.suppress(OSError):
        words.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        words.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(words)


def this() -> Process:
    return Process(socket.gethostname(), machine(), os.getpid(), _start(os.getpid()) or 0)


def ended(process: Process) -> bool | None:
    """True or False where that can be known from here, None of a process elsewhere."""
    if process.machine != machine() or sys.platform != "linux":
        return None
    return _start(process.pid) != process.start


def _start(pid: int) -> int | None:
    """When a process started, in ticks since the boot; None if there is none, or its end only
    waits to be noticed."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name before it may hold anything
    return None if fields[0] in ("Z", "X") else int(fields[19])


class Watch:
    """Looks at a file that a living process touches, as often as one likes."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._seen: tuple[Path, int] | None = None
        self._since = 0.0

    def silent(self, path: Path) -> bool:
        """True once the same file has not been touched for so long, by our own clock."""
        try:
            with open(path, "rb") as file:  # a file server tells the truth at opening
                seen = path, os.fstat(file.fileno()).st_mtime_ns
        except OSError:
            return False
        if seen != self._seen:
            self._seen, self._since = seen, time.monotonic()
        return time.monotonic() - self._since > self._patience


class _Heart:
    """One thread that touches all the files that this process keeps."""

    def __init__(self) -> None:
        self._kept: dict[Path, Callable[[], None]] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, path: Path, then: Callable[[], None]) -> None:
        with self._lock:
            self._kept[path] = then
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="heart", daemon=True)
                self._thread.start()

    def remove(self, path: Path) -> None:
        with self._lock:
            self._kept.pop(path, None)

    def _run(self) -> None:
        while True:
            time.sleep(BEAT)
            with self._lock:
                kept = dict(self._kept)
            for path, then in kept.items():
                with contextlib.suppress(OSError):  # a server that is away comes back
                    os.utime(path)
                then()


_heart = _Heart()


@contextmanager
def beating(path: Path, then: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Touch an existing file every `BEAT` seconds inside, and call `then` each time."""
    _heart.add(path, then)
    try:
        yield
    finally:
        _heart.remove(path)
