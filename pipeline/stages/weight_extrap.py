"""Predict future checkpoints from the trajectory: one read, a complete model folder a target."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pipeline.artifacts import read_own
from pipeline.estimates import sampling
from pipeline.stages.base import Context
from pipeline.subject.methods import make_plans
from pipeline.trajectory.prospects import Prospects, asked, prospects
from pipeline.trajectory.share import telling

if TYPE_CHECKING:
    from pipeline.trajectory.plan import Plan

SECTIONS = ("extrapolation", "extrapolations", "weight_extrap")
REUSES = True  # a finished folder is recognised by what it was made from
NOTABLE = 0.7  # of a predicted movement, lost in the rounding: half of its square


def needs(context: Context) -> tuple[str, ...]:
    return ("snapshot",)


def inputs(context: Context) -> dict[str, Any]:
    return {}


def standing(context: Context) -> str:
    return context.standing("weight_extrap")


def plan(context: Context) -> str:
    from pipeline.trajectory.writer import check_space

    extrapolation, extrap = context.config.extrapolation, context.config.weight_extrap
    names = _check(context)
    last = "the last step" if extrapolation.last is None else str(extrapolation.last)
    wanted = f"targets {', '.join(map(str, sorted(extrap.targets)))}"
    if not extrap.targets:
        wanted = f"alpha {', '.join(f'{alpha:g}' for alpha in sorted(extrap.alphas))}"
    between = f"from {extrapolation.first} to {last}"
    text = f"{', '.join(names)} {between}, {wanted}, {extrap.dtype}"
    estimate = sampling.weight_extrap(context, len(names))
    found = _prospects(context)
    if found is not None and found.beyond:
        estimate = f"; {found.beyond}{estimate}"
    if not extrap.write:
        return f"{text}; recipes only{estimate}"
    size = _output_bytes(context, len(names))
    if size is None:
        return text + estimate
    folder = context.stage_dir("weight_extrap")
    if not (folder.exists() or context.config.dry_run):
        check_space(folder, int(size))
    return f"{text}; writes {size / 1e9:.3g} GB{estimate}"


def run(context: Context) -> dict[str, Any]:
    from pipeline.trajectory.combine import write_all
    from pipeline.trajectory.recipe import write_recipes

    trajectory, found = context.trajectory, context.methods
    first, last = context.ends(trajectory.steps)
    extrap = context.config.weight_extrap
    targets = asked(extrap.targets, extrap.alphas, first, last)
    plans = make_plans(context, trajectory, [(method, targets) for method in found.values()])
    if context.share.rank == 0:
        _warn_of_rounding(zip(found, plans, strict=True))
    room = context.stage_dir("weight_extrap")
    jobs = [
        (plan, {target: room / name / f"step_{target}" for target in targets})
        for name, plan in zip(found, plans, strict=True)
    ]
    if extrap.write:
        with telling([room / name for name in found], context.share):
            records = write_all(jobs, context.share)
    else:
        records = write_recipes(jobs)
    outlook = _prospects(context)
    return {
        "method": ", ".join(found),
        "from": f"{first} to {last}",
        "alpha": ", ".join(f"{t}: {record['alpha']:.4g}" for t, record in records[0].items()),
        **(outlook.summary(outlook.far, outlook.beyond) if outlook else {}),
    }


def _warn_of_rounding(plans: Iterable[tuple[str, Plan]]) -> None:
    """Say so where most of what is predicted would not survive the dtype that it is written in."""
    from pipeline.trajectory.rounding import lost_shares

    lost = [
        (share, name, target, plan.dtype)
        for name, plan in plans
        for target, share in lost_shares(plan).items()
    ]
    share, name, target, dtype = max(lost, default=(0.0, "", 0, ""))
    if share > NOTABLE:
        logging.getLogger(__name__).warning(
            "weight_extrap.dtype=%s: rounding to it is %.0f %% of the predicted movement (%s to "
            "step %d); float32, for model.dtype too, keeps the movement",
            *(dtype, 100 * share, name, target),
        )


def _prospects(context: Context) -> Prospects | None:
    """How far the targets reach, where linear_probe has measured this path."""
    path = context.stage_dir("linear_probe") / "weights.json"
    if not (context.is_done("linear_probe") and context.is_done("snapshot") and path.exists()):
        return None
    made = read_own(path.with_name("done.json"), "needs")["needs"].get("snapshot")
    probe, steps = read_own(path), read_own(context.recorded, "steps")["steps"]
    if made != context.done_key("snapshot") or "gram" not in probe or context.steps != steps:
        return None
    first, last = context.ends(steps)
    extrap = context.config.weight_extrap
    targets = asked(extrap.targets, extrap.alphas, first, last)
    return prospects(probe, steps, first, last, targets)


def _check(context: Context) -> list[str]:
    """Names of the methods; finds now what would be found wrong when the stage starts, as far as
    the inputs are known."""
    found, extrap = context.methods, context.config.weight_extrap
    if not extrap.write:
        for method in found.values():
            method.rule.check_sum()
    steps, trajectory = context.steps, context.planned
    if steps is not None:
        first, last = context.ends(steps)
        targets = asked(extrap.targets, extrap.alphas, first, last)
        for method in found.values():
            method.rule.used_steps(steps, first, last)
            method.rule.check_targets(targets, last)
        if trajectory is not None:
            make_plans(context, trajectory, [(method, targets) for method in found.values()])
    return list(found)


def _output_bytes(context: Context, methods: int) -> float | None:
    """Size of all targets of so many methods, where the number of parameters is known."""
    parameters = context.config.model.parameters
    if context.recorded.exists():
        parameters = float(read_own(context.recorded)["parameters"])
    if parameters is None:
        return None
    extrap = context.config.weight_extrap
    width, targets = 4 if extrap.dtype == "float32" else 2, len(extrap.targets or extrap.alphas)
    return parameters * width * targets * methods
