"""Our own snapshots: base checkpoint + δ = θ_t - θ_0 a step, in bf16 by default.

One RL step at LR 1e-6 is below the bf16 spacing of most weights, so bf16 checkpoints turn the path
into stairs. A bf16 delta has the same size and keeps eight significant bits of the movement.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pipeline.artifacts import read_json, write_json
from pipeline.errors import PipelineError
from pipeline.trajectory.checkpoint import Checkpoint, Found
from pipeline.trajectory.entries import Entry
from pipeline.trajectory.layouts.delta_parts import INDEX, read_parts, write_parts_index
from pipeline.trajectory.shards import Files, read_header
from pipeline.trajectory.share import Share
from pipeline.trajectory.stream import PIECE, Piece, pieces, run
from pipeline.trajectory.tying import is_head, tied_heads
from pipeline.trajectory.writer import ShardFile, check_space, plan_shard

RECORD = "delta.json"
WEIGHTS = "delta.safetensors"
FORMAT = 1
SAMPLE = 256  # bytes of each base tensor that its digest sees: enough to tell models apart


def stream_delta_snapshot(
    folder: Path,
    base: Checkpoint,
    step: int,
    shapes: Mapping[str, tuple[int, ...]],
    weights: Iterable[tuple[str, torch.Tensor]],
    dtype: torch.dtype = torch.bfloat16,
) -> None:
    """Write one snapshot from weights that come one at a time; only the one in work is ever held.

    Args:
        folder: where to, e.g. snapshots/step_40; it is complete once its delta.json is there.
        base: the model that training started from; kept as a path, not copied.
        shapes: of all tensors that will come, by name; what the base has beside them is taken as
            not moved.
        weights: (name, θ_t fp32 on the CPU); the difference from the base's stored values is
            taken in fp32 and rounded once to `dtype`.

    Raises:
        PipelineError: the disk is full, or one of `shapes` did not come.
    """
    folder.mkdir(parents=True, exist_ok=True)
    check_space(folder, sum(map(math.prod, shapes.values())) * dtype.itemsize)
    _stream(folder, WEIGHTS, base, shapes, ((n, 0, weight) for n, weight in weights), dtype)
    write_record(folder, base.folder, step, base.entries)


def stream_delta_part(
    folder: Path,
    filename: str,
    base: Checkpoint,
    sizes: Mapping[str, int],
    weights: Iterable[tuple[str, int, torch.Tensor]],
    dtype: torch.dtype = torch.bfloat16,
) -> None:
    """One rank's file of a snapshot (see `delta_parts`), beside those of other ranks.

    Args:
        sizes: elements of the part of each tensor that will come.
        weights: (name, first element, θ_t fp32 [n] on the CPU) of each part.

    Raises:
        PipelineError: one of `sizes` did not come.
    """
    _stream(folder, filename, base, {n: (size,) for n, size in sizes.items()}, weights, dtype)


def finish_parts(
    folder: Path,
    base: Checkpoint,
    step: int,
    shapes: Mapping[str, tuple[int, ...]],
    parts: Mapping[str, Mapping[str, int]],
) -> None:
    """Make the ranks' files a snapshot, as `write_parts_index` and the record beside it say.

    Raises:
        PipelineError: a rank's file is not here, where all should write.
    """
    for file in parts:
        if not (folder / file).exists():
            raise PipelineError(
                f"{folder / file}: written, but not to this disk; choose a run.dir on a file "
                "system that all nodes share"
            )
    write_parts_index(folder, shapes, parts)
    write_record(folder, base.folder, step, base.entries)


def _stream(
    folder: Path,
    filename: str,
    base: Checkpoint,
    shapes: Mapping[str, tuple[int, ...]],
    weights: Iterable[tuple[str, int, torch.Tensor]],
    dtype: torch.dtype,
) -> None:
    """Write one file of differences; each of `weights` begins at that element of its tensor."""
    shard = plan_shard(filename, [Entry(name, dtype, shape, ()) for name, shape in shapes.items()])
    output = ShardFile(folder, shard, Share())
    missing = set(shapes)
    with Files() as files:
        for name, start, weight in weights:
            flat = weight.reshape(-1)
            part = Entry(name, dtype, tuple(flat.shape), ())
            make = partial(_subtracter, files, base.entries[name], start, flat, output, dtype)
            run(list(pieces([part])), make)
            missing.discard(name)
    if missing:
        raise PipelineError(f"{folder}: tensor {min(missing)} is not among the model's weights")
    (folder / f".{filename}.0-of-1").unlink()  # the writer's note that it is whole


def _subtracter(
    files: Files,
    entry: Entry,
    first: int,
    weight: torch.Tensor,
    output: ShardFile,
    dtype: torch.dtype,
) -> Callable[[Piece], None]:
    """One thread's work on a tensor, piece by piece: weight fp32 [n] minus the base's values from
    element `first` on."""
    theta_0 = torch.empty(PIECE)

    def work(piece: Piece) -> None:
        start = theta_0[: len(piece)]
        files.load(entry, first + piece.start, first + piece.stop, start)
        delta = torch.sub(weight[piece.start : piece.stop], start, out=start)
        output.write(entry.name, piece.start, delta.to(dtype))

    return work


def write_record(folder: Path, base: Path, step: int, entries: Mapping[str, Entry]) -> None:
    """What makes a folder with deltas a snapshot; `entries` are the base's tensors."""
    record = {"format": FORMAT, "step": step, "base": str(base.resolve())}
    write_json(folder / RECORD, record | {"base_digest": _digest(entries) if entries else None})


