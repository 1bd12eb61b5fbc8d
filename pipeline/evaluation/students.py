"""Interval of a mean over few repetitions, such as seeds: Student's t (1908, Biometrika 6:1).

The unit is the repetition, so it holds for another seed, not only for other problems. With two or
three of them it is wide, and rightly so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from mpmath import betainc

from pipeline.errors import PipelineError

HALVINGS = 60  # of the range that a quantile is searched in
_WIDEST = 1e6  # above t of one degree of freedom at any usual confidence


def mean_interval(
    values: Sequence[float], low: float = 0.0, high: float = 1.0
) -> tuple[float, float]:
    """Low and high (95 %) of the mean of repetitions.

    Args:
        values: at least two, one a repetition.
        low, high: what the mean cannot leave.

    Raises:
        PipelineError: fewer than two values.
    """
    number = len(values)
    if number < 2:
        raise PipelineError(f"an interval over repetitions needs two of them, there are {number}")
    mean = sum(values) / number
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (number - 1))
    half = quantile(number - 1, 0.95) * spread / math.sqrt(number)
    return max(low, mean - half), min(high, mean + half)


def quantile(freedom: int, confidence: float) -> float:
    """t that a share `confidence` of Student's distribution lies within, on both sides of zero."""
    below, above = 0.0, _WIDEST
    for _ in range(HALVINGS):
        middle = (below + above) / 2
        share = freedom / (freedom + middle**2)
        outside = float(betainc(freedom / 2, 0.5, 0, share, regularized=True))
        below, above = (middle, above) if outside > 1 - confidence else (below, middle)
    return (below + above) / 2
