"""Read one piece of all checkpoints at once, in the form that the kernels take.

bf16 tensors, nearly all there are, go to the kernels as they lie on disk, and so do bf16 movements
from a bf16 base. Everything else (fp32, fp16, LoRA) is brought to fp32 first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.trajectory import stream
from pipeline.trajectory.checkpoint import Checkpoint
from pipeline.trajectory.entries import Entry, shares_base
from pipeline.trajectory.fingerprint import raise_not_finite
from pipeline.trajectory.shards import Files
from pipeline.trajectory.stream import Piece


@dataclass(frozen=True)
class Values:
    """K checkpoints' values of n scalars.

    Attributes:
        array: [K, n], uint16 that hold bf16, or fp32.
        movements: True if rows 1..K-1 are differences to row 0 rather than values.
    """

    array: NDArray[Any]
    movements: bool


class Reader:
    """One thread's buffers for K checkpoints; what `read` returns is overwritten by the next."""

    def __init__(self, checkpoints: Sequence[Checkpoint], files: Files) -> None:
        self._checkpoints = checkpoints
        self._files = files
        self._bf16 = np.empty(len(checkpoints) * stream.PIECE, np.uint16)
        self._fp32 = torch.empty(0)  # until a tensor needs it

    def read(self, piece: Piece, places: Sequence[int] | None = None) -> Values:
        """The values of the piece at every checkpoint, or at those of `places`, theta_0's first."""
        used = self._checkpoints if places is None else [self._checkpoints[i] for i in places]
        entries = [checkpoint.entries[piece.name] for checkpoint in used]
        base, *others = entries
        shifts = [e.shift for e in others if shares_base(e, base) and isinstance(e.shift, Entry)]
        movements = len(shifts) == len(others) > 0
        stored = [base, *shifts] if movements else entries
        if not all(e.dtype == torch.bfloat16 and e.plain for e in stored):
            return self._read_fp32(piece, entries)
        rows = self._bf16[: len(entries) * len(piece)].reshape(len(entries), -1)
        for entry, row in zip(stored, rows, strict=True):
            self._files.read(entry, piece.start, piece.stop, row)
        return Values(rows, movements)

    def _read_fp32(self, piece: Piece, entries: Sequence[Entry]) -> Values:
        if not len(self._fp32):
            self._fp32 = torch.empty(len(self._checkpoints) * stream.PIECE)
        span = piece.start, piece.stop
        rows = self._fp32[: len(entries) * len(piece)].view(len(entries), -1)
        self._files.load(entries[0], *span, rows[0])
        # movements that are stored as such would lose bits in a sum with the base
        movements = any(shares_base(entry, entries[0]) for entry in entries[1:])
        for entry, row in zip(entries[1:], rows[1:], strict=True):
            if movements:
                self._files.load_delta(entry, entries[0], *span, rows[0], row)
            else:
                self._files.load(entry, *span, row)
        return Values(rows.numpy(), movements)

    def blame(self, piece: Piece) -> None:
        """Called where a result is not finite: raise if an input is not.

        Raises:
            PipelineError: NaN or infinity in an input; names checkpoint, tensor and count.
        """
        for checkpoint in self._checkpoints:
            raise_not_finite(self._files, checkpoint, checkpoint.entries[piece.name])
