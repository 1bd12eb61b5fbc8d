"""The arithmetic of the core, compiled: all that is done with a piece, in one walk through it.

A piece is walked in blocks that stay in the first-level cache, so memory is touched twice, when a
piece is read and when it is written, whatever the number of checkpoints and targets; torch would
walk through memory once for each operation. The steps of a block are loops over two or three
contiguous arrays: with more, LLVM gives up on vector instructions, since it cannot tell whether
the arrays overlap; nor may integers widen on the way, hence the casts. Nothing is fused or
reordered except inside `_dot`, so results are those of the same operations in numpy or torch, to
the bit.

All of it is one file because it is compiled as one: numba's store of compiled code sees a change
of the file that a kernel is in, not of others.

Shapes: `values` [K, n] are the K checkpoints' values of n scalars, C-contiguous: uint16 that hold
bf16, or fp32. `movements` says that rows 1..K-1 are already differences to row 0.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pickle import UnpicklingError
from typing import Any

import numpy as np
from numba import njit, types
from numba.core.caching import FunctionCache
from numba.extending import overload

BLOCK = 1024  # fp32 sums run over so many products, the rest is added in fp64
MOVING, KEPT = np.uint8(1), np.uint8(2)  # flags of `linearity`
_SMALLEST = np.finfo(np.float32).tiny
_ZERO, _ONE = np.float32(0.0), np.float32(1.0)
_HALF = np.uint32(16)  # bits: bf16 is the upper half of fp32
_MAGNITUDE = np.uint32(0x7FFFFFFF)  # all but the sign
_INFINITY = np.uint32(0x7F800000)
_LARGEST_BF16 = np.uint32(0x7F7F8000)  # from here on fp32 rounds to infinity in bf16


def _compiled(function: Callable[..., Any], **options: Any) -> Any:
    """Compile at the first call, without the GIL; machine code is kept for later processes."""
    options |= {"nogil": True, "error_model": "numpy"}  # a check for x / 0 would cost the vectors
    kernel = njit(function, **options)
    with suppress(RuntimeError):  # neither the package's folder nor the user's can be written
        kernel._cache = _Store(function)
    return kernel


class _Store(FunctionCache):  # type: ignore[misc]
    """Numba's store of machine code, as `cache=True` opens it. It only saves time, so a full disk
    or a damaged file there costs that time again, and not the run."""

    def load_overload(self, signature: Any, target: Any) -> Any:
        try:
            return super().load_overload(signature, target)
        except (OSError, EOFError, UnpicklingError):
            return None

    def save_overload(self, signature: Any, compiled: Any) -> None:
        with suppress(OSError, EOFError, UnpicklingError):
            super().save_overload(signature, compiled)


def _load(source: Any, row: Any) -> None:
    """row (fp32) = source (bf16 as uint16, or fp32)."""


@overload(_load)
def _load_by_type(source: Any, row: Any) -> Any:
    def widen(source: Any, row: Any) -> None:
        bits = row.view(np.uint32)
        for j in range(source.shape[0]):
            bits[j] = np.uint32(source[j]) << _HALF

    def copy(source: Any, row: Any) -> None:
        _copy(row, source)

    return widen if source.dtype == types.uint16 else copy


def _store(row: Any, out: Any) -> bool:
    """out (bf16 as uint16, or fp32) = row, rounded to nearest even; False if not all finite."""
    return True


@overload(_store)
def _store_by_type(row: Any, out: Any) -> Any:
    def rounded(row: Any, out: Any) -> bool:
        bits = row.view(np.uint32)
        for j in range(row.shape[0]):
            x = bits[j]
            half = np.uint32(np.uint32(0x7FFF) + np.uint32(np.uint32(x >> _HALF) & np.uint32(1)))
            out[j] = np.uint16(np.uint32(x + half) >> _HALF)
        return bool(_all_below(row, _LARGEST_BF16))

    def copied(row: Any, out: Any) -> bool:
        _copy(out, row)
        return bool(_all_below(row, _INFINITY))

    return rounded if out.dtype == types.uint16 else copied


@_compiled
def _all_below(row: Any, limit: Any) -> bool:
    """Whether all |values| are below the number with the bits `limit`; NaNs are above all."""
    bits = row.view(np.uint32)
    bad = np.uint32(0)
    for j in range(row.shape[0]):
        bad |= np.uint32(np.uint32(bits[j] & _MAGNITUDE) >= limit)
    return bad == 0


def _sum_of_products(x: Any, y: Any) -> Any:
    total = _ZERO
    for j in range(x.shape[0]):
        total += x[j] * y[j]
    return total


_dot = _compiled(_sum_of_products, fastmath={"reassoc", "contract", "nsz"})


@_compiled
def _copy(out: Any, row: Any) -> None:  # out[:] = row takes five times as long
    for j in range(row.shape[0]):
        out[j] = row[j]


@_compiled
def _subtract(row: Any, other: Any) -> None:
    for j in range(row.shape[0]):
        row[j] -= other[j]


@_compiled
def _scale(out: Any, row: Any, factor: Any) -> None:
    for j in range(row.shape[0]):
        out[j] = row[j] * factor


@_compiled
def _multiply(out: Any, row: Any, other: Any) -> None:
    for j in range(row.shape[0]):
        out[j] = row[j] * other[j]


@_compiled
def _add(total: Any, row: Any) -> None:
    for j in range(row.shape[0]):
        total[j] += row[j]


@_compiled
def _add_scaled(total: Any, row: Any, factor: Any) -> None:
    for j in range(row.shape[0]):
        total[j] += row[j] * factor


@_compiled
def _add_product(total: Any, row: Any, other: Any) -> None:
    for j in range(row.shape[0]):
        total[j] += row[j] * other[j]


@_compiled
def _raise_to(row: Any, other: Any) -> None:
    for j in range(row.shape[0]):
        row[j] = max(row[j], other[j])


@_compiled
def _lower_to(row: Any, other: Any) -> None:
    for j in range(row.shape[0]):
        row[j] = min(row[j], other[j])


@_compiled
def _keep_unequal(new: Any, row: Any, other: Any) -> None:
    for j in range(row.shape[0]):
        new[j] = new[j] if row[j] != other[j] else _ZERO


@_compiled
def _keep_above(row: Any, bound: Any) -> None:
    for j in range(row.shape[0]):
        row[j] = _ONE if row[j] >= bound else _ZERO


@_compiled
def _any_short(seen: Any, wanted: Any, least: Any) -> bool:
    short = np.uint32(0)
    for j in range(seen.shape[0]):
        short |= np.uint32(wanted[j] * least > seen[j])
    return short != 0


@_compiled
def _load_rows(values: Any, start: int, stop: int, rows: Any, subtract: bool) -> None:
    """rows [K, m] fp32 = the values of one block; as differences to row 0 if `subtract`."""
    for k in range(values.shape[0]):
        _load(values[k, start:stop], rows[k])
        if k > 0 and subtract:
            _subtract(rows[k], rows[0])


@_compiled
def _add_gram(rows: Any, gram: Any) -> None:
    """gram [K, K] (lower triangle) += inner products of rows 1..K-1."""
    for k in range(1, rows.shape[0]):
        for i in range(1, k + 1):
            gram[k, i] += _dot(rows[k], rows[i])


@_compiled
def _mirror(gram: Any) -> None:
    for k in range(gram.shape[0]):
        for i in range(k):
            gram[i, k] = gram[k, i]


@_compiled
def _span(first: Any, rows: Any, change: Any, low: Any) -> None:
    """change = max - min over `first` and rows 1..K-1."""
    _copy(change, first)
    _copy(low, first)
    for k in range(1, rows.shape[0]):
        _raise_to(change, rows[k])
        _lower_to(low, rows[k])
    _subtract(change, low)


@_compiled
def _distinct(first: Any, rows: Any, wanted: Any, least: Any, seen: Any, new: Any) -> None:
    """seen = how many distinct values `first` and rows 1..K-1 take.

    Counting stops once all scalars with `wanted` = 1 have reached `least`.
    """
    seen[:] = _ONE
    for k in range(1, rows.shape[0]):
        new[:] = _ONE
        _keep_unequal(new, rows[k], first)
        for i in range(1, k):
            _keep_unequal(new, rows[k], rows[i])
        _add(seen, new)
        if not _any_short(seen, wanted, least):
            break


@_compiled
def _fit(rows: Any, weights: Any, change: Any, r2: Any, work: Any) -> None:
    """r2 in [0, 1] of the series 0, rows[1], ... on the steps; 0 where constant.

    Each series is scaled by its own range, so that squares neither underflow nor overflow; and
    with a difference of 0 among the points, sum(d²) - K mean² loses at most a factor K + 1 of
    precision (computed from raw weights it could lose all).
    """
    scale, scaled, total, square = work[0], work[1], work[2], work[3]
    for j in range(change.shape[0]):
        scale[j] = _ONE / max(change[j], _SMALLEST)
    r2[:] = _ZERO
    total[:] = _ZERO
    square[:] = _ZERO
    for k in range(1, rows.shape[0]):
        _multiply(scaled, rows[k], scale)
        _add(total, scaled)
        _add_scaled(r2, scaled, weights[k])
        _add_product(square, scaled, scaled)
    share = np.float32(1.0 / rows.shape[0])
    for j in range(total.shape[0]):
        square[j] = max(square[j] - total[j] * total[j] * share, _SMALLEST)
    for j in range(total.shape[0]):
        r2[j] = min(r2[j] * r2[j] / square[j], _ONE)


@_compiled
def moments(values: Any, movements: bool, gram: Any) -> float:
    """Add the deltas' inner products to gram fp64 [K, K]; returns ||theta_0||²."""
    count, n = values.shape
    buffer = np.empty(count * BLOCK, np.float32)
    squared = 0.0
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        rows = buffer[: count * (stop - start)].reshape(count, stop - start)
        _load_rows(values, start, stop, rows, not movements)
        squared += _dot(rows[0], rows[0])
        _add_gram(rows, gram)
    _mirror(gram)
    return squared


