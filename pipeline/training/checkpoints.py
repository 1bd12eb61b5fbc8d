"""Training checkpoints that are whole or not there, and their link to the spec that made them.

A checkpoint holds many files from many ranks, written one by one. It counts only once the marker
file is in it, and the marker is written after every rank has finished.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

from pipeline.artifacts import read_jsonl, read_own, write_json, write_text
from pipeline.faults import naming
from pipeline.training.spec import Spec, fingerprint

MARKER = "whole.json"
_NAME = re.compile(r"checkpoint-(\d+)")


def mark_whole(folder: Path, step: int) -> None:
    """Flush every file of a finished checkpoint to disk, then mark it."""
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            with naming(file), open(file, "rb") as handle:
                os.fsync(handle.fileno())
    write_json(folder / MARKER, {"step": step})


def last_whole(folder: Path) -> tuple[Path, int] | None:
    """The newest whole checkpoint below `folder` and its RL (or SFT) step; None if there is none.

    "Newest" is the highest optimiser step, the number in the folder's name.
    """
    found = []
    for path in folder.glob("checkpoint-*"):
        match = _NAME.fullmatch(path.name)
        if match and (path / MARKER).is_file():
            found.append((int(match[1]), path))
    if not found:
        return None
    path = max(found)[1]
    return path, int(read_own(path / MARKER)["step"])


def prepare_output(spec: Spec) -> None:
    """Make `spec.output` fit to start or resume from; run by one process before the others go on.

    What another spec left there is removed: its checkpoints must not be resumed, nor its snapshots
    mixed with ours. Half-written checkpoints and snapshots are removed, and rows (metrics, jumps)
    of steps that will be run again.
    """
    output = Path(spec.output)
    record, print_ = output / "fingerprint.json", {"fingerprint": fingerprint(spec)}
    if record.exists() and read_own(record) != print_:
        for name in ("checkpoints", "snapshots", "model", "init"):
            shutil.rmtree(output / name, ignore_errors=True)
        for name in ("metrics.jsonl", "regrounds.jsonl"):
            (output / name).unlink(missing_ok=True)
        record.unlink()
    if not record.exists():
        write_json(record, print_)
    for leftover in output.glob("**/.*.partial"):
        shutil.rmtree(leftover)
    for checkpoint in (output / "checkpoints").glob("checkpoint-*"):
        if not (checkpoint / MARKER).is_file():
            shutil.rmtree(checkpoint)
    resumed = last_whole(output / "checkpoints")
    for name in ("metrics.jsonl", "regrounds.jsonl"):
        _cut_rows(output / name, 0 if resumed is None else resumed[1])


def _cut_rows(path: Path, step: int) -> None:
    rows = read_jsonl(path)
    kept = [row for row in rows if row["step"] <= step]
    if path.exists() and (len(kept) < len(rows) or not path.read_bytes().endswith(b"\n")):
        write_text(path, "".join(_line(row) for row in kept))


def _line(row: dict[str, object]) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
