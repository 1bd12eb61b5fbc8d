"""Numbers as kernels take them: bf16 (in uint16) and fp32, widened to fp32 and rounded back."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

ZERO, ONE = np.float32(0.0), np.float32(1.0)
_HALF = np.uint32(16)  # bits: bf16 is the upper half of fp32
MAGNITUDE = np.uint32(0x7FFFFFFF)  # all but the sign
_INFINITY = np.uint32(0x7F800000)
_LARGEST_BF16 = np.uint32(0x7F7F8000)  # from here on fp32 rounds to infinity in bf16


def wide(value: Any) -> Any:
    """The fp32 number of a value that is bf16 (as uint16) or fp32."""


@overload(wide)
def _wide_by_type(value: Any) -> Any:
    def widened(value: Any) -> Any:
        return np.uint32(np.uint32(value) << _HALF).view(np.float32)

    def same(value: Any) -> Any:
        return value

    return widened if value == types.uint16 else same


def narrow(bits: Any, out: Any) -> Any:
    """What `out` (bf16 as uint16, or fp32) keeps of the fp32 number with these bits: the nearest,
    of two the even one."""


@overload(narrow)
def _narrow_by_type(bits: Any, out: Any) -> Any:
    def rounded(bits: Any, out: Any) -> Any:
        half = np.uint32(np.uint32(0x7FFF) + np.uint32(np.uint32(bits >> _HALF) & np.uint32(1)))
        return np.uint16(np.uint32(bits + half) >> _HALF)

    def same(bits: Any, out: Any) -> Any:
        return np.uint32(bits).view(np.float32)

    return rounded if out.dtype == types.uint16 else same


def finite_in(largest: Any, out: Any) -> bool:
    """Whether numbers are finite in `out`'s dtype whose magnitudes have at most these bits.

    Bits of a NaN are above those of infinity, and those above all numbers'.
    """
    return True


@overload(finite_in)
def _finite_by_type(largest: Any, out: Any) -> Any:
    limit = _LARGEST_BF16 if out.dtype == types.uint16 else _INFINITY

    def finite(largest: Any, out: Any) -> bool:
        return bool(largest < limit)

    return finite
