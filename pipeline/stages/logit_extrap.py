"""Sample from l0 + alpha (l1 - l0) for every alpha: two checkpoints, one stream of tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.stages import models, outside, problems, sampling
from pipeline.stages.base import Context
from pipeline.stages.candidates import logit_candidates
from pipeline.stages.snapshot import planned_steps

if TYPE_CHECKING:
    from pipeline.trajectory.sources import Trajectory

SECTIONS = (
    "logit_extrap",
    "extrapolation",
    "evaluate",
    "task",
    "eval_tasks",
    "engine",
    "model.dtype",
    "seed",
)
REUSES = True  # rows know what they were made from


def needs(context: Context) -> tuple[str, ...]:
    return ("snapshot",)


def inputs(context: Context) -> dict[str, Any]:
    tasks = [task for task, _, _ in problems.evaluation_sets(context)]
    return {**outside.task_data(context, tasks), **outside.recorded_settings(context)}


def standing(context: Context) -> str:
    return context.standing("logit_extrap", "generations.jsonl")


def plan(context: Context) -> str:
    steps = planned_steps(context)
    if steps is not None:
        models.end_steps(context, steps)
    for task, split, count in problems.evaluation_sets(context):
        problems.check_task(context, task, (split, count))
    alphas = ", ".join(f"{alpha:g}" for alpha in sorted(context.config.logit_extrap.alphas))
    return f"alpha {alphas}; {sampling.check_engine(context)} with two checkpoints"


def mixture(context: Context, trajectory: Trajectory, first: int, last: int) -> dict[str, Any]:
    """Arguments of the engine that mixes the checkpoints of steps `first` and `last`."""
    made = context.stage_dir("logit_extrap") / "models"
    folders = models.model_folders(context, trajectory, [first, last], made)
    engine = sampling.engine_arguments(context, folders[first], folders[last])
    return engine | {"speculative": context.config.logit_extrap.speculative}


def run(context: Context) -> dict[str, Any]:
    from pipeline.inference.parallel import Draw

    trajectory = models.load_trajectory(context)
    first, last = models.end_steps(context, trajectory.steps)
    path = context.stage_dir("logit_extrap") / "generations.jsonl"
    draw = Draw(sampling.sampling(context), path)
    engine = mixture(context, trajectory, first, last)
    candidates = logit_candidates(context, trajectory, first, last)
    sets = problems.load_sets(context)
    items = problems.encode_sets(context, trajectory.base.folder, sets)
    added = sampling.sample(context, [draw], candidates, engine, items)
    return {"from": f"{first} to {last}", "generations": added}
