"""Counts of R² values, fine enough for medians, coarse enough to keep one a tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.trajectory.kernels import count_cells

BINS = 1000  # of the histogram that is reported
FINE = 20  # parts of each bin that are counted, for medians
CELLS = BINS * FINE
UNIT = 2.0**-40
THRESHOLD = 0.7  # "linear", as the paper has it


class R2Counts:
    """Counts and sums of R², kept scalars apart from the rest.

    Medians come from cells 5e-5 wide, linear within a cell: off by at most 5e-5. The share above
    0.7 is counted in whole cells, so a value within fp32 rounding of 0.7 may fall on either side.
    """

    def __init__(self) -> None:
        self.counts: NDArray[np.int64] = np.zeros((2, CELLS), np.int64)  # [dropped, kept]
        self.sums = [0, 0]  # in units of UNIT: integers, so that the order of adding is no matter

    def add(self, other: R2Counts) -> None:
        self.counts += other.counts
        self.sums = [a + b for a, b in zip(self.sums, other.sums, strict=True)]

    def add_values(self, r2: NDArray[np.float32], flags: NDArray[np.uint8]) -> None:
        """Count R² values (fp32 [n], in [0, 1]); `flags` (uint8 [n]) has KEPT if filters pass."""
        sums = count_cells(r2, flags, self.counts)
        self.sums = [a + round(b / UNIT) for a, b in zip(self.sums, sums, strict=True)]

    @property
    def total(self) -> int:
        return int(self.counts.sum())

    @property
    def kept(self) -> int:
        return int(self.counts[1].sum())

    def summary(self, filtered: bool) -> dict[str, float | None]:
        """Mean, median and share above 0.7; None where nothing was counted."""
        counts = self.counts[1] if filtered else self.counts.sum(0)
        total = int(counts.sum())
        if total == 0:
            return {"r2_mean": None, "r2_median": None, "r2_share_above_0.7": None}
        mean = (self.sums[1] if filtered else sum(self.sums)) * UNIT / total
        above = int(counts[round(THRESHOLD * CELLS) :].sum())
        return {
            "r2_mean": float(mean),
            "r2_median": _median(counts),
            "r2_share_above_0.7": above / total,
        }

    def figures(self) -> dict[str, Any]:
        """Counts, and `summary` of what passes the filters and (`unfiltered`) of everything."""
        return {
            "kept": self.kept,
            "total": self.total,
            **self.summary(filtered=True),
            "unfiltered": self.summary(filtered=False),
        }

    def report(
        self, constant: int, steps: Sequence[float], filters: Mapping[str, float]
    ) -> dict[str, Any]:
        """The head of every probe's file: figures over all scalars, of which `constant` never
        move, with the steps and the filters that they are of."""
        return {
            "scalars_total": self.total,
            "scalars_kept": self.kept,
            "share_dropped": 1 - self.kept / self.total if self.total else None,
            **self.summary(filtered=True),
            "unfiltered": {**self.summary(filtered=False), "constant": constant},
            "histogram": self.histogram(),
            "steps": list(steps),
            "filters": dict(filters),
        }

    def histogram(self) -> dict[str, Any]:
        """Edges [1001] and counts [1000], filtered and not, as plain lists."""
        coarse = self.counts.reshape(2, BINS, FINE).sum(2)
        return {
            "edges": [i / BINS for i in range(BINS + 1)],
            "counts": coarse[1].tolist(),
            "counts_unfiltered": coarse.sum(0).tolist(),
        }


def _median(counts: NDArray[np.int64]) -> float:
    """The middle value, or the mean of the two middle ones, each placed linearly in its cell."""
    cumulative = np.cumsum(counts)
    total = int(cumulative[-1])
    ranks = np.array([(total + 1) // 2, total // 2 + 1])
    cells = np.searchsorted(cumulative, ranks)
    inside = (ranks - 0.5 - (cumulative[cells] - counts[cells])) / counts[cells]
    return float((cells + inside).mean() / CELLS)
