"""Predict future checkpoints from the trajectory: one read, a complete model folder a target."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

from pipeline.artifacts import read_own
from pipeline.config import DEFAULT_HOLD
from pipeline.stages import models
from pipeline.stages.base import Context
from pipeline.stages.snapshot import planned_steps, planned_trajectory
from pipeline.trajectory.share import telling

SECTIONS = ("extrapolation", "weight_extrap")
REUSES = True  # a finished folder is recognised by what it was made from


def needs(context: Context) -> tuple[str, ...]:
    return ("snapshot",)


def inputs(context: Context) -> dict[str, Any]:
    return {}


def standing(context: Context) -> str:
    return context.standing("weight_extrap")


def plan(context: Context) -> str:
    from pipeline.trajectory.writer import check_space

    extrapolation, extrap = context.config.extrapolation, context.config.weight_extrap
    _check(context)
    last = "the last step" if extrapolation.last is None else str(extrapolation.last)
    wanted = f"targets {', '.join(map(str, sorted(extrap.targets)))}"
    if not extrap.targets:
        wanted = f"alpha {', '.join(f'{alpha:g}' for alpha in sorted(extrap.alphas))}"
    text = f"{extrapolation.name} from {extrapolation.first} to {last}, {wanted}, {extrap.dtype}"
    if not extrap.write:
        return f"{text}; formulas only"
    size = _output_bytes(context)
    if size is None:
        return text
    folder = context.stage_dir("weight_extrap")
    if not (folder.exists() or context.config.dry_run):
        check_space(folder, int(size))
    return f"{text}; writes {size / 1e9:.3g} GB"


def run(context: Context) -> dict[str, Any]:
    from pipeline.stages.formulas import write_formulas
    from pipeline.trajectory.combine import extrapolate

    config = context.config
    trajectory = models.load_trajectory(context)
    first, last = models.end_steps(context, trajectory.steps)
    targets = _targets(context, first, last)
    folder = context.stage_dir("weight_extrap") / config.extrapolation.name
    arguments = (
        trajectory,
        config.extrapolation.method,
        first,
        last,
        targets,
        {target: folder / f"step_{target}" for target in targets},
        held(context, trajectory.base.entries),
        config.weight_extrap.dtype,
        config.extrapolation.options,
    )
    if config.weight_extrap.write:
        with telling(folder, context.share):
            records = extrapolate(*arguments, share=context.share)
    else:
        records = write_formulas(*arguments)
    return {
        "method": config.extrapolation.name,
        "from": f"{first} to {last}",
        "alpha": ", ".join(f"{t}: {records[t]['alpha']:.4g}" for t in sorted(records)),
    }


def _check(context: Context) -> None:
    """Find now what would be found wrong when the stage starts, as far as the inputs are known."""
    from pipeline.trajectory.coefficients import (
        check_options,
        check_sum,
        check_targets,
        find_method,
        used_steps,
    )

    method, options = context.config.extrapolation.method, context.config.extrapolation.options
    check_options(method, options)
    if not context.config.weight_extrap.write:
        check_sum(options)
    steps = planned_steps(context)
    if steps is None:
        return
    first, last = models.end_steps(context, steps)
    targets = _targets(context, first, last)
    trajectory = planned_trajectory(context)
    if trajectory is None:
        used_steps(find_method(method), steps, first, last)
        check_targets(method, options, targets, last)
    else:
        from pipeline.trajectory.plan import make_plan

        hold = held(context, trajectory.base.entries)
        dtype = context.config.weight_extrap.dtype
        make_plan(trajectory, method, first, last, targets, hold, dtype, options)


def held(context: Context, names: Iterable[str]) -> list[str]:
    """The globs as given; the default alone may match nothing (a model may have no such tensor)."""
    known = list(names)
    return [
        glob
        for glob in context.config.extrapolation.hold
        if glob != DEFAULT_HOLD or any(fnmatchcase(name, glob) for name in known)
    ]


def _targets(context: Context, first: int, last: int) -> list[int]:
    """The steps to predict: as given, or at the given multiples of the way from first to last."""
    extrap = context.config.weight_extrap
    if extrap.targets:
        return sorted(extrap.targets)
    return sorted({round(first + alpha * (last - first)) for alpha in extrap.alphas})


def _output_bytes(context: Context) -> float | None:
    """Size of all targets, where the number of parameters is known."""
    recorded = context.stage_dir("snapshot") / "trajectory.json"
    parameters = context.config.model.parameters
    if recorded.exists():
        parameters = float(read_own(recorded)["parameters"])
    if parameters is None:
        return None
    extrap = context.config.weight_extrap
    width, count = 4 if extrap.dtype == "float32" else 2, len(extrap.targets or extrap.alphas)
    return parameters * width * count
