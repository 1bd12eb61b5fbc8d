"""How well a scalar's series lies on a line in the step: its span and R²."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.trajectory.kernels.floats import ONE, ZERO, wide
from pipeline.trajectory.kernels.store import compiled

FINE = 256  # a block: many rows at once
_SMALLEST = np.finfo(np.float32).tiny

# Rows of a work array, one after the other: at fixed distances in one array LLVM sees that they do
# not overlap, so any number of them may take part in one loop.
CHANGE, _LOW, _SCALE, _TOTAL, _SLOPE, _SQUARE, WANTED = range(0, 7 * FINE, FINE)
WORK = 7 * FINE


@compiled
def span(values: Any, start: int, stop: int, first: Any, work: Any) -> None:
    """work's change and low = max and min over `first` and rows 1..K-1."""
    for j in range(first.shape[0]):
        work[CHANGE + j] = first[j]
        work[_LOW + j] = first[j]
    for k in range(1, values.shape[0]):
        source = values[k, start:stop]
        for j in range(source.shape[0]):
            value = wide(source[j])
            work[CHANGE + j] = max(work[CHANGE + j], value)
            work[_LOW + j] = min(work[_LOW + j], value)


@compiled
def measure_change(first: Any, threshold: Any, work: Any) -> bool:
    """change = max - min, scale = 1 / change, wanted = 1 where it is above the threshold.

    Returns:
        Whether any is.
    """
    any_bits = np.uint32(0)
    for j in range(first.shape[0]):
        change = work[CHANGE + j] - work[_LOW + j]
        wanted = ONE if change > threshold else ZERO
        work[CHANGE + j] = change
        work[_SCALE + j] = ONE / max(change, _SMALLEST)
        work[WANTED + j] = wanted
        any_bits = max(any_bits, np.float32(wanted).view(np.uint32))
    return bool(any_bits > np.uint32(0))


@compiled
def fit(rows: Any, start: int, stop: int, weights: Any, work: Any, r2: Any) -> None:
    """r2 in [0, 1] of the series 0, rows[1], ... on the steps; 0 where constant.

    Each series is scaled by its own range, so that squares neither underflow nor overflow; and
    with a difference of 0 among the points, sum(d²) - K mean² loses at most a factor K + 1 of
    precision (computed from raw weights it could lose all).
    """
    for k in range(1, rows.shape[0]):
        row, weight = rows[k, start:stop], weights[k]
        if k == 1:
            for j in range(row.shape[0]):
                scaled = row[j] * work[_SCALE + j]
                work[_TOTAL + j] = scaled
                work[_SLOPE + j] = scaled * weight
                work[_SQUARE + j] = scaled * scaled
        else:
            for j in range(row.shape[0]):
                scaled = row[j] * work[_SCALE + j]
                work[_TOTAL + j] += scaled
                work[_SLOPE + j] += scaled * weight
                work[_SQUARE + j] += scaled * scaled
    share = np.float32(1.0 / rows.shape[0])
    for j in range(r2.shape[0]):
        total, slope = work[_TOTAL + j], work[_SLOPE + j]
        square = max(work[_SQUARE + j] - total * total * share, _SMALLEST)
        r2[j] = min(slope * slope / square, ONE)


def step_weights(steps: Any) -> Any:
    """fp32 [K]: the steps, centred, of length 1; their product with a series is its slope."""
    centred = np.asarray(steps, np.float64)
    centred = centred - centred.mean()
    return (centred / np.sqrt(centred @ centred)).astype(np.float32)