@_compiled
def _combine_rows(rows: Any, coefficients: Any, total: Any) -> None:
    """total = rows[0] + sum_k coefficients[k] rows[k], products and sums rounded apart."""
    begun = False
    for k in range(1, rows.shape[0]):
        if coefficients[k] != _ZERO:
            if begun:
                _add_scaled(total, rows[k], coefficients[k])
            else:
                _scale(total, rows[k], coefficients[k])
            begun = True
    if begun:
        _add(total, rows[0])
    else:
        _copy(total, rows[0])


@_compiled
def _gate(rows: Any, r2: Any, total: Any, end: Any) -> None:
    """total = theta_K + r2 (total - theta_K), theta_K = rows[0] + rows[K - 1]."""
    _copy(end, rows[0])
    _add(end, rows[rows.shape[0] - 1])
    _subtract(total, end)
    _multiply(total, total, r2)
    _add(total, end)


@_compiled
def combine(
    values: Any, movements: bool, coefficients: Any, weights: Any, out: Any, gram: Any
) -> tuple[float, bool]:
    """out[t] = theta_0 + sum_k coefficients[t, k] delta_k for each target t, and the moments.

    Products and sums are rounded apart, as in theta_0 + c * delta in numpy or torch; what has a
    coefficient of 0 is left out.

    Args:
        coefficients: fp32 [T, K].
        weights: fp32 [K] to gate each scalar's step beyond theta_K by its own R² (see
            `step_weights`), or empty.
        out: [T, n], bf16 as uint16, or fp32.
        gram: fp64 [K, K], added to, or [0, 0] where the moments are known.

    Returns:
        ||theta_0||² (0 without a gram), and False if a NaN or infinity came out.
    """
    count, n = values.shape
    buffer = np.empty((count + 8) * BLOCK, np.float32)
    squared, finite = 0.0, True
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        m = stop - start
        rows = buffer[: count * m].reshape(count, m)
        work = buffer[count * m : (count + 8) * m].reshape(8, m)
        total, r2, change, zeros = work[4], work[5], work[6], work[7]
        _load_rows(values, start, stop, rows, not movements)
        if len(gram) > 0:
            squared += _dot(rows[0], rows[0])
            _add_gram(rows, gram)
        if len(weights) > 0:
            zeros[:] = _ZERO
            _span(zeros, rows, change, work[0])
            _fit(rows, weights, change, r2, work)
        for t in range(coefficients.shape[0]):
            _combine_rows(rows, coefficients[t], total)
            if len(weights) > 0:
                _gate(rows, r2, total, work[0])
            finite &= _store(total, out[t, start:stop])
    _mirror(gram)
    return squared, finite