def _digest(entries: Mapping[str, Entry]) -> str:
    """Hash of the beginning of every tensor, as stored; a tied head may be there or not."""
    digest = hashlib.sha256()
    with Files() as files:
        for name in sorted(n for n in entries if not is_head(n)):
            entry = entries[name]
            count = min(entry.numel, SAMPLE // entry.dtype.itemsize)
            sample = torch.empty(count * entry.dtype.itemsize, dtype=torch.uint8)
            files.read(entry, 0, count, sample)
            digest.update(name.encode() + bytes(sample.tolist()))
    return digest.hexdigest()


def holds(source: Path) -> bool:
    """True if `source` is a snapshot."""
    return (source / RECORD).exists()


def named_base(source: Path) -> Path:
    """The base that the snapshot in `source` names, where snapshot.base is not given.

    Raises:
        PipelineError: it is no folder here.
    """
    named = Path(str(_record(source)["base"]))
    if not named.is_dir():
        raise PipelineError(f"{source}: its base {named} is not there; give snapshot.base")
    return named


def _record(source: Path) -> dict[str, Any]:
    path = source / RECORD
    record = read_json(path)
    if not isinstance(record, dict) or "base" not in record:
        raise PipelineError(f"{path}: no record of a snapshot; copy it again")
    return record


def read(source: Path, base: Checkpoint) -> Found:
    """The snapshot in `source`, added to its base.

    Raises:
        PipelineError: another base than the one that it was taken from, or one that has not these
            tensors.
    """
    record = _record(source)
    folder, entries = base.folder, base.entries
    if record.get("base_digest") not in (None, _digest(entries)):
        raise PipelineError(
            f"{source}: taken from other weights than those in {folder}; give the model that "
            f"training started from ({record['base']}) as snapshot.base"
        )
    parted = (source / INDEX).exists()
    deltas = read_parts(source) if parted else read_header(source / WEIGHTS)
    if not deltas:
        raise PipelineError(
            f"{source / (INDEX if parted else WEIGHTS)}: no tensors in it; copy the snapshot again"
        )
    entries = entries | tied_heads(
        deltas, entries, base.ties
    )  # a head that the run trains by itself
    for name, delta in deltas.items():
        if name not in entries:
            raise PipelineError(f"{source}: delta of {name}, which the base {folder} lacks")
        if entries[name].shift is not None:
            raise PipelineError(
                f"{base.source}: {name} is stored as a difference to another model "
                f"({base.layout}); write this base as a model first (snapshot.export) and give that"
            )
        if delta.shape != entries[name].shape:
            raise PipelineError(
                f"{source}: delta of {name} has shape {list(delta.shape)}, the base's tensor "
                f"{list(entries[name].shape)}"
            )
    shifted = {name: replace(e, shift=deltas.get(name, e.shift)) for name, e in entries.items()}
    return Found("delta", folder, shifted)
