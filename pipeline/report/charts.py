"""The accuracies of scores.json as lines, for W&B's charts: over the step, and over α.

The runs of a sweep draw the same charts, so W&B lays their lines over one another.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Chart(NamedTuple):
    """`lines` has the (x, accuracy in [0, 1]) points of each line, by ascending x."""

    name: str
    x: str
    lines: dict[str, list[tuple[float, float]]]


def charts(scores: Mapping[str, Any]) -> list[Chart]:
    """For each task and split: accuracy over the step ("horizon") and over α ("alpha").

    Real RL is a line of its own beside every method; base and last checkpoint are α = 0 and 1 only
    where the extrapolation starts and ends at them, so they are in the first chart alone.
    """
    found: dict[tuple[str, str], dict[str, list[tuple[float, float]]]] = {}

    def add(kind: str, x: str, row: Mapping[str, Any], line: str) -> None:
        place = f"{kind}/{row['task']}/{row['split']}"
        points = found.setdefault((place, x), {}).setdefault(line, [])
        points.append((float(row[x]), float(row["avg@k"])))

    for row in scores["rows"]:
        if row["kind"] in ("base", "rl"):
            add("horizon", "step", row, "rl")
        elif row["kind"] in ("weight", "logit"):
            line = str(row.get("method") or "logit")
            add("horizon", "step", row, line)
            add("alpha", "alpha", row, line)
    return [
        Chart(name, x, {line: sorted(points) for line, points in lines.items()})
        for (name, x), lines in found.items()
    ]


def best_on_validation(scores: Mapping[str, Any]) -> dict[str, float]:
    """The validation accuracy of each chosen extrapolation, what a sweep has to maximise."""
    return {
        f"validation/{kind}": float(choice["validation avg@k"])
        for kind, choice in scores["chosen"].items()
    }