@_compiled
def linearity(
    values: Any,
    movements: bool,
    weights: Any,
    min_change: float,
    min_unique: int,
    r2: Any,
    flags: Any,
    gram: Any,
) -> float:
    """R² of every scalar, which scalars move and pass the filters, and the moments.

    Args:
        weights: fp32 [K], see `step_weights`.
        min_change: a scalar passes if max - min exceeds this,
        min_unique: and if it takes at least so many distinct values.
        r2: fp32 [n], written; in [0, 1], 0 where constant.
        flags: uint8 [n], written: MOVING, and KEPT if it passes.
        gram: fp64 [K, K], added to.

    Returns:
        ||theta_0||².
    """
    count, n = values.shape
    buffer = np.empty((count + 8) * BLOCK, np.float32)
    squared, threshold, least = 0.0, np.float32(min_change), np.float32(min_unique)
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        m = stop - start
        rows = buffer[: count * m].reshape(count, m)
        work = buffer[count * m : (count + 8) * m].reshape(8, m)
        first, change, wanted, seen = work[4], work[5], work[6], work[7]
        _load_rows(values, start, stop, rows, False)
        squared += _dot(rows[0], rows[0])
        _copy(first, rows[0])
        if movements:
            first[:] = _ZERO
        _span(first, rows, change, work[0])
        for j in range(m):
            wanted[j] = _ONE if change[j] > threshold else _ZERO
        if min_unique > 1:
            _distinct(first, rows, wanted, least, seen, work[0])
            _keep_above(seen, least)
            _multiply(wanted, wanted, seen)
        for j in range(m):
            flags[start + j] = (MOVING if change[j] > _ZERO else 0) | (KEPT if wanted[j] else 0)
        if not movements:
            for k in range(1, count):
                _subtract(rows[k], first)
        _add_gram(rows, gram)
        _fit(rows, weights, change, r2[start:stop], work)
    _mirror(gram)
    return squared


@_compiled
def count_cells(r2: Any, flags: Any, counts: Any) -> tuple[float, float]:
    """Add R² (fp32 [n]) to the cells of counts int64 [2, C], dropped and kept apart.

    Returns:
        The sums of R², dropped and kept, in fp64.
    """
    cells = counts.shape[1]
    dropped, kept = 0.0, 0.0
    for j in range(r2.shape[0]):
        cell = min(max(int(r2[j] * np.float32(cells)), 0), cells - 1)
        if flags[j] & KEPT:
            counts[1, cell] += 1
            kept += r2[j]
        else:
            counts[0, cell] += 1
            dropped += r2[j]
    return dropped, kept


def step_weights(steps: Any) -> Any:
    """fp32 [K]: the steps, centred, of length 1; their product with a series is its slope."""
    centred = np.asarray(steps, np.float64)
    centred = centred - centred.mean()
    return (centred / np.sqrt(centred @ centred)).astype(np.float32)
