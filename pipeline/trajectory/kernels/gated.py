"""Predictions whose step beyond the last checkpoint is scaled by each scalar's own R²."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.trajectory.kernels.fits import FINE, WORK, fit, measure_change, span
from pipeline.trajectory.kernels.floats import MAGNITUDE, ZERO, finite_in, narrow
from pipeline.trajectory.kernels.moments import load_rows
from pipeline.trajectory.kernels.store import compiled
from pipeline.trajectory.kernels.sums import sum_steps


@compiled
def _put_gated(total: Any, r2: Any, first: Any, last: Any, out: Any) -> bool:
    """out = theta_K + r2 (total + first - theta_K), theta_K = first + last; all fp32."""
    largest = np.uint32(0)
    for j in range(out.shape[0]):
        end = first[j] + last[j]
        bits = np.float32((total[j] + first[j] - end) * r2[j] + end).view(np.uint32)
        largest = max(largest, np.uint32(bits & MAGNITUDE))
        out[j] = narrow(bits, out)
    return bool(finite_in(largest, out))


@compiled
def combine_gated(values: Any, movements: bool, coefficients: Any, weights: Any, out: Any) -> bool:
    """`combine`, the step beyond theta_K scaled by each scalar's own R².

    Args:
        weights: fp32 [K], see `step_weights`.
    """
    count, n = values.shape
    buffer = np.empty((count + 2) * FINE, np.float32)
    work, zeros = np.empty(WORK, np.float32), np.zeros(FINE, np.float32)
    finite = True
    for start in range(0, n, FINE):
        stop = min(start + FINE, n)
        m = stop - start
        rows = buffer[: count * m].reshape(count, m)
        total, r2 = buffer[count * m : (count + 1) * m], buffer[(count + 1) * m : (count + 2) * m]
        load_rows(values, start, stop, rows, movements)
        span(rows, 0, m, zeros[:m], work)
        measure_change(r2, ZERO, work)
        fit(rows, 0, m, weights, work, r2)
        for t in range(coefficients.shape[0]):
            sum_steps(rows, 0, m, True, coefficients[t], total)
            finite &= _put_gated(total, r2, rows[0], rows[count - 1], out[t, start:stop])
    return finite
