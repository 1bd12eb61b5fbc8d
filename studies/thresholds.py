"""Rules of one or two thresholds that say yes or no, and how often they hold on what they have not
seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Table = Mapping[str, NDArray[np.float64]]  # [points] of each feature
Flags = NDArray[np.bool_]
CUTS = 24  # tried of a feature, at even quantiles
DRAWS = 2000


@dataclass(frozen=True)
class Threshold:
    """Yes where `feature` is above `cut` (or, with `above` false, at most it)."""

    feature: str
    cut: float
    above: bool

    def says(self, table: Table) -> Flags:
        found: Flags = (table[self.feature] > self.cut) == self.above
        return found

    def __str__(self) -> str:
        return f"{self.feature} {'>' if self.above else '<='} {self.cut:.4g}"


@dataclass(frozen=True)
class Rule:
    """Yes where all of one or two thresholds say so."""

    parts: tuple[Threshold, ...]

    def says(self, table: Table) -> Flags:
        found: Flags = np.logical_and.reduce([part.says(table) for part in self.parts])
        return found

    def __str__(self) -> str:
        return " and ".join(map(str, self.parts))


def balanced(said: Flags, truth: Flags) -> float:
    """Mean of the shares of yes and of no that are said rightly; 0.5 is guessing. Where the truth
    is one of them alone, its share."""
    shares = [
        float(np.mean(said[truth == kind] == kind)) for kind in (True, False) if kind in truth
    ]
    return sum(shares) / len(shares)


def fit(table: Table, truth: Flags, parts: int) -> Rule:
    """The rule of up to `parts` (1 or 2) thresholds that is best on these points, by `balanced`; of
    equal ones the first, so one threshold before two."""
    singles = _thresholds(table)
    said = np.array([single.says(table) for single in singles], np.float64)
    yes, no = said[:, truth], said[:, ~truth]
    scores = np.zeros((len(singles), len(singles)))  # of two together; on the diagonal of one alone
    if truth.any():
        scores += yes @ yes.T / yes.shape[1]
    if not truth.all():
        scores += 1.0 - no @ no.T / no.shape[1]
    first = int(np.argmax(np.diag(scores)))
    rule, score = Rule((singles[first],)), float(scores[first, first])
    if parts == 2:
        own = np.array([single.feature for single in singles])
        scores[own[:, None] == own] = -1.0
        one, other = sorted(map(int, np.unravel_index(np.argmax(scores), scores.shape)))
        if scores[one, other] > score + 1e-9:
            rule = Rule((singles[one], singles[other]))
    return rule


def _thresholds(table: Table) -> list[Threshold]:
    """Cuts half-way between neighbouring values, as many as `CUTS` of each feature."""
    found = []
    for feature, values in table.items():
        distinct = np.unique(values)
        cuts = (distinct[1:] + distinct[:-1]) / 2
        places = np.unique(np.linspace(0, len(cuts) - 1, min(CUTS, len(cuts))).round().astype(int))
        found += [
            Threshold(feature, float(cuts[i]), above) for i in places for above in (True, False)
        ]
    return found


def left_out(table: Table, truth: Flags, groups: Sequence[str], parts: int) -> Flags:
    """What rules say of each group of points that were fitted on all the others."""
    said = np.zeros(len(truth), bool)
    names = np.asarray(groups)
    for name in dict.fromkeys(groups):
        mine = names == name
        rule = fit({key: values[~mine] for key, values in table.items()}, truth[~mine], parts)
        said[mine] = rule.says({key: values[mine] for key, values in table.items()})
    return said


def judged(said: Flags, truth: Flags, groups: Sequence[str]) -> dict[str, Any]:
    """Hit rate and balanced accuracy with 95 % intervals, by drawing groups anew; beside them the
    hit rate of always saying what is more frequent."""
    names = np.asarray(groups)
    members = [np.flatnonzero(names == name) for name in dict.fromkeys(groups)]
    rng = np.random.default_rng(0)
    hits, levels = [], []
    for _ in range(DRAWS):
        drawn = np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])
        hits.append(float(np.mean(said[drawn] == truth[drawn])))
        levels.append(balanced(said[drawn], truth[drawn]))
    often = float(np.mean(truth))
    return {
        "points": len(truth),
        "groups": len(members),
        "yes": int(truth.sum()),
        "hit_rate": float(np.mean(said == truth)),
        "hit_rate_ci95": [float(q) for q in np.quantile(hits, (0.025, 0.975))],
        "balanced": balanced(said, truth),
        "balanced_ci95": [float(q) for q in np.quantile(levels, (0.025, 0.975))],
        "always_the_same": max(often, 1 - often),
        "right_of_yes_said": _share(truth, said),
        "found_of_yes": _share(said, truth),
    }


def _share(flags: Flags, where: Flags) -> float | None:
    return float(np.mean(flags[where])) if where.any() else None
