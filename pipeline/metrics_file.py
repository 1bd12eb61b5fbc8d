"""metrics.jsonl of a run: every step of a stage and every stage's summary once.

A killed run has logged steps that the next start trains again. Its rows stand here, flushed, when
the run resumes from the checkpoint before them; so a row that comes again replaces what was
written from its step on, and the file holds the values of the run that resumed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.artifacts import append_jsonl, read_jsonl, repair_jsonl, write_jsonl

Row = dict[str, Any]


class MetricsFile:
    """The rows of one run directory; opened (and repaired) at the first use.

    Only the process that holds the run directory's lock uses it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._steps: dict[str, dict[int, Row]] | None = None  # stage -> step -> values

    def last_step(self, stage: str) -> int:
        """The highest step that the file holds of `stage`; -1 if none."""
        return max(self._open().get(stage, {}), default=-1)

    def add(self, stage: str, values: Mapping[str, Any]) -> bool:
        """Append a row of measurements; False if it is there already.

        A row with a `step` that is there with other values replaces it, and takes the stage's
        later rows away: they will come again.
        """
        row, step = dict(values), values.get("step")
        steps = self._open().setdefault(stage, {})
        if step is not None:
            if steps.get(step) == row:
                return False
            if any(held >= step for held in steps):
                self._cut(lambda old: old["stage"] == stage and old.get("step", -1) >= step)
                for held in [held for held in steps if held >= step]:
                    del steps[held]
            steps[step] = row
        self._append({"stage": stage, **row})
        return True

    def summarise(self, stage: str, values: Mapping[str, Any]) -> bool:
        """The final figures of a stage, in place of older ones; False if they are there already."""
        self._open()
        summaries = [r for r in read_jsonl(self._path) if r["stage"] == stage and "summary" in r]
        if [row["summary"] for row in summaries] == [dict(values)]:
            return False
        if summaries:
            self._cut(lambda old: old["stage"] == stage and "summary" in old)
        self._append({"stage": stage, "summary": dict(values)})
        return True

    def forget(self, stage: str) -> None:
        """Drop all rows of a stage: it starts anew."""
        steps = self._open()
        if any(row["stage"] == stage for row in read_jsonl(self._path)):
            self._cut(lambda old: old["stage"] == stage)
        steps.pop(stage, None)

    def _open(self) -> dict[str, dict[int, Row]]:
        if self._steps is None:
            repair_jsonl(self._path)
            rows = read_jsonl(self._path)
            last = {_key(row, number): number for number, row in enumerate(rows)}
            if len(last) < len(rows):  # of a version that did not look
                write_jsonl(self._path, [rows[number] for number in sorted(last.values())])
            self._steps = {}
            for row in rows:
                if "step" in row:
                    values = {k: v for k, v in row.items() if k not in ("time", "stage")}
                    self._steps.setdefault(row["stage"], {})[row["step"]] = values
        return self._steps

    def _append(self, row: Row) -> None:
        append_jsonl(self._path, [{"time": round(time.time(), 3), **row}])

    def _cut(self, gone: Callable[[Row], bool]) -> None:
        write_jsonl(self._path, [row for row in read_jsonl(self._path) if not gone(row)])


def _key(row: Row, number: int) -> tuple[Any, ...]:
    """What a row may be there once for; `number` where nothing is known."""
    if "step" in row:
        return row["stage"], row["step"]
    return (row["stage"], "summary") if "summary" in row else (number,)
