"""Intervals of a score and of a paired difference, in closed form. numpy only.

The unit is the problem. A percentile bootstrap over problems covers too little where few of them
differ (0 of n gives [0, 0]; 3 % of 30 problems is covered in 56 % of cases instead of 95 %), so the
intervals here are score intervals: the variance under test is the binomial one, which is not zero
where the seen one is, over an effective number of problems.

**Effective number.** n problems with k samples each are worth between n answers (a problem is
always right or always wrong) and n k answers (all problems are alike): n_eff = n r, with r the
variance of single answers over the variance of the problems' shares (1 <= r <= k; the inverse
design effect of survey statistics: Kish 1965; Korn & Graubard 1998, Survey Methodology 24:193).
Where few problems carry the rarer outcome, that ratio is itself hardly known, and a score that
rests on one lucky problem would look certain. So it is trusted as far as m problems carry that
outcome, m = (sum x)^2 / sum x^2: n_eff = n r^(m^2 / (m^2 + m0^2)), m0 = 2.5 for scores and 1.5 for
differences.

**Score**: Wilson's interval (1927, JASA 22:209) at n_eff. With one sample a problem it is exactly
Wilson's. **Difference**: Tango's (1998, Statistics in Medicine 17:891) for the counts n_eff p+ and
n_eff p-, p+ and p- the means of the problems' differences above and below zero. With one sample
a problem these are the discordant pairs, and it is exactly Tango's.

`benchmarks/interval_coverage.py` shows how often they cover; m0 was chosen on its grid.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import PipelineError

Array = NDArray[np.float64]
TRUST_SCORE, TRUST_DIFFERENCE = 2.5, 1.5  # problems from which on their spread is believed
HALVINGS = 60  # of [-1, 1], until a bound is exact to the last bit
FINEST = 1e15  # n_eff / n of shares that were not counted and hardly differ


def score_interval(shares: Array, samples: float, confidence: float = 0.95) -> tuple[Array, Array]:
    """Low and high of the mean over problems, both in [0, 1].

    Args:
        shares: [..., problems], share of right answers of each problem.
        samples: answers of each problem, k.

    Raises:
        PipelineError: no problems, or a share outside of [0, 1].
    """
    values = _checked(shares, 0)
    mean = values.mean(-1)
    single = mean * (1 - mean)
    spread = np.maximum(values.var(-1), single / samples)
    carriers = np.minimum(_carriers(values), _carriers(1 - values))
    number = values.shape[-1] * _ratio(single, spread, carriers / TRUST_SCORE)
    z = _quantile(confidence)
    middle = (mean + z**2 / (2 * number)) / (1 + z**2 / number)
    half = z / (1 + z**2 / number) * np.sqrt(single / number + (z / (2 * number)) ** 2)
    # at the ends Wilson's bound is the end itself, but for rounding
    low = np.where(mean == 0, 0.0, np.clip(middle - half, 0, mean))
    high = np.where(mean == 1, 1.0, np.clip(middle + half, mean, 1))
    return low, high


def difference_interval(
    a: Array, b: Array, samples: float, confidence: float = 0.95
) -> tuple[Array, Array]:
    """Low and high of the mean of a - b over the same problems, both in [-1, 1].

    Args:
        a, b: [..., problems], shares of right answers of two models, problems in the same order.
        samples: answers of each problem; of two numbers the larger. Infinite: the shares are known.

    Raises:
        PipelineError: no problems, or a difference outside of [-1, 1].
    """
    one, other = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    values = _checked(one - other, -1)
    mean, moved = values.mean(-1), np.abs(values).mean(-1)
    single = moved - mean**2
    spread = values.var(-1)
    if samples > 1:  # the draws alone scatter so much
        noise = (one * (1 - one) + other * (1 - other)).mean(-1) / (samples - 1)
        spread = np.maximum(spread, noise)
    carriers = _carriers(np.abs(values))
    number = values.shape[-1] * _ratio(single, spread, carriers / TRUST_DIFFERENCE)
    up, down = (moved + mean) / 2, (moved - mean) / 2
    z = _quantile(confidence)
    low = np.minimum(_tango(up, down, number, z), mean)
    high = np.maximum(_tango(up, down, number, -z), mean)
    return low, high


def _checked(values: Array, least: int) -> Array:
    found = np.asarray(values, dtype=np.float64)
    if found.ndim == 0 or found.shape[-1] == 0:
        raise PipelineError("interval: no problems; a score needs at least one")
    if not bool(((found >= least) & (found <= 1)).all()):  # NaN neither
        raise PipelineError(f"interval: the values of problems must be between {least} and 1")
    return found


def _quantile(confidence: float) -> float:
    return NormalDist().inv_cdf((1 + confidence) / 2)


def _carriers(values: Array) -> Array:
    """(sum x)^2 / sum x^2, [...]: the number of problems if all carried the same."""
    squares = (values**2).sum(-1)
    return np.divide(values.sum(-1) ** 2, squares, out=np.zeros_like(squares), where=squares > 0)


def _ratio(single: Array, spread: Array, trust: Array) -> Array:
    """n_eff / n, [...], of at least 1: `single` over `spread`, as far as it is trusted (m / m0)."""
    widest = np.maximum(spread, single / FINEST)
    ratio = np.divide(single, widest, out=np.ones_like(single), where=widest > 0)
    return np.maximum(ratio, 1) ** (trust**2 / (trust**2 + 1))


def _tango(up: Array, down: Array, number: Array, z: float) -> Array:
    """The difference at which Tango's score is z, [...]: the lower bound for z > 0.

    Args:
        up, down: shares of discordant pairs, [...]; number: of pairs.
    """
    low, high = -np.ones_like(up), np.ones_like(up)
    for _ in range(HALVINGS):
        delta = (low + high) / 2
        # q: the share `down` that is likeliest under this difference (Tango's p21)
        slope = (2 - up + down) * delta - up - down
        root = np.sqrt(np.maximum(slope**2 + 8 * down * delta * (1 - delta), 0))
        variance = np.maximum((root - slope) / 2 + delta * (1 - delta), 0)
        left = np.sqrt(number) * (up - down - delta) - z * np.sqrt(variance)
        above = left > 0 if z > 0 else left >= 0  # both terms are 0 at 0 of n: the score is 0
        low, high = np.where(above, delta, low), np.where(above, high, delta)
    return (low + high) / 2
