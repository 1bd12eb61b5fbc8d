"""A child process in the sandbox, seen from outside: how it ends, what time it has had."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path
from typing import IO

TICKS = os.sysconf("SC_CLK_TCK")


class Child:
    """A running child process and, under bubblewrap, the processes of its namespace."""

    def __init__(self, process: subprocess.Popen[bytes], info: IO[bytes] | None) -> None:
        """info: what `bwrap --info-fd` writes; None for a plain child process."""
        self.process = process
        self._info = info
        self._inner: int | None = None

    def outlasts(self, seconds: float) -> bool:
        """Wait up to `seconds`; True if it is still running then."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return True
        return False

    def processor_seconds(self) -> float | None:
        """Processor time that the program has used, all threads; None where it cannot be read."""
        program = self._program()
        try:
            fields = Path(f"/proc/{program}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        user, system = int(fields[11]), int(fields[12])
        return (user + system) / TICKS

    def waiting_seconds(self) -> float | None:
        """Time in which its threads were ready and another process had the processor.

        None where it cannot be read: the program ended, or the kernel keeps no such account.
        """
        nanoseconds = 0
        try:
            for thread in Path(f"/proc/{self._program()}/task").iterdir():
                nanoseconds += int((thread / "schedstat").read_text().split()[1])
        except (FileNotFoundError, ProcessLookupError):
            return None
        return nanoseconds / 1e9

    def kill(self) -> None:
        """End the child and all that it started; nothing of it is left on return.

        Killing the first process of the namespace takes all others along, and it is gone only
        when they are; killing bubblewrap itself would leave that to happen a moment later.
        """
        if self.process.poll() is None:
            first = self._first_process()
            if first is None:
                os.killpg(self.process.pid, signal.SIGKILL)
            else:
                os.kill(first, signal.SIGKILL)
        self.process.wait()
        if self._info is not None:
            self._info.close()

    def _first_process(self) -> int | None:
        """The first process of the namespace; None without one, or before there is one."""
        if self._info is None or self._info.closed:
            return None
        self._info.seek(0)
        found = re.search(rb'"child-pid": (\d+)', self._info.read())
        return None if found is None else int(found.group(1))

    def _program(self) -> int:
        """The process that runs the program: the child of the first one of its namespace."""
        if self._inner is not None:
            return self._inner
        first = self._first_process()
        if first is None:
            return self.process.pid
        try:
            children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            children = _children_of(first)
        if children:
            self._inner = int(children[0])
        return self._inner or first


def _children_of(parent: int) -> list[str]:
    """Child processes of a process, where the kernel keeps no list of them."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                fields = (process / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[1]) == parent:
                found.append(process.name)
    return found
