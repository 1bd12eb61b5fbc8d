"""Example fits, to be plotted: a few scalars with their line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipeline.trajectory.shards import Files
from pipeline.trajectory.sources import Trajectory

EXAMPLES = 12


@dataclass(frozen=True, order=True)
class Spot:
    """One scalar: a tensor's name and the flat index into it."""

    name: str
    index: int


def spread(spots: Sequence[Spot], count: int = EXAMPLES) -> list[Spot]:
    """At most `count` of them, evenly spread over the tensors."""
    if len(spots) <= count:
        return list(spots)
    return [spots[i * (len(spots) - 1) // (count - 1)] for i in range(count)]


def line_fit(steps: Sequence[float], values: Sequence[float]) -> dict[str, Any]:
    """Least squares of values on steps, in fp64: slope, intercept and R² (0 if constant)."""
    x = np.asarray(steps, np.float64)
    y = np.asarray(values, np.float64)
    dx, dy = x - x.mean(), y - y.mean()
    slope = float(dx @ dy / (dx @ dx))
    total = float(dy @ dy)
    return {
        "steps": list(steps),
        "values": [float(v) for v in values],
        "slope": slope,
        "intercept": float(y.mean() - slope * x.mean()),
        "r2": slope * slope * float(dx @ dx) / total if total > 0 else 0.0,
    }


def weight_fit(trajectory: Trajectory, files: Files, spot: Spot) -> dict[str, Any]:
    """The value of one weight at every checkpoint, with its line."""
    value, values = torch.empty(1), []
    for step in trajectory.steps:
        entry = trajectory.checkpoints[step].entries[spot.name]
        files.load(entry, spot.index, spot.index + 1, value)
        values.append(float(value))
    return {"name": spot.name, "index": spot.index, **line_fit(trajectory.times, values)}
