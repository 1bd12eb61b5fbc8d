"""Models that the user names for evaluation, beside the run's own (`evaluate.models`).

A value is a checkpoint (a folder in any layout, or a hub id) or `extrapolated(METHOD, TARGET)`: the
prediction of a method for a step, built in the engine's memory from this run's checkpoints.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import PipelineError
from pipeline.stages import models
from pipeline.stages.base import Context
from pipeline.stages.candidates import (
    Candidate,
    checkpoint_fingerprint,
    extrapolation_fingerprint,
    single,
)
from pipeline.stages.snapshot import planned_trajectory
from pipeline.stages.weight_extrap import held

if TYPE_CHECKING:
    from pipeline.inference.recipe import Recipe
    from pipeline.trajectory.sources import Trajectory

TAKEN = re.compile(r"base|\w+-[\d.e+-]+")  # names of the run's own models
FORMULA = re.compile(r"extrapolated\(\s*(\w+)\s*,\s*(\d+)\s*\)")


@dataclass(frozen=True)
class Formula:
    """The prediction of a method for a step."""

    method: str
    target: int


def parse(value: str) -> Formula | str:
    """A formula, or else the name of a checkpoint.

    Raises:
        PipelineError: something that begins like a formula and is none.
    """
    match = FORMULA.fullmatch(value.strip())
    if match is not None:
        return Formula(match[1], int(match[2]))
    if value.strip().startswith("extrapolated"):
        raise PipelineError(
            f"evaluate.models: {value!r} is no extrapolated(METHOD, TARGET), e.g. "
            "extrapolated(rank1, 900)"
        )
    return value


def check(context: Context, steps: list[int] | None) -> None:
    """Find what is wrong with the names and their values before anything starts.

    Raises:
        PipelineError: a folder that is not there, an unknown method, a target that cannot be.
    """
    from pipeline.trajectory.coefficients import (
        check_sum,
        check_targets,
        find_method,
        used_steps,
    )

    trajectory = planned_trajectory(context)
    for name, value in _named(context).items():
        if TAKEN.fullmatch(name):
            raise PipelineError(
                f"evaluate.models.{name}: the run's own models have such names; choose another"
            )
        named = parse(value)
        if isinstance(named, Formula):
            rule, options = find_method(named.method), _options(context, named.method)
            check_sum(options)
            if steps is not None:
                first, last = models.end_steps(context, steps)
                used_steps(rule, steps, first, last)
                check_targets(named.method, options, [named.target], last)
        elif not (Path(named).is_dir() or models.on_hub(named)):
            raise PipelineError(
                f"evaluate.models.{name}: {named} is neither a folder nor a hub id, nor "
                "extrapolated(METHOD, TARGET)"
            )
        elif trajectory is not None and Path(named).is_dir():
            _beside(trajectory, Path(named))


def inputs(context: Context) -> dict[str, Any]:
    """What decides the named models beside their names, so that a change of it is seen: sizes and
    times of the folders' files, and the dtype of predicted weights."""
    found: dict[str, Any] = {}
    for value in _named(context).values():
        named = parse(value)
        if isinstance(named, Formula):
            found["weight_extrap.dtype"] = context.config.weight_extrap.dtype
            continue
        for path in sorted(Path(named).rglob("*")):  # trainers keep weights folders down
            if path.is_file():
                found[str(path)] = [path.stat().st_size, path.stat().st_mtime_ns]
    return found


def named_candidates(context: Context, trajectory: Trajectory) -> list[Candidate]:
    """The named models, in the order given.

    Raises:
        PipelineError: a checkpoint of other tensors than the run's; see `check`, too.
    """
    named = {name: parse(value) for name, value in _named(context).items()}
    formulas = {value for value in named.values() if isinstance(value, Formula)}
    predictions = _predictions(context, trajectory, formulas) if formulas else {}
    found = []
    for name, value in named.items():
        if isinstance(value, Formula):
            recipe, record = predictions[value]
            content = single(context, trajectory, extrapolation_fingerprint(record), recipe)
            extra = {"step": value.target, "method": value.method, "alpha": record["alpha"]}
            found.append(Candidate(name, "weight", content, recipe, extra))
        else:
            found.append(_checkpoint(context, trajectory, name, value))
    return found


def _predictions(
    context: Context, trajectory: Trajectory, formulas: set[Formula]
) -> dict[Formula, tuple[Recipe, dict[str, Any]]]:
    """Weights and record of each formula; a method reads checkpoints once for all its targets."""
    from pipeline.inference.predict import predict
    from pipeline.trajectory.plan import make_plan

    first, last = models.end_steps(context, trajectory.steps)
    hold = held(context, trajectory.base.entries)
    dtype = context.config.weight_extrap.dtype
    found = {}
    for method in {formula.method for formula in formulas}:
        targets = sorted(formula.target for formula in formulas if formula.method == method)
        what = (method, first, last, targets, hold, dtype, _options(context, method))
        plan = make_plan(trajectory, *what)
        for target, recipe in predict(trajectory, *what).items():
            found[Formula(method, target)] = recipe, plan.record(target)
    return found


def _checkpoint(context: Context, trajectory: Trajectory, name: str, value: str) -> Candidate:
    from pipeline.trajectory.fingerprint import fingerprint

    beside = fingerprint(_beside(trajectory, models.model_folder(value, f"evaluate.models.{name}")))
    step = beside.steps[-1]
    [source] = models.model_sources(context, beside, [step]).values()
    content = single(context, trajectory, checkpoint_fingerprint(beside, step), source)
    return Candidate(name, "named", content, source, {})


def start_folder(context: Context, trajectory: Trajectory) -> Path:
    """See `models.start_folder`; for the named models as well."""
    for name, value in _named(context).items():
        named = parse(value)
        if isinstance(named, str):
            folder = models.model_folder(named, f"evaluate.models.{name}")
            beside = _beside(trajectory, folder)
            if beside.base.parted:
                return models.start_folder(context, beside)
    return models.start_folder(context, trajectory)


def _beside(trajectory: Trajectory, folder: Path) -> Trajectory:
    """The run's base and a checkpoint of the same tensors, as the step after it.

    Raises:
        PipelineError: damaged, or other tensors.
    """
    from pipeline.trajectory.align import align
    from pipeline.trajectory.layouts import open_checkpoint

    base, matching = trajectory.base, trajectory.matching
    other = open_checkpoint(base.step + 1, folder, base, matching)
    aligned = align([base, other], matching)
    return replace(trajectory, checkpoints={c.step: c for c in aligned})


def _options(context: Context, method: str) -> dict[str, Any]:
    """The configured method's own options, and every method's defaults for another one."""
    extrapolation = context.config.extrapolation
    return dict(extrapolation.options) if method == extrapolation.method else {}


def _named(context: Context) -> dict[str, str]:
    """`evaluate.models`.

    Raises:
        PipelineError: it is no map of names to models.
    """
    given = context.config.evaluate.models or {}
    if not isinstance(given, dict) or not all(isinstance(v, str) for v in given.values()):
        raise PipelineError(f"evaluate.models={given}: give {{name: model}}, models as text")
    return {str(name): value for name, value in given.items()}
