"""Recipes of predicted models: what a method says about a trajectory, as coefficients.

The same plan as `trajectory.combine.extrapolate` (methods, options, held tensors), without the
folder: an engine that loads the recipe holds the weights that the folder would have held.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.errors import PipelineError
from pipeline.inference.recipe import Recipe
from pipeline.trajectory.coefficients import check_sum
from pipeline.trajectory.gram import Gram
from pipeline.trajectory.measure import measure_grams
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
    check_sum(plan.options)
    folders = tuple(checkpoint.weights for checkpoint in plan.checkpoints)
    models = all(checkpoint.loadable for checkpoint in plan.checkpoints)
    base = None if models else trajectory.base.weights
    if not (models or trajectory.base.is_model):
        raise PipelineError(
            f"{trajectory.base.weights}: stored as {trajectory.base.layout}, which no engine "
            "loads; set weight_extrap.write=true"
        )
    tables = _coefficients(plan)
    matching = trajectory.matching
    return {t: Recipe(folders, tables[t], tuple(hold), dtype, base, matching) for t in targets}


def _coefficients(plan: Plan) -> dict[int, Any]:
    """For each target one list of coefficients, or one for each tensor name."""
    if not plan.rule.needs_gram and not plan.alpha_by_tensor:
        return {t: plan.coefficients("", None, t).tolist() for t in plan.targets}
    entries = [entry for name, entry in plan.last.entries.items() if name not in plan.copied]
    still = Gram.zero(len(plan.checkpoints))  # of a tensor without elements
    grams: dict[str, Gram] = {}
    if plan.rule.needs_gram:
        with Files() as files:
            grams = measure_grams(plan.checkpoints, entries, files)
    return {
        t: {
            e.name: plan.coefficients(e.name, grams.get(e.name, still).matrix, t).tolist()
            for e in entries
        }
        for t in plan.targets
    }
