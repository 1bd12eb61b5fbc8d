"""What a run shows while another one makes what it needs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipeline.progress import bar
from pipeline.status.files import read_object
from pipeline.status.writer import FILE, Status
from pipeline.turns import Owner

_EVERY = 2.0  # seconds between looks at how far the other one is


class Waiting:
    """Says once for whom a stage waits, and shows how far that one is; called again and again.

    Args:
        status: of the run that waits.
        stage: what it waits for.
        say: prints a line.
    """

    def __init__(self, status: Status, stage: str, say: Callable[[str], None]) -> None:
        self._status, self._stage, self._say = status, stage, say
        self._for: Path | None = None
        self._looked = 0.0
        self._bar: tqdm[None] | None = None
        self._part: tuple[Any, ...] = ()

    def __call__(self, owner: Owner) -> None:
        if owner.path != self._for:
            self.close()
            self._for = owner.path
            self._status.waits(self._stage, str(owner), owner.run)
            self._say(f"[{self._stage}] waits: {owner} makes it for {owner.run}")
        if time.monotonic() - self._looked > _EVERY:
            self._looked = time.monotonic()
            self._show(read_object(Path(owner.run) / FILE).get("progress") or {})

    def close(self) -> None:
        """Nothing is waited for any more."""
        if self._bar is not None:
            self._bar.close()
        self._bar, self._part = None, ()

    def _show(self, shown: dict[str, Any]) -> None:
        if not shown:
            return
        part = shown.get("label"), shown.get("total"), shown.get("unit")
        if self._bar is None or part != self._part:
            self.close()
            self._bar = bar(part[1], f"{self._stage}, elsewhere", str(part[2]))
            self._part = part
        self._bar.update(shown.get("done", 0) - self._bar.n)
