"""Extrapolation methods, each a function from steps to coefficients.

With theta_i the checkpoint at step t_i, delta_i = theta_i - theta_0 and theta_0 the first used
checkpoint, every method predicts, for each tensor,

    theta* = theta_0 + sum_i c_i delta_i

so a method only has to say what c is. `steps[0]` is the step of theta_0; delta_0 = 0, so c[0]
never matters and is 0. Targets may be fractions of a step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import PipelineError
from pipeline.trajectory.gram import linear_r2

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Method:
    """A way to extrapolate.

    Attributes:
        coefficients: (steps [K], gram [K, K] or None, target, **options) -> c [K], fp64.
        uses: which checkpoints from first to last it reads: the two ends, or all.
        needs_gram: True if c depends on each tensor's Gram matrix of deltas.
        least: how many checkpoints it needs.
        beyond: True if it only makes sense for targets past the last checkpoint.
        copies_last: True if the result is the last checkpoint, which is then read as it is:
            theta_0 + (theta_K - theta_0) in fp32 can differ from theta_K in the last bit.
        max_norm: its trust region where none is given (`capped`).
    """

    coefficients: Callable[..., Vector]
    uses: Literal["ends", "all"] = "all"
    needs_gram: bool = False
    least: int = 2
    beyond: bool = False
    copies_last: bool = False
    max_norm: float | None = None


def only(count: int, place: int, value: float) -> Vector:
    """c [count] that is `value` at `place` and 0 elsewhere."""
    c = np.zeros(count)
    c[place] = value
    return c


def two_point(steps: Sequence[float], gram: Matrix | None, target: float) -> Vector:
    """The line through the two ends: alpha = (target - t0) / (t1 - t0), c = [0, ..., 0, alpha].

    Source: arXiv 2601.04537, weight extrapolation.
    """
    return only(len(steps), -1, (target - steps[0]) / (steps[-1] - steps[0]))


def least_squares(
    steps: Sequence[float], gram: Matrix | None, target: float, with_start: bool = True
) -> Vector:
    """The least-squares line of every scalar on the step, read off at the target.

    Args:
        with_start: fit through all K checkpoints; False leaves theta_0 out of the fit (it stays
            the origin of the deltas), as `rank1` does.
    """
    c = np.zeros(len(steps))
    fitted = slice(0 if with_start else 1, None)
    c[fitted] = line_weights(np.asarray(steps, np.float64)[fitted], target)
    c[0] = 0.0
    return c


def line_weights(steps: Vector, target: float) -> Vector:
    """w [K] such that w @ y is the least-squares line through (steps, y), at the target."""
    centred = steps - steps.mean()
    return 1 / len(steps) + (target - steps.mean()) * centred / (centred @ centred)


def rank1(
    steps: Sequence[float],
    gram: Matrix,
    target: float,
    rank: int | None = 1,
    with_start: bool = False,
) -> Vector:
    """RELEX: the deltas' leading singular directions, each with a line through its coefficients.

    From the Gram matrix alone: with G = U S² Uᵀ, direction r has the coefficient series
    s_r u_r over the steps; a line a t + b through it gives c = sum_r ((a t* + b) / s_r) u_r.
    Real step numbers are fitted, not positions. Source: arXiv 2605.21468.

    Args:
        gram: [K, K], inner products of the deltas; row and column 0 are zero.
        rank: how many directions; None for all, which is least squares on the same points.
        with_start: let the fit go through theta_0's own point (t0, 0) as well.
    """
    values, vectors = np.linalg.eigh(gram[1:, 1:])
    order = np.argsort(values)[::-1][: len(values) if rank is None else rank]
    c = np.zeros(len(steps))
    floor = max(values.max(), 0.0) * 1e-14  # below it a direction is rounding
    points = np.asarray(steps, np.float64)[0 if with_start else 1 :]
    for r in order:
        if values[r] <= floor:
            continue
        scale = np.sqrt(values[r])
        series = scale * vectors[:, r]
        if with_start:
            series = np.concatenate([[0.0], series])
        c[1:] += (line_weights(points, target) @ series) / scale * vectors[:, r]
    return c


def first_update(steps: Sequence[float], gram: Matrix | None, target: float) -> Vector:
    """The line through theta_0 and the checkpoint after it, read off at the target."""
    return only(len(steps), 1, (target - steps[0]) / (steps[1] - steps[0]))


def rre(steps: Sequence[float], gram: Matrix, target: float, ridge: float = 1e-4) -> Vector:
    """Reduced rank extrapolation: theta* = sum_i g_i theta_i+1 where the movement comes to rest.

    With u_i = theta_i+1 - theta_i, g minimises ||sum_i g_i u_i||² + ridge mean(||u_i||²) ||g||²
    under sum_i g_i = 1; the target does not matter. Exact where each theta_i+1 is the same affine
    map of theta_i, of lower rank than there are movements. Source: Sidi, SIAM J. Numer. Anal. 23
    (1986); the ridge: Scieur et al., arXiv 1606.04133.

    Args:
        gram: [K, K], inner products of the deltas.
        ridge: above 0; more of it brings g nearer to the plain average.
    """
    if ridge <= 0:
        raise PipelineError(f"options.ridge={ridge}: must be above 0")
    count = len(steps) - 1
    difference = np.diff(np.eye(len(steps)), axis=0)
    movements = difference @ gram @ difference.T
    scale = float(np.trace(movements)) / count
    c = only(len(steps), -1, 1.0)
    if scale <= 0.0:  # nothing moves
        return c
    g = np.linalg.solve(movements / scale + ridge * np.eye(count), np.ones(count))
    c[1:] = g / g.sum()
    return c


def expo(steps: Sequence[float], gram: Matrix | None, target: float, alpha: float = 0.5) -> Vector:
    """ExPO: theta_1 + alpha (theta_1 - theta_0), whatever the target. Source: arXiv 2404.16792."""
    return only(len(steps), -1, 1.0 + alpha)


def mean(
    steps: Sequence[float], gram: Matrix | None, target: float, count: int | None = None
) -> Vector:
    """The average of the last `count` used checkpoints (None: of all), whatever the target."""
    n = len(steps) if count is None else count
    if not 1 <= n <= len(steps):
        raise PipelineError(f"options.count={n}: there are {len(steps)} checkpoints")
    c = np.zeros(len(steps))
    c[-n:] = 1.0 / n
    c[0] = 0.0
    return c


def ema(steps: Sequence[float], gram: Matrix | None, target: float, decay: float = 0.5) -> Vector:
    """The average of the used checkpoints with weights 1, decay, decay², ... from the last back."""
    if not 0 <= decay <= 1:
        raise PipelineError(f"options.decay={decay}: is not between 0 and 1")
    c = np.power(decay, np.arange(len(steps) - 1, -1, -1.0), dtype=np.float64)
    c /= c.sum()
    c[0] = 0.0
    return c


def last(steps: Sequence[float], gram: Matrix | None, target: float) -> Vector:
    """No extrapolation: the last used checkpoint, the baseline that any prediction must beat."""
    return only(len(steps), -1, 1.0)


def gated(
    steps: Sequence[float],
    gram: Matrix,
    target: float,
    line: str = "two_point",
    by: str = "tensor",
) -> Vector:
    """The step beyond the last checkpoint, scaled by how straight the path to it was (its R²).

    theta* = theta_K + R² (line(t*) - theta_K): what moved straight keeps moving.

    Args:
        line: "two_point" or "least_squares", what is gated.
        by: "tensor": one R² a tensor, the share of its movement that lines in the step explain;
            "scalar": each scalar's own R², which no c can express: c is then the line's, and
            `combine` applies the gate.
    """
    lines = {"two_point": two_point, "least_squares": least_squares}
    if line not in lines:
        raise PipelineError(f"options.line={line!r}: known are {', '.join(lines)}")
    if by not in ("tensor", "scalar"):
        raise PipelineError(f"options.by={by!r}: known are tensor, scalar")
    c = lines[line](steps, None, target)
    r2 = linear_r2(steps, gram) if by == "tensor" else 1.0
    return damped(c, 0.0 if r2 is None else r2)


def damped(c: Vector, damping: float) -> Vector:
    """Shorten the step beyond the last checkpoint: theta_K + damping (theta* - theta_K)."""
    end = only(len(c), -1, 1.0)
    return end + damping * (c - end)


def capped(c: Vector, gram: Matrix, max_norm: float) -> Vector:
    """Keep the step beyond the last checkpoint within `max_norm` lengths of the last movement.

    theta_K + s (theta* - theta_K), s = min(1, max_norm ||theta_K - theta_K-1|| / ||theta* -
    theta_K||) with the norms of this tensor: both are differences of deltas, so v @ gram @ v is
    their square. Where nothing has moved last, nothing moves. c itself, to the bit, where s = 1.

    Args:
        gram: [K, K], fp64. A relative error of it is one of that share of ||delta_K||² in both
            squares.
    """
    end = only(len(c), -1, 1.0)
    movement = end - only(len(c), -2, 1.0)  # of two checkpoints delta_0, which is 0
    length, last = (float(np.sqrt(max(float(v @ gram @ v), 0.0))) for v in (c - end, movement))
    if length <= max_norm * last:
        return c
    return end + max_norm * last / length * (c - end)


METHODS: dict[str, Method] = {
    "two_point": Method(two_point, uses="ends"),
    "least_squares": Method(least_squares),
    "first_update": Method(first_update),
    "rank1": Method(rank1, needs_gram=True, least=3),
    "rre": Method(rre, needs_gram=True, least=3, max_norm=1.0),
    "expo": Method(expo, uses="ends"),
    "mean": Method(mean),
    "ema": Method(ema),
    "last": Method(last, uses="ends", copies_last=True),
    "gated": Method(gated, needs_gram=True, least=3, beyond=True),
}
