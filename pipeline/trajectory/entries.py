"""A tensor on disk, whatever the format of its files: byte ranges, and what is added to them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Extent:
    """`nbytes` bytes of `path` from `offset`."""

    path: Path
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Entry:
    """A tensor on disk: its row-major bytes are the extents, one after the other.

    With a `shift` the tensor is what the extents hold (the base's values) plus that, in fp32. With
    `parts` it is their elements, one part after the other, whose dtypes `dtype` can hold.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    extents: tuple[Extent, ...]
    shift: Entry | LowRank | None = None
    parts: tuple[Entry, ...] = ()

    @property
    def plain(self) -> bool:
        """True if the extents' bytes are the tensor as it is."""
        return self.shift is None and not self.parts

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize

    @property
    def is_float(self) -> bool:
        """True for the dtypes that are extrapolated (16 bits and more)."""
        return self.dtype.is_floating_point and self.dtype.itemsize >= 2

    @property
    def paths(self) -> set[Path]:
        """The files that its values come from."""
        own = {extent.path for extent in self.extents}
        for part in self.parts:
            own |= part.paths
        if isinstance(self.shift, LowRank):
            return own | self.shift.left.paths | self.shift.right.paths
        return own if self.shift is None else own | self.shift.paths


@dataclass(frozen=True)
class LowRank:
    """scale * left @ right, left [rows, r], right [r, columns].

    If `transposed`, the files hold left as [r, rows] and right as [columns, r].
    """

    left: Entry
    right: Entry
    scale: float
    transposed: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the product; a convolution's factors have more dimensions, and so their product."""
        left, right = self.left.shape, self.right.shape
        return (left[1], right[0]) if self.transposed else (*left[:1], *right[1:])


def shares_base(entry: Entry, reference: Entry) -> bool:
    """True if the two are the same stored values, each plus its own shift (or none)."""
    return entry.extents == reference.extents


def overlaps(entry: Entry, begin: int, end: int) -> Iterator[tuple[Extent, int, int]]:
    """The extents that hold bytes [begin, end) of a tensor, each with its own sub-range."""
    position = 0
    for extent in entry.extents:
        low, high = max(begin - position, 0), min(end - position, extent.nbytes)
        if low < high:
            yield extent, low, high
        position += extent.nbytes
