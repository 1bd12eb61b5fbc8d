"""Recipes of predicted models: what a method says about a trajectory, as coefficients.

The same plan as `trajectory.combine.extrapolate` (methods, options, held tensors), without the
folder: an engine that loads the recipe holds the weights that the folder would have held.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pipeline.errors import PipelineError
from pipeline.inference.recipe import Recipe, read_deltas
from pipeline.progress import bar
from pipeline.trajectory.gram import piece_gram
from pipeline.trajectory.plan import Plan, make_plan
from pipeline.trajectory.shards import Files
from pipeline.trajectory.sources import Trajectory


def predict(
    trajectory: Trajectory,
    method: str,
    first: int,
    last: int,
    targets: Sequence[int],
    hold: Sequence[str] = ("*norm*",),
    dtype: str = "bfloat16",
    options: Mapping[str, Any] | None = None,
) -> dict[int, Recipe]:
    """A recipe for each target step.

    Args:
        trajectory, method, first, last, targets, hold, dtype, options: as `extrapolate` takes
            them; `dtype` is not "same". Methods that need Gram matrices read every used
            checkpoint once, the others read nothing.

    Raises:
        PipelineError: a bad value, or a method that differs by scalar (its weights are no linear
            combination of checkpoints; use weight_extrap).
    """
    plan = make_plan(trajectory, method, first, last, targets, hold, dtype, options or {})
    if plan.by_scalar:
        raise PipelineError(
            "extrapolation.options.by=scalar: such weights are no sum of checkpoints; write them "
            "with the weight_extrap stage"
        )
    folders = tuple(checkpoint.weights for checkpoint in plan.checkpoints)
    models = all(checkpoint.loadable for checkpoint in plan.checkpoints)
    base = None if models else trajectory.base.weights
    if not (models or trajectory.base.loadable):
        raise PipelineError(
            f"{trajectory.base.weights}: stored as {trajectory.base.layout}, which no engine "
            "loads; set weight_extrap.write=true"
        )
    tables = _coefficients(plan)
    return {t: Recipe(folders, tables[t], tuple(hold), dtype, base) for t in targets}


def _coefficients(plan: Plan) -> dict[int, Any]:
    """For each target one list of coefficients, or one for each tensor name."""
    if not plan.rule.needs_gram and not plan.alpha_by_tensor:
        return {t: plan.coefficients("", None, t).tolist() for t in plan.targets}
    names = [name for name in plan.last.entries if name not in plan.copied]
    tables: dict[int, Any] = {t: {} for t in plan.targets}
    with Files() as files, bar(len(names), "gram", "tensor") as progress:
        for name in names:
            gram = None
            if plan.rule.needs_gram:
                _, deltas = read_deltas(files, plan.checkpoints, name)
                gram = piece_gram(torch.stack(deltas))
            for t in plan.targets:
                tables[t][name] = plan.coefficients(name, gram, t).tolist()
            progress.update(1)
    return tables
