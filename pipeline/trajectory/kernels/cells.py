"""Histograms of R²."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.trajectory.kernels.flags import KEPT
from pipeline.trajectory.kernels.store import compiled

_BLOCK = 1024


@compiled
def count_cells(r2: Any, flags: Any, counts: Any) -> tuple[float, float]:
    """Add R² (fp32 [n]) to the cells of counts [2, C], dropped and kept apart.

    Returns:
        The sums of R², dropped and kept, in fp64.
    """
    cells = counts.shape[1]
    scale, last, shift = np.float32(cells), np.int32(cells - 1), np.int32(cells)
    places, both = np.empty(_BLOCK, np.uint32), counts.reshape(2 * cells)
    dropped, kept = 0.0, 0.0
    for start in range(0, len(r2), _BLOCK):
        part, own = r2[start : start + _BLOCK], flags[start : start + _BLOCK]
        for j in range(part.shape[0]):
            cell = min(max(np.int32(part[j] * scale), np.int32(0)), last)
            places[j] = np.uint32(cell + (shift if own[j] & KEPT else np.int32(0)))
        for j in range(part.shape[0]):  # no branches, which would be guessed wrong
            both[places[j]] += 1
            share = np.float64(own[j] & KEPT) / KEPT
            kept += part[j] * share
            dropped += part[j] * (1.0 - share)
    return dropped, kept
