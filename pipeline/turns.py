"""One process at a time, on one machine or many that share a file system, and none waits for the
dead.

Whoever wants its turn looks at the files of a folder, which are numbered. The highest belongs to
the one whose turn it is. If that one has released it, or is dead, whoever creates the next number
has the turn; creating a file that must not exist is the one thing that file systems leave to one
of many. A number is never given twice, so nobody can take a turn away from its new owner in the
belief that it still is the dead one's. Locks of the operating system are no help here: over a file
server they are not to be relied on, and they say nothing about who holds them.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.artifacts import write_json
from pipeline.faults import naming
from pipeline.liveness import PATIENCE, Process, Watch, beating, ended, this

POLL = 0.2  # seconds between looks at the one whose turn it is

_mine: set[Path] = set()  # turns of this process


@dataclass(frozen=True)
class Owner:
    """Whose turn it is; `process` is None while its file is still empty."""

    path: Path
    process: Process | None
    run: str
    released: bool

    def __str__(self) -> str:
        return str(self.process) if self.process else "a process that has not said its name"


def owner(folder: Path) -> Owner | None:
    """Whose turn it is, or was last; None if nobody ever came."""
    number = _newest(folder)
    if number == 0:
        return None
    path = _path(folder, number)
    try:
        value: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        value = {}
    found = value if isinstance(value, dict) else {}
    process = Process.from_json(found.get("process"))
    return Owner(path, process, str(found.get("run", "")), found.get("released") is True)


@contextmanager
def turn(
    folder: Path, run: Path, waiting: Callable[[Owner], None], patience: float = PATIENCE
) -> Iterator[None]:
    """Wait until it is this process's turn in `folder`; inside it is.

    Args:
        folder: of the numbered files, made here.
        run: the run directory that the turn is wanted for; others say it while they wait.
        waiting: called again and again with the one that is waited for.
        patience: seconds of silence after which a process of another machine counts as dead.

    A process that was silent for longer (stopped, or cut off from the file server) and finds that
    another has taken its turn ends at once: two would write over each other.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = _wait(folder, run, waiting, Watch(patience))
    _mine.add(path)
    try:
        with beating(path, lambda: _end_if_taken(path)):
            yield
    finally:
        _mine.discard(path)
        write_json(path, {**_entry(run), "released": True})


def _wait(folder: Path, run: Path, waiting: Callable[[Owner], None], watch: Watch) -> Path:
    while True:
        held = owner(folder)
        if held is None or held.released or _dead(held, watch):
            path = _path(folder, 1 if held is None else _number(held.path) + 1)
            if _create(path, run) and not _taken(path):
                return path
            continue
        waiting(held)
        time.sleep(POLL)


def _create(path: Path, run: Path) -> bool:
    """Make the file; False if another was faster."""
    try:
        with naming(path), open(path, "x", encoding="utf-8") as file:
            json.dump(_entry(run), file)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        return False
    return True


def _entry(run: Path) -> dict[str, Any]:
    return {"process": this().to_json(), "run": str(run), "released": False}


def _dead(held: Owner, watch: Watch) -> bool:
    if held.process == this():
        return held.path not in _mine  # on a full disk it could not be released
    known = None if held.process is None else ended(held.process)
    return watch.silent(held.path) if known is None else known


def _end_if_taken(path: Path) -> None:
    if not _taken(path):
        return
    print(
        f"error: {path.parent}: this process gave no sign of life for {PATIENCE:.0f} s, and "
        f"{owner(path.parent)} does its work now; run the same command again to resume",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)


def _taken(path: Path) -> bool:
    return _newest(path.parent) > _number(path)


def _newest(folder: Path) -> int:
    return max((_number(path) for path in folder.glob("*.json")), default=0)


def _number(path: Path) -> int:
    return int(path.stem) if path.stem.isdecimal() else 0


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.json"
