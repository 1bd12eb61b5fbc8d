"""The arithmetic of the core, compiled: all that is done with a piece, in one walk through it.

A piece is walked in blocks that stay in the first-level cache, so memory is touched twice, when a
piece is read and when it is written, whatever the number of checkpoints and targets; torch would
walk through memory once for each operation. A loop widens, computes, rounds and looks for what is
not finite at once, 8 numbers an instruction. What keeps LLVM from vector instructions: a sum or
flag that numba takes for 64 bits (hence the casts), more than four arrays in a loop (it cannot tell
whether they overlap; rows at fixed distances in one array it can), and branches. Nothing is fused
into one rounding or reordered except inside `_dot`, so results are those of the same operations in
numpy or torch, to the bit.

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
from numba.core.runtime import rtsys
from numba.extending import overload

BLOCK = 1024  # fp32 sums run over so many products, the rest is added in fp64
WIDE, FINE = 2048, 256  # blocks of what adds nothing up: few rows at once, and many
MOVING, KEPT, _NEITHER = np.uint8(1), np.uint8(2), np.uint8(0)  # flags of `linearity`
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


class _Store(FunctionCache):
    """Numba's store of machine code, as `cache=True` opens it. It only saves time, so a full disk
    or a damaged file there costs that time again, and not the run."""

    def load_overload(self, signature: Any, target: Any) -> Any:
        """As Numba's own, less what only a compiler needs: it would import all that Numba can
        compile, scipy's linear algebra among it, which takes longer than a small model's work."""
        rtsys.initialize(target)
        try:
            return self._load_overload(signature, target)
        except (OSError, EOFError, UnpicklingError):
            return None

    def save_overload(self, signature: Any, compiled: Any) -> None:
        with suppress(OSError, EOFError, UnpicklingError):
            super().save_overload(signature, compiled)


def _wide(value: Any) -> Any:
    """The fp32 number of a value that is bf16 (as uint16) or fp32."""


@overload(_wide)
def _wide_by_type(value: Any) -> Any:
    def widened(value: Any) -> Any:
        return np.uint32(np.uint32(value) << _HALF).view(np.float32)

    def same(value: Any) -> Any:
        return value

    return widened if value == types.uint16 else same


def _narrow(bits: Any, out: Any) -> Any:
    """What `out` (bf16 as uint16, or fp32) keeps of the fp32 number with these bits: the nearest,
    of two the even one."""


@overload(_narrow)
def _narrow_by_type(bits: Any, out: Any) -> Any:
    def rounded(bits: Any, out: Any) -> Any:
        half = np.uint32(np.uint32(0x7FFF) + np.uint32(np.uint32(bits >> _HALF) & np.uint32(1)))
        return np.uint16(np.uint32(bits + half) >> _HALF)

    def same(bits: Any, out: Any) -> Any:
        return np.uint32(bits).view(np.float32)

    return rounded if out.dtype == types.uint16 else same


def _finite(largest: Any, out: Any) -> bool:
    """Whether numbers are finite in `out`'s dtype whose magnitudes have at most these bits.

    Bits of a NaN are above those of infinity, and those above all numbers'.
    """
    return True


@overload(_finite)
def _finite_by_type(largest: Any, out: Any) -> Any:
    limit = _LARGEST_BF16 if out.dtype == types.uint16 else _INFINITY

    def finite(largest: Any, out: Any) -> bool:
        return bool(largest < limit)

    return finite


def _sum_of_products(x: Any, y: Any) -> Any:
    total = _ZERO
    for j in range(x.shape[0]):
        total += x[j] * y[j]
    return total


_dot = _compiled(_sum_of_products, fastmath={"reassoc", "contract", "nsz"})


@_compiled
def _load(source: Any, row: Any) -> None:
    for j in range(row.shape[0]):
        row[j] = _wide(source[j])


@_compiled
def _load_movement(source: Any, first: Any, row: Any) -> None:
    """row = source - first (fp32)."""
    for j in range(row.shape[0]):
        row[j] = _wide(source[j]) - first[j]


@_compiled
def _load_rows(values: Any, start: int, stop: int, rows: Any, movements: bool) -> None:
    """rows [K, m] fp32 = theta_0 and the movements from it in one block."""
    _load(values[0, start:stop], rows[0])
    for k in range(1, values.shape[0]):
        if movements:
            _load(values[k, start:stop], rows[k])
        else:
            _load_movement(values[k, start:stop], rows[0], rows[k])


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
def moments(values: Any, movements: bool, gram: Any) -> float:
    """Add the deltas' inner products to gram fp64 [K, K]; returns ||theta_0||²."""
    count, n = values.shape
    buffer = np.empty(count * BLOCK, np.float32)
    squared = 0.0
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        rows = buffer[: count * (stop - start)].reshape(count, stop - start)
        _load_rows(values, start, stop, rows, movements)
        squared += _dot(rows[0], rows[0])
        _add_gram(rows, gram)
    _mirror(gram)
    return squared


