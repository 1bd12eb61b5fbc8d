"""Descriptors of files that threads read by turns, fewer than a process may hold.

A run of hundreds of checkpoints has more files than `ulimit -n` allows, so whichever was used
longest ago is closed for the next. Pieces are worked on in the order of the files, so of each
checkpoint one file is in use at a time, and hardly any is ever opened twice.
"""

from __future__ import annotations

import os
import resource
import threading
from pathlib import Path

MOST = 4096  # where the limit allows it


class Descriptors:
    """Read-only descriptors by path, at most `room` of them (default: half of the limit)."""

    def __init__(self, room: int | None = None) -> None:
        self._room = _half_of_limit() if room is None else room
        self._kept: dict[Path, int] = {}  # the one used last at the end
        self._users: dict[int, int] = {}  # threads that read a descriptor just now
        self._lock = threading.Lock()

    def take(self, path: Path) -> int:
        """The file's descriptor, which stays open until it was given back.

        Raises:
            OSError: the file cannot be opened.
        """
        with self._lock:
            descriptor = self._kept.pop(path, None)
            if descriptor is None:
                if len(self._kept) >= self._room:
                    self._close_one()
                descriptor = os.open(path, os.O_RDONLY)
                self._users[descriptor] = 0
            self._kept[path] = descriptor
            self._users[descriptor] += 1
            return descriptor

    def give_back(self, descriptor: int) -> None:
        """Say that a descriptor got from `take` is not read any more."""
        with self._lock:
            self._users[descriptor] -= 1

    def close(self) -> None:
        """Close them all."""
        for descriptor in self._kept.values():
            os.close(descriptor)
        self._kept.clear()
        self._users.clear()

    def _close_one(self) -> None:
        """The one used longest ago that no thread reads; none if all are being read."""
        for path, descriptor in self._kept.items():
            if not self._users[descriptor]:
                os.close(descriptor)
                del self._kept[path], self._users[descriptor]
                return


def _half_of_limit() -> int:
    """Outputs and libraries need the other half."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST if limit == resource.RLIM_INFINITY else max(1, min(MOST, limit // 2))
