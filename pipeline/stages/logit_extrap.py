"""Sample from l0 + alpha (l1 - l0) for every alpha, and from the sum of the given members' logits:
several checkpoints, one stream of tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.content import recorded_settings, task_data
from pipeline.estimates import sampling as estimates
from pipeline.evaluation import members
from pipeline.stages.base import Context

if TYPE_CHECKING:
    from pipeline.inference.parallel import Work

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
    data = task_data([each.task for each in context.sets], context.hashes)
    return members.inputs(context) | data | recorded_settings(context.recorded)


def standing(context: Context) -> str:
    return context.standing("logit_extrap", "generations.jsonl")


def plan(context: Context) -> str:
    if context.steps is not None:
        context.ends(context.steps)
    for task, split, count in context.sets:
        context.check_task(task, (split, count))
    logit, parts = context.config.logit_extrap, []
    if logit.alphas:
        parts.append("alpha " + ", ".join(f"{alpha:g}" for alpha in sorted(logit.alphas)))
    if logit.members:
        parts.append(members.check(context))
    held = "two checkpoints" if logit.alphas else f"{len(logit.members)} models"
    text = f"{'; '.join(parts)}; {context.engine.check()} with {held}"
    return text + estimates.logit_extrap(context)


def works(context: Context) -> list[Work]:
    """What is drawn; checkpoints that no engine can start on are written first."""
    from pipeline.evaluation.candidates import logit_candidates
    from pipeline.evaluation.posing import pose
    from pipeline.evaluation.sampling import mixture_works, sampling
    from pipeline.inference.parallel import Draw

    draw = Draw(sampling(context), context.stage_dir("logit_extrap") / "generations.jsonl")
    candidates = logit_candidates(context, *context.ends(context.trajectory.steps))
    candidates += members.mixture_candidates(context)
    return mixture_works(context, [draw], candidates, pose(context).items)


def run(context: Context) -> dict[str, Any]:
    from pipeline.evaluation.sampling import sample

    first, last = context.ends(context.trajectory.steps)
    return {"from": f"{first} to {last}", "generations": sample(context, works(context))}