@_compiled
def _put_line(first: Any, last: Any, movement: bool, factor: Any, out: Any) -> bool:
    """out = first + factor (last - first), or first + factor last where that is a movement.

    Returns:
        False if a NaN or infinity came out, as all that write to `out` do.
    """
    largest = np.uint32(0)
    if movement:
        for j in range(out.shape[0]):
            bits = np.float32(_wide(last[j]) * factor + _wide(first[j])).view(np.uint32)
            largest = max(largest, np.uint32(bits & _MAGNITUDE))
            out[j] = _narrow(bits, out)
    else:
        for j in range(out.shape[0]):
            start = _wide(first[j])
            bits = np.float32((_wide(last[j]) - start) * factor + start).view(np.uint32)
            largest = max(largest, np.uint32(bits & _MAGNITUDE))
            out[j] = _narrow(bits, out)
    return bool(_finite(largest, out))


@_compiled
def _put_sum(total: Any, first: Any, out: Any) -> bool:
    """out = total + first."""
    largest = np.uint32(0)
    for j in range(out.shape[0]):
        bits = np.float32(total[j] + _wide(first[j])).view(np.uint32)
        largest = max(largest, np.uint32(bits & _MAGNITUDE))
        out[j] = _narrow(bits, out)
    return bool(_finite(largest, out))


@_compiled
def _put_gated(total: Any, r2: Any, first: Any, last: Any, out: Any) -> bool:
    """out = theta_K + r2 (total + first - theta_K), theta_K = first + last; all fp32."""
    largest = np.uint32(0)
    for j in range(out.shape[0]):
        end = first[j] + last[j]
        bits = np.float32((total[j] + first[j] - end) * r2[j] + end).view(np.uint32)
        largest = max(largest, np.uint32(bits & _MAGNITUDE))
        out[j] = _narrow(bits, out)
    return bool(_finite(largest, out))


@_compiled
def _step(total: Any, first: Any, other: Any, movement: bool, factor: Any, begun: bool) -> None:
    """total (+)= factor (other - first), or factor other where that is a movement."""
    if begun:
        if movement:
            for j in range(total.shape[0]):
                total[j] += _wide(other[j]) * factor
        else:
            for j in range(total.shape[0]):
                total[j] += (_wide(other[j]) - _wide(first[j])) * factor
    elif movement:
        for j in range(total.shape[0]):
            total[j] = _wide(other[j]) * factor
    else:
        for j in range(total.shape[0]):
            total[j] = (_wide(other[j]) - _wide(first[j])) * factor


@_compiled
def _sum_steps(
    values: Any, start: int, stop: int, movements: bool, coefficients: Any, total: Any
) -> None:
    """total = sum_k coefficients[k] delta_k of a block [K, m]; what has a 0 is left out."""
    begun = False
    for k in range(1, values.shape[0]):
        if coefficients[k] != _ZERO:
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
        total[:] = -_ZERO  # and not 0, which would turn a sum with -0 into 0


