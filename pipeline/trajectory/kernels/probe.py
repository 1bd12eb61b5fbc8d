"""One walk for the linearity of weights: R², filters and moments."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.trajectory.kernels.distinct import KEPT_ROWS, filter_distinct, places
from pipeline.trajectory.kernels.fits import CHANGE, FINE, WANTED, WORK, fit, measure_change, span
from pipeline.trajectory.kernels.flags import KEPT, MOVING, NEITHER
from pipeline.trajectory.kernels.floats import ZERO
from pipeline.trajectory.kernels.moments import BLOCK, add_gram, dot, load_rows, mirror
from pipeline.trajectory.kernels.store import compiled


@compiled
def linearity(
    values: Any,
    movements: bool,
    weights: Any,
    min_change: float,
    min_unique: int,
    r2: Any,
    flags: Any,
    base: Any,
    gram: Any,
) -> None:
    """R² of every scalar, which scalars move and pass the filters, and the moments.

    Args:
        weights: fp32 [K], see `step_weights`.
        min_change: a scalar passes if max - min exceeds this,
        min_unique: and if it takes at least so many distinct values.
        r2: fp32 [n], written; in [0, 1], 0 where constant.
        flags: uint8 [n], written: MOVING, and KEPT if it passes.
        base: fp64 [K], added to: ||theta_0||², then <theta_0, delta_k>.
        gram: fp64 [K, K], added to.
    """
    count, n = values.shape
    buffer = np.empty(count * BLOCK, np.float32)
    work, zeros = np.empty(WORK, np.float32), np.zeros(FINE, np.float32)
    kept_values = np.empty(KEPT_ROWS, np.float32)
    more = np.empty((places(count, min_unique), FINE), np.float32)
    threshold, least = np.float32(min_change), np.float32(min_unique)
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        rows = buffer[: count * (stop - start)].reshape(count, stop - start)
        load_rows(values, start, stop, rows, movements)
        for k in range(count):
            base[k] += dot(rows[0], rows[k])
        add_gram(rows, gram)
        for low in range(start, stop, FINE):
            high = min(low + FINE, stop)
            first = zeros[: high - low] if movements else rows[0, low - start : high - start]
            span(values, low, high, first, work)
            some = measure_change(first, threshold, work)
            if some and min_unique > 1:
                filter_distinct(values, low, high, first, least, kept_values, more, work)
            part = flags[low:high]
            for j in range(part.shape[0]):
                moving = MOVING if work[CHANGE + j] > ZERO else NEITHER
                kept = KEPT if work[WANTED + j] > ZERO else NEITHER
                part[j] = np.uint8(moving | kept)
            fit(rows, low - start, high - start, weights, work, r2[low:high])
    mirror(gram)
