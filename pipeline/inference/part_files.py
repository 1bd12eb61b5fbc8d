"""Files of generations that several processes write, each its own, until their rows are brought
together."""

from __future__ import annotations

from pathlib import Path

from pipeline.artifacts import append_jsonl, read_jsonl, repair_jsonl
from pipeline.inference.run import read_keys, row_key


def part_of(path: Path, rank: int, size: int) -> Path:
    """The file of one of `size` shares, beside the whole."""
    return path.with_name(f"{path.stem}.part{rank}of{size}.jsonl")


def parts_of(path: Path) -> list[Path]:
    """The files of all shares that are there."""
    return sorted(path.parent.glob(f"{path.stem}.part*of*.jsonl"))


def merge_parts(path: Path) -> int:
    """Move the whole rows of every part file into `path`, each once; returns how many."""
    repair_jsonl(path)
    parts = parts_of(path)
    present = read_keys(path) if parts else set()
    added = 0
    for part in parts:
        rows = {row_key(row): row for row in read_jsonl(part)}
        fresh = [row for key, row in rows.items() if key not in present]
        append_jsonl(path, fresh)
        part.unlink()  # a kill before this line costs nothing: the rows are then known
        present |= rows.keys()
        added += len(fresh)
    return added