@_compiled
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
    total = np.empty(WIDE, np.float32)
    finite = True
    for start in range(0, n, WIDE):
        stop = min(start + WIDE, n)
        first = values[0, start:stop]
        for t in range(coefficients.shape[0]):
            row, target = coefficients[t], out[t, start:stop]
            terms, last = 0, 0
            for k in range(1, count):
                if row[k] != _ZERO:
                    terms, last = terms + 1, k
            if terms == 1:
                finite &= _put_line(first, values[last, start:stop], movements, row[last], target)
            else:
                part = total[: stop - start]
                _sum_steps(values, start, stop, movements, row, part)
                finite &= _put_sum(part, first, target)
    return finite


# Rows of the work array of `linearity`, one after the other: at fixed distances in one array LLVM
# sees that they do not overlap, so any number of them may take part in one loop.
_CHANGE, _LOW, _SCALE, _TOTAL, _SLOPE, _SQUARE, _WANTED, _SEEN, _NEW = range(0, 9 * FINE, FINE)


@_compiled
def _span(values: Any, start: int, stop: int, first: Any, work: Any) -> None:
    """work's change and low = max and min over `first` and rows 1..K-1."""
    for j in range(first.shape[0]):
        work[_CHANGE + j] = first[j]
        work[_LOW + j] = first[j]
    for k in range(1, values.shape[0]):
        source = values[k, start:stop]
        for j in range(source.shape[0]):
            value = _wide(source[j])
            work[_CHANGE + j] = max(work[_CHANGE + j], value)
            work[_LOW + j] = min(work[_LOW + j], value)


@_compiled
def _measure_change(first: Any, threshold: Any, work: Any) -> bool:
    """change = max - min, scale = 1 / change, wanted = 1 where it is above the threshold.

    Returns:
        Whether any is.
    """
    any_bits = np.uint32(0)
    for j in range(first.shape[0]):
        change = work[_CHANGE + j] - work[_LOW + j]
        wanted = _ONE if change > threshold else _ZERO
        work[_CHANGE + j] = change
        work[_SCALE + j] = _ONE / max(change, _SMALLEST)
        work[_WANTED + j] = wanted
        any_bits = max(any_bits, np.float32(wanted).view(np.uint32))
    return bool(any_bits > np.uint32(0))


@_compiled
def _fit(rows: Any, start: int, stop: int, weights: Any, work: Any, r2: Any) -> None:
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
        r2[j] = min(slope * slope / square, _ONE)


@_compiled
def _compare(source: Any, other: Any, begun: bool, work: Any) -> None:
    """new = 0 where the two are equal, else 1, or what it was."""
    for j in range(source.shape[0]):
        new = work[_NEW + j] if begun else _ONE
        work[_NEW + j] = new if _wide(source[j]) != _wide(other[j]) else _ZERO


@_compiled
def _count_new(first: Any, least: Any, work: Any) -> bool:
    """seen += new; True if some scalar that is wanted has not taken `least` values yet."""
    short = np.int32(0)
    for j in range(first.shape[0]):
        seen = work[_SEEN + j] + work[_NEW + j]
        work[_SEEN + j] = seen
        missing = np.float32(work[_WANTED + j] * least - seen)
        short = max(short, missing.view(np.int32))  # of floats above 0, and of no others, above 0
    return bool(short > np.int32(0))


