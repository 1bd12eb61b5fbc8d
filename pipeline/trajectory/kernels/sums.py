"""theta_0 + sum_k c_k delta_k, rounded once to what is written."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.trajectory.kernels.floats import MAGNITUDE, ZERO, finite_in, narrow, wide
from pipeline.trajectory.kernels.store import compiled

_WIDE = 2048  # a block: few rows at once


@compiled
def _put_line(first: Any, last: Any, movement: bool, factor: Any, out: Any) -> bool:
    """out = first + factor (last - first), or first + factor last where that is a movement.

    Returns:
        False if a NaN or infinity came out, as all that write to `out` do.
    """
    largest = np.uint32(0)
    if movement:
        for j in range(out.shape[0]):
            bits = np.float32(wide(last[j]) * factor + wide(first[j])).view(np.uint32)
            largest = max(largest, np.uint32(bits & MAGNITUDE))
            out[j] = narrow(bits, out)
    else:
        for j in range(out.shape[0]):
            start = wide(first[j])
            bits = np.float32((wide(last[j]) - start) * factor + start).view(np.uint32)
            largest = max(largest, np.uint32(bits & MAGNITUDE))
            out[j] = narrow(bits, out)
    return bool(finite_in(largest, out))


@compiled
def _put_sum(total: Any, first: Any, out: Any) -> bool:
    """out = total + first."""
    largest = np.uint32(0)
    for j in range(out.shape[0]):
        bits = np.float32(total[j] + wide(first[j])).view(np.uint32)
        largest = max(largest, np.uint32(bits & MAGNITUDE))
        out[j] = narrow(bits, out)
    return bool(finite_in(largest, out))


@compiled
def _step(total: Any, first: Any, other: Any, movement: bool, factor: Any, begun: bool) -> None:
    """total (+)= factor (other - first), or factor other where that is a movement."""
    if begun:
        if movement:
            for j in range(total.shape[0]):
                total[j] += wide(other[j]) * factor
        else:
            for j in range(total.shape[0]):
                total[j] += (wide(other[j]) - wide(first[j])) * factor
    elif movement:
        for j in range(total.shape[0]):
            total[j] = wide(other[j]) * factor
    else:
        for j in range(total.shape[0]):
            total[j] = (wide(other[j]) - wide(first[j])) * factor


@compiled
def sum_steps(
    values: Any, start: int, stop: int, movements: bool, coefficients: Any, total: Any
) -> None:
    """total = sum_k coefficients[k] delta_k of a block [K, m]; what has a 0 is left out."""
    begun = False
    for k in range(1, values.shape[0]):
        if coefficients[k] != ZERO:
            _step(
                total,
                values[0, start:stop],
                values[k, start:stop],
                movements,
                coefficients[k],
                begun,
            )
            begun = True
    if not begun:
        total[:] = -ZERO  # and not 0, which would turn a sum with -0 into 0


@compiled
def combine(values: Any, movements: bool, coefficients: Any, out: Any) -> bool:
    """out[t] = theta_0 + sum_k coefficients[t, k] delta_k for each target t.

    Products and sums are rounded apart, as in theta_0 + c * delta in numpy or torch; what has a
    coefficient of 0 is left out.

    Args:
        coefficients: fp32 [T, K].
        out: [T, n], bf16 as uint16, or fp32.

    Returns:
        False if a NaN or infinity came out.
    """
    count, n = values.shape
    total = np.empty(_WIDE, np.float32)
    finite = True
    for start in range(0, n, _WIDE):
        stop = min(start + _WIDE, n)
        first = values[0, start:stop]
        for t in range(coefficients.shape[0]):
            row, target = coefficients[t], out[t, start:stop]
            terms, last = 0, 0
            for k in range(1, count):
                if row[k] != ZERO:
                    terms, last = terms + 1, k
            if terms == 1:
                finite &= _put_line(first, values[last, start:stop], movements, row[last], target)
            else:
                part = total[: stop - start]
                sum_steps(values, start, stop, movements, row, part)
                finite &= _put_sum(part, first, target)
    return finite
