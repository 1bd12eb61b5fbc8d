"""Gram matrices of a tensor's deltas: K x K numbers that hold all that linear methods ask of it.

G[i, j] = <delta_i, delta_j>, delta_i = theta_i - theta_0, so row and column 0 are zero. Built from
deltas, never from raw weights, whose inner products agree in nearly all their digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


@dataclass
class Gram:
    """Of one tensor (or of several, added up).

    Attributes:
        base: fp64 [K], ||theta_0||², then <theta_0, delta_i>: 0 where no probe measured.
        matrix: G, fp64 [K, K].
    """

    base: Matrix
    matrix: Matrix

    @staticmethod
    def zero(count: int) -> Gram:
        """Of no tensor yet, for `count` checkpoints."""
        return Gram(np.zeros(count), np.zeros((count, count)))

    def add(self, other: Gram) -> None:
        self.base += other.base
        self.matrix += other.matrix

    def of(self, places: Sequence[int]) -> Gram:
        """The Gram of some of the checkpoints, theta_0's first, by their places among all."""
        return Gram(self.base[list(places)], self.matrix[np.ix_(places, places)])

    @property
    def base_squared(self) -> float:
        """||theta_0||²."""
        return float(self.base[0])

    @property
    def squared_norms(self) -> list[float]:
        """||theta_i||² of the K checkpoints, where the probe measured."""
        moved = np.r_[0.0, 2.0 * self.base[1:]] + np.diag(self.matrix)
        return [float(square) for square in self.base_squared + moved]

    @property
    def relative_movement(self) -> float | None:
        """||delta_K|| / ||theta_0||; None where theta_0 is zero."""
        if self.base_squared <= 0.0:
            return None
        return float(np.sqrt(self.matrix[-1, -1] / self.base_squared))


def linear_r2(steps: Sequence[float], gram: Matrix) -> float | None:
    """The share of the tensor's movement that a line in the step explains, scalar by scalar.

    1 - SSE / SST of the least-squares lines of all scalars together (the mean of their R²,
    weighted by how much each moves). None where nothing moves.
    """
    t = np.asarray(steps, np.float64)
    t = t - t.mean()
    total = np.trace(gram) - gram.sum() / len(t)
    if total <= 0.0:
        return None
    return float(np.clip(t @ gram @ t / (t @ t) / total, 0.0, 1.0))


def explained_variance(gram: Matrix) -> list[float]:
    """The share of sum ||delta_i||² that rank 1, 2, ..., K - 1 keeps; [] where nothing moves."""
    values = np.linalg.eigvalsh(gram[1:, 1:])[::-1].clip(min=0.0)
    total = values.sum()
    return [] if total <= 0.0 else [float(v) for v in np.cumsum(values) / total]


def rank1_curve(gram: Matrix) -> list[float]:
    """The coefficient of the leading direction at each step, 0 at theta_0, rising at the end."""
    values, vectors = np.linalg.eigh(gram[1:, 1:])
    series = np.sqrt(max(values[-1], 0.0)) * vectors[:, -1]
    return [0.0, *(float(v) for v in series * (1.0 if series[-1] >= 0 else -1.0))]


def segment_cosines(gram: Matrix) -> list[float | None]:
    """Cosines between successive segments theta_i -> theta_i+1; None where one has length 0."""
    difference = np.diff(np.eye(len(gram)), axis=0)
    inner = difference @ gram @ difference.T
    lengths = np.sqrt(np.diag(inner).clip(min=0.0))
    return [
        float(inner[i, i + 1] / (lengths[i] * lengths[i + 1]))
        if lengths[i] > 0 and lengths[i + 1] > 0
        else None
        for i in range(len(inner) - 1)
    ]


def middle_of(times: Sequence[float], first: int, last: int) -> int | None:
    """The place, between two, of the checkpoint nearest to half-way; None if none lies between."""
    half = (times[first] + times[last]) / 2
    return min(range(first + 1, last), key=lambda i: abs(times[i] - half), default=None)


def straightness(
    times: Sequence[float], gram: Matrix, first: int = 0, last: int | None = None
) -> float | None:
    """The cosine between the two halves of a path, which part at `middle_of`.

    Args:
        first, last: places of its ends among the checkpoints; all of them by default.

    Returns:
        1 for a straight line; None where no checkpoint lies between, or a half does not move.
    """
    last = len(times) - 1 if last is None else last
    middle = middle_of(times, first, last)
    if middle is None:
        return None
    return segment_cosines(gram[np.ix_([first, middle, last], [first, middle, last])])[0]


def describe(steps: Sequence[float], gram: Gram) -> dict[str, Any]:
    """What a tensor's Gram says of its path, for reports (plain JSON values)."""
    return {
        "relative_movement": gram.relative_movement,
        "linear_r2": linear_r2(steps, gram.matrix) if len(steps) > 2 else None,
        "explained_variance": explained_variance(gram.matrix),
    }