@_compiled
def _filter_distinct(values: Any, start: int, stop: int, first: Any, least: Any, work: Any) -> None:
    """wanted = 0 where `first` and rows 1..K-1 take fewer than `least` distinct values."""
    for j in range(first.shape[0]):
        work[_SEEN + j] = _ONE
    for k in range(1, values.shape[0]):
        _compare(values[k, start:stop], first, False, work)
        for i in range(1, k):
            _compare(values[k, start:stop], values[i, start:stop], True, work)
        if not _count_new(first, least, work):
            return
    for j in range(first.shape[0]):
        work[_WANTED + j] = work[_WANTED + j] if work[_SEEN + j] >= least else _ZERO


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
    buffer = np.empty(count * BLOCK, np.float32)
    work, zeros = np.empty(9 * FINE, np.float32), np.zeros(FINE, np.float32)
    squared, threshold, least = 0.0, np.float32(min_change), np.float32(min_unique)
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        rows = buffer[: count * (stop - start)].reshape(count, stop - start)
        _load_rows(values, start, stop, rows, movements)
        squared += _dot(rows[0], rows[0])
        _add_gram(rows, gram)
        for low in range(start, stop, FINE):
            high = min(low + FINE, stop)
            first = zeros[: high - low] if movements else rows[0, low - start : high - start]
            _span(values, low, high, first, work)
            some = _measure_change(first, threshold, work)
            if some and min_unique > 1:
                _filter_distinct(values, low, high, first, least, work)
            part = flags[low:high]
            for j in range(part.shape[0]):
                moving = MOVING if work[_CHANGE + j] > _ZERO else _NEITHER
                kept = KEPT if work[_WANTED + j] > _ZERO else _NEITHER
                part[j] = np.uint8(moving | kept)
            _fit(rows, low - start, high - start, weights, work, r2[low:high])
    _mirror(gram)
    return squared


@_compiled
def combine_gated(values: Any, movements: bool, coefficients: Any, weights: Any, out: Any) -> bool:
    """`combine`, the step beyond theta_K scaled by each scalar's own R².

    Args:
        weights: fp32 [K], see `step_weights`.
    """
    count, n = values.shape
    buffer = np.empty((count + 2) * FINE, np.float32)
    work, zeros = np.empty(9 * FINE, np.float32), np.zeros(FINE, np.float32)
    finite = True
    for start in range(0, n, FINE):
        stop = min(start + FINE, n)
        m = stop - start
        rows = buffer[: count * m].reshape(count, m)
        total, r2 = buffer[count * m : (count + 1) * m], buffer[(count + 1) * m : (count + 2) * m]
        _load_rows(values, start, stop, rows, movements)
        _span(rows, 0, m, zeros[:m], work)
        _measure_change(r2, _ZERO, work)
        _fit(rows, 0, m, weights, work, r2)
        for t in range(coefficients.shape[0]):
            _sum_steps(rows, 0, m, True, coefficients[t], total)
            finite &= _put_gated(total, r2, rows[0], rows[count - 1], out[t, start:stop])
    return finite


@_compiled
def count_cells(r2: Any, flags: Any, counts: Any) -> tuple[float, float]:
    """Add R² (fp32 [n]) to the cells of counts [2, C], dropped and kept apart.

    Returns:
        The sums of R², dropped and kept, in fp64.
    """
    cells = counts.shape[1]
    scale, last, shift = np.float32(cells), np.int32(cells - 1), np.int32(cells)
    places, both = np.empty(BLOCK, np.uint32), counts.reshape(2 * cells)
    dropped, kept = 0.0, 0.0
    for start in range(0, len(r2), BLOCK):
        part, own = r2[start : start + BLOCK], flags[start : start + BLOCK]
        for j in range(part.shape[0]):
            cell = min(max(np.int32(part[j] * scale), np.int32(0)), last)
            places[j] = np.uint32(cell + (shift if own[j] & KEPT else np.int32(0)))
        for j in range(part.shape[0]):  # no branches, which would be guessed wrong
            both[places[j]] += 1
            share = np.float64(own[j] & KEPT) / KEPT
            kept += part[j] * share
            dropped += part[j] * (1.0 - share)
    return dropped, kept


def step_weights(steps: Any) -> Any:
    """fp32 [K]: the steps, centred, of length 1; their product with a series is its slope."""
    centred = np.asarray(steps, np.float64)
    centred = centred - centred.mean()
    return (centred / np.sqrt(centred @ centred)).astype(np.float32)
