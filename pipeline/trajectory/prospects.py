"""What can be said of predictions before they are evaluated: how straight the path is that they
follow, and how far beyond its end they reach.

A study of one small model (docs/results.md, "A rule before evaluation") found that these two tell a
loss beforehand. Its thresholds are that model's own: they are shown beside the figures of another
run, and decide nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import PipelineError
from pipeline.trajectory.gram import middle_of, straightness
from pipeline.trajectory.segments import check_straight


@dataclass(frozen=True)
class Study:
    """What studies.rule found of greedy accuracy (docs/results/rule.json).

    Attributes:
        predictions: how many were evaluated.
        straightness, reach: the thresholds of the rule that tells losses, fitted on all of them.
        warned: predictions with a straightness of at most the one and a reach above the other.
        warned_lost, others_lost: how many of these, and of the others, lost accuracy.
        hit_rate: share that the rule says rightly of settings that it was not fitted on.
        farthest: the largest reach.
    """

    predictions: int
    straightness: float
    reach: float
    warned: int
    warned_lost: int
    others_lost: int
    hit_rate: float
    farthest: float

    @property
    def words(self) -> str:
        return (
            f"in a study of one small model (docs/results.md) {self.warned_lost} of the "
            f"{self.warned} predictions with a straightness of at most {self.straightness:.3g} and "
            f"a reach above {self.reach:.2g} lost accuracy, and {self.others_lost} of the other "
            f"{self.predictions - self.warned} ({100 * self.hit_rate:.0f} % of unseen settings "
            "said rightly); these thresholds are of that model"
        )


STUDY = Study(
    predictions=288,
    straightness=0.806,
    reach=0.01883,
    warned=85,
    warned_lost=64,
    others_lost=1,
    hit_rate=0.8993,
    farthest=0.423,
)


@dataclass(frozen=True)
class Prospects:
    """Of a path between two checkpoints, and of steps beyond it.

    Attributes:
        middle: the checkpoint between them at which its halves part; None if there is none.
        relative_movement: ||theta_last - theta_first|| / ||theta_first||; None if that is 0.
        straightness: the cosine between the halves; None where it is not defined.
        reach: by target beyond `last`, relative_movement times
            (target - last) / (last - first): the line's step beyond the last checkpoint, in norms
            of the weights.
    """

    first: int
    last: int
    middle: int | None
    relative_movement: float | None
    straightness: float | None
    reach: Mapping[int, float]

    @property
    def path(self) -> str:
        """How far and how straight the weights went, in words."""
        if self.relative_movement is None:
            return f"the weights of step {self.first} are all 0: no movement compares with them"
        bent = f"straightness {self.straightness or 0:.2f} (its halves part at step {self.middle})"
        if self.middle is None:
            bent = "straightness unknown (no checkpoint between)"
        elif self.straightness is None:
            bent = f"straightness undefined (one half, parted at step {self.middle}, does not move)"
        moved = f"the weights moved by {self.relative_movement:.3g} of their norm"
        return f"from step {self.first} to {self.last} {moved}, {bent}"

    @property
    def far(self) -> str:
        """The reach of each target, in words; "" if there is none."""
        return "; ".join(f"target {step}: reach {reach:.2g}" for step, reach in self.reach.items())

    @property
    def beyond(self) -> str:
        """Which targets lie beyond all that the study measured, in words; "" if none does."""
        far = [step for step, reach in self.reach.items() if reach > STUDY.farthest]
        if not far:
            return ""
        return (
            f"target {', '.join(map(str, far))}: a reach of {self.reach[far[-1]]:.2g} norms of the "
            f"weights is beyond all that was measured (up to {STUDY.farthest:.2g}, docs/results.md)"
        )

    def summary(self, *words: str) -> dict[str, Any]:
        """For a stage's summary: the figures, and what the path promises with further words."""
        return {
            "relative_movement": self.relative_movement,
            "straightness": self.straightness,
            **{f"reach_{target}": reach for target, reach in self.reach.items()},
            "outlook": "; ".join(filter(None, (self.path, *words, STUDY.words))),
        }


def prospects(
    probe: Mapping[str, Any], steps: Sequence[int], first: int, last: int, targets: Sequence[int]
) -> Prospects:
    """What a path promises.

    Args:
        probe: what `linearity.probe_weights` returns.
        steps: of its checkpoints, in order, as `probe["steps"]` are but for jumps.
        first, last: two of them, between which predictions see the path.
        targets: the steps to predict; those up to `last` are left out.

    Raises:
        PipelineError: an end that is no checkpoint; a run that jumped between the two.
    """
    times = [float(time) for time in probe["steps"]]
    for end, step in (("first", first), ("last", last)):
        if step not in steps:
            known = ", ".join(map(str, steps))
            raise PipelineError(f"extrapolation.{end}={step}: no such checkpoint; steps: {known}")
    check_straight(first, last, dict(zip(steps, times, strict=True)))
    if first >= last:
        raise PipelineError(f"extrapolation.first={first} must be below extrapolation.last={last}")
    gram, (one, other) = np.asarray(probe["gram"]), (steps.index(first), steps.index(last))
    squared = gram[one, one] + gram[other, other] - 2 * gram[one, other]
    norm = float(probe["squared_norms"][one])
    moved = math.sqrt(max(0.0, float(squared)) / norm) if norm > 0 else None
    ahead = [target for target in sorted(set(targets)) if target > last and moved is not None]
    middle = middle_of(times, one, other)
    return Prospects(
        first=first,
        last=last,
        middle=None if middle is None else steps[middle],
        relative_movement=moved,
        straightness=straightness(times, gram, one, other),
        reach={step: (moved or 0.0) * (step - last) / (last - first) for step in ahead},
    )


def asked(targets: Sequence[int], alphas: Sequence[float], first: int, last: int) -> list[int]:
    """The steps to predict: `targets`, or these multiples of the way from first to last."""
    if targets:
        return sorted(targets)
    return sorted({round(first + alpha * (last - first)) for alpha in alphas})
