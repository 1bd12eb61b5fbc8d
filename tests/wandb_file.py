"""Read the file of an offline W&B run back: a log of LevelDB's format that holds W&B's records."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

BLOCK = 32768  # bytes; no chunk crosses the end of one
HEAD = 7  # bytes: of the file, and of each chunk (checksum, length, kind)
FULL, FIRST, MIDDLE, LAST = range(1, 5)


def records(path: Path) -> Iterator[Any]:
    """The records of a .wandb file, in order."""
    kinds: Any = wandb_internal_pb2  # made at run time: it has no types
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    at, held = HEAD, b""
    while at + HEAD <= len(data):
        left = BLOCK - at % BLOCK
        if left < HEAD:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        if kind not in (FULL, FIRST, MIDDLE, LAST):
            return
        held += data[at + HEAD : at + HEAD + length]
        at += HEAD + length
        if kind in (FULL, LAST):
            record = kinds.Record()
            record.ParseFromString(held)
            held = b""
            yield record


def run_file(run_dir: Path) -> Path:
    """The file of the run's newest start."""
    return sorted(run_dir.glob("wandb/offline-run-*/run-*.wandb"))[-1]


def history(path: Path) -> list[dict[str, Any]]:
    """Rows that were logged; keys of W&B's own are left out."""
    rows = []
    for record in records(path):
        if record.WhichOneof("record_type") == "history":
            row = {
                item.key or "/".join(item.nested_key): json.loads(item.value_json)
                for item in record.history.item
            }
            rows.append({key: value for key, value in row.items() if not key.startswith("_")})
    return rows
