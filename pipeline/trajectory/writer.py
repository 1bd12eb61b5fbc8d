"""Write safetensors models whose every byte range is known before the first is computed.

Names, shapes and dtypes fix the header, so any thread (or rank) can put any piece at its place
with `pwrite`. A shard has a temporary name until it is whole; a model folder until it is complete.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from pipeline.artifacts import write_json
from pipeline.errors import PipelineError
from pipeline.faults import naming
from pipeline.trajectory.entries import Entry, Extent
from pipeline.trajectory.shards import DTYPE_NAMES, as_bytes
from pipeline.trajectory.share import Share

SHARD_BYTES = 2 << 30


@dataclass(frozen=True)
class Shard:
    """One output file: its name, its header and where each tensor goes."""

    filename: str
    header: bytes
    entries: tuple[Entry, ...]

    @property
    def nbytes(self) -> int:
        return len(self.header) + sum(entry.nbytes for entry in self.entries)


def plan_shards(
    tensors: Iterable[tuple[str, torch.dtype, tuple[int, ...]]], limit: int = SHARD_BYTES
) -> list[Shard]:
    """Deal tensors, in order, out to files of at most `limit` bytes (a larger tensor has its own).

    The files are named as transformers names them: `model.safetensors` if one is enough.
    """
    groups: list[list[Entry]] = [[]]
    size = 0
    for name, dtype, shape in tensors:
        entry = Entry(name, dtype, shape, ())
        if groups[-1] and size + entry.nbytes > limit:
            groups.append([])
            size = 0
        groups[-1].append(entry)
        size += entry.nbytes
    if len(groups) == 1:
        return [plan_shard("model.safetensors", groups[0])]
    names = [f"model-{i:05d}-of-{len(groups):05d}.safetensors" for i in range(1, len(groups) + 1)]
    return [plan_shard(name, group) for name, group in zip(names, groups, strict=True)]


def plan_shard(filename: str, tensors: Sequence[Entry]) -> Shard:
    """One file with these tensors (their extents count for nothing), the widest dtype first."""
    ordered = sorted(tensors, key=lambda e: -e.dtype.itemsize)  # stable: keeps values aligned
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position, begins = 0, []
    for entry in ordered:
        begins.append(position)
        header[entry.name] = {
            "dtype": DTYPE_NAMES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [position, position + entry.nbytes],
        }
        position += entry.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    data = len(text).to_bytes(8, "little") + text
    placed = tuple(
        Entry(e.name, e.dtype, e.shape, (Extent(Path(filename), len(data) + begin, e.nbytes),))
        for e, begin in zip(ordered, begins, strict=True)
    )
    return Shard(filename, data, placed)


class ShardFile:
    """One process's part of a shard, written into a file under a temporary name.

    Safe to use from several threads. When all of this process's bytes are there it leaves a
    marker; with the markers of all processes the file is whole and gets its name. A kill leaves
    the temporary file, which the next start of the same plan writes again.
    """

    def __init__(self, folder: Path, shard: Shard, share: Share) -> None:
        self._folder = folder
        self._shard = shard
        self._share = share
        self._entries = {entry.name: entry for entry in share.own(shard.entries)}
        self._left = len(shard.header) + sum(e.nbytes for e in self._entries.values())
        self._lock = threading.Lock()
        self._temporary = folder / f".{shard.filename}.tmp"
        self._descriptor = os.open(self._temporary, os.O_WRONLY | os.O_CREAT, 0o666)
        with naming(self._temporary):
            os.ftruncate(self._descriptor, shard.nbytes)
        self._put(shard.header, 0)

    def write(self, name: str, start: int, data: torch.Tensor | NDArray[Any]) -> None:
        """Put `data` (contiguous, of the tensor's dtype) at element `start` of tensor `name`."""
        entry = self._entries[name]
        self._put(as_bytes(data), entry.extents[0].offset + start * entry.dtype.itemsize)

    def _put(self, view: memoryview | bytes, position: int) -> None:
        done = 0
        with naming(self._temporary):
            while done < len(view):
                done += os.pwrite(self._descriptor, view[done:], position + done)
        with self._lock:
            self._left -= done
            complete = self._left == 0
        if complete:
            with naming(self._temporary):  # a network file system may only now find its disk full
                os.close(self._descriptor)
            self._marker(self._share.rank).touch()
            if all(self._marker(rank).exists() for rank in range(self._share.world)):
                with contextlib.suppress(FileNotFoundError):  # another process was first
                    os.replace(self._temporary, self._folder / self._shard.filename)

    def _marker(self, rank: int) -> Path:
        return self._folder / f".{self._shard.filename}.{rank}-of-{self._share.world}"


def write_index(folder: Path, shards: Sequence[Shard]) -> None:
    """The index that ties the shards together; nothing for a single file."""
    if len(shards) == 1:
        return
    weight_map = {e.name: shard.filename for shard in shards for e in shard.entries}
    total = sum(e.nbytes for shard in shards for e in shard.entries)
    write_json(
        folder / "model.safetensors.index.json",
        {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))},
    )


def check_space(folder: Path, nbytes: int) -> None:
    """Refuse to start what the disk cannot hold.

    Raises:
        PipelineError: says how much is missing.
    """
    existing = folder
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if nbytes > free:
        raise PipelineError(
            f"{folder}: {nbytes / 1e9:.3g} GB to write, {free / 1e9:.3g} GB free; make room"
        )
