"""Read every byte of a run's checkpoints once: content hashes, and no NaN or infinity in them.

Hashing is the only full read that nothing else needs, so it is done once, when a trajectory is
recorded; afterwards size and time stamp say whether a file is still the one that was hashed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import PipelineError
from pipeline.faults import naming
from pipeline.progress import bar
from pipeline.trajectory import stream
from pipeline.trajectory.checkpoint import Checkpoint
from pipeline.trajectory.entries import Entry
from pipeline.trajectory.shards import Files
from pipeline.trajectory.sources import Trajectory
from pipeline.trajectory.stream import Piece, counted, loaded, pieces, run, worker_count

BLOCK = 1 << 23  # bytes read at once for hashing


def fingerprint(trajectory: Trajectory) -> Trajectory:
    """The same trajectory with the SHA-256 of every weight file.

    Files are hashed side by side, so one of 3 GB takes a few seconds.
    """
    files = {f.path: f for c in trajectory.checkpoints.values() for f in c.files}
    todo = [f for f in files.values() if f.sha256 is None]
    with (
        bar(sum(f.nbytes for f in todo), "hash", "B", scale=True) as progress,
        ThreadPoolExecutor(worker_count()) as pool,
    ):
        hashes = list(pool.map(lambda f: _sha256(f.path, progress.update), todo))
    hashed = {f.path: replace(f, sha256=h) for f, h in zip(todo, hashes, strict=True)}
    return trajectory.with_files(files | hashed)


def _sha256(path: Path, advance: Callable[[int], Any]) -> str:
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(BLOCK))
    with naming(path), open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
            advance(count)
    return digest.hexdigest()


def check_finite(trajectory: Trajectory) -> None:
    """Read every weight of every checkpoint and refuse NaN and infinity.

    Buffers of infinities that are the same everywhere (masks) may stay as they are.

    Raises:
        PipelineError: names checkpoint, tensor and how many of its values are not finite.
    """
    entries = [
        (c, [e for e in c.entries.values() if e.is_float and e.name not in c.fixed])
        for c in trajectory.checkpoints.values()
    ]
    total = sum(e.numel for _, some in entries for e in some)
    with Files() as files, bar(total, "check", "weights", scale=True) as progress:
        for checkpoint, some in entries:
            make = partial(_finite_worker, files, checkpoint)
            run(list(pieces(some)), lambda make=make: counted(make(), progress, 1))  # type: ignore[misc]


def _finite_worker(files: Files, checkpoint: Checkpoint) -> Callable[[Piece], None]:
    values = torch.empty(stream.PIECE)

    def work(piece: Piece) -> None:
        entry = checkpoint.entries[piece.name]
        out = values[: len(piece)]
        files.load(entry, piece.start, piece.stop, out)
        if not bool(out.sum().isfinite()):
            raise_not_finite(files, checkpoint, entry)

    return work


def raise_not_finite(files: Files, checkpoint: Checkpoint, entry: Entry) -> None:
    """Raise if the tensor holds NaN or infinity; count them for the message."""
    count = sum(int((~part.isfinite()).sum()) for _, part in loaded(files, entry))
    if count:
        raise PipelineError(
            f"{checkpoint.weights}: tensor {entry.name}: {count} of {entry.numel} values are NaN "
            "or infinite; leave this checkpoint out"
        )


def check_moved(trajectory: Trajectory) -> str:
    """What to say of checkpoints whose files are the same as an earlier one's; "" if none are.

    Args:
        trajectory: from `fingerprint`.

    Raises:
        PipelineError: all are the same, so there is no path.
    """
    first: dict[tuple[str, ...], int] = {}
    copies = []
    for step in trajectory.steps:
        content = tuple(sorted(str(f.sha256) for f in trajectory.checkpoints[step].files))
        if (same := first.setdefault(content, step)) != step:
            copies.append(f"{step} as {same}")
    if copies and len(first) == 1:
        raise PipelineError(
            f"{trajectory.checkpoints[trajectory.steps[-1]].weights}: the weights of all "
            f"{len(trajectory.steps)} checkpoints are the same files as those of step "
            f"{trajectory.steps[0]}: nothing was trained, or copies of one were saved"
        )
    return ", ".join(copies)
