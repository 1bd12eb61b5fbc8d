"""Extrapolated models that are never written: the formula, and an engine that builds the weights.

A sweep over many horizons then costs no disk; the weights are those of the written model to the
bit (pipeline/inference/recipe.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.artifacts import read_own, write_json
from pipeline.inference.predict import predict
from pipeline.trajectory.plan import make_plan
from pipeline.trajectory.sources import Trajectory


def write_formulas(
    trajectory: Trajectory,
    method: str,
    first: int,
    last: int,
    targets: Sequence[int],
    out: Mapping[int, Path],
    hold: Sequence[str],
    dtype: str,
    options: Mapping[str, Any],
) -> dict[int, dict[str, Any]]:
    """extrapolation.json alone, with the formula from which an engine builds the same weights.

    Takes what `trajectory.combine.extrapolate` takes, and returns what it returns.

    Raises:
        PipelineError: the method's weights are no sum of checkpoints (gated by scalar).
    """
    plan = make_plan(trajectory, method, first, last, targets, hold, dtype, options)
    records = {target: plan.record(target) for target in targets}
    paths = {target: out[target] / "extrapolation.json" for target in targets}
    todo = [
        target
        for target, path in paths.items()
        if not path.exists() or read_own(path)["plan"] != records[target]["plan"]
    ]
    if todo:
        recipes = predict(trajectory, method, first, last, todo, hold, dtype, options)
        for target, recipe in recipes.items():
            write_json(paths[target], records[target] | {"recipe": recipe.to_plain()})
    return records
