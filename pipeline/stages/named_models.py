"""Models that the user names for evaluation, beside the run's own (`evaluate.models`).

A value is a checkpoint (a folder in any layout, or a hub id), or a method and a target step: then
the prediction is built in the engine's memory from this run's checkpoints.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import MethodConfig
from pipeline.errors import PipelineError
from pipeline.stages import methods, models
from pipeline.stages.base import Context
from pipeline.stages.candidates import (
    Candidate,
    checkpoint_fingerprint,
    extrapolation_fingerprint,
    single,
)
from pipeline.stages.snapshot import planned_trajectory

if TYPE_CHECKING:
    from pipeline.trajectory.sources import Trajectory

TAKEN = re.compile(r"base|\w+-[\d.e+-]+")  # names of the run's own models


@dataclass(frozen=True)
class Prediction:
    """What a method predicts for a step: one of the run's methods by its name, or any there is."""

    method: MethodConfig
    target: int


def check(context: Context, steps: list[int] | None) -> None:
    """Find what is wrong with the names and their values before anything starts.

    Raises:
        PipelineError: a folder that is not there, an unknown method, a target that cannot be.
    """
    trajectory = planned_trajectory(context)
    for name, value in _named(context).items():
        key = f"evaluate.models.{name}"
        if TAKEN.fullmatch(name):
            raise PipelineError(f"{key}: the run's own models have such names; choose another")
        if isinstance(value, Prediction):
            rule = methods.find(context, value.method, key).rule
            rule.check_sum()
            if steps is not None:
                first, last = models.end_steps(context, steps)
                rule.used_steps(steps, first, last)
                rule.check_targets([value.target], last)
        elif not (Path(value).is_dir() or models.on_hub(value)):
            raise PipelineError(
                f"{key}: {value} is neither a folder nor a hub id; a prediction is "
                "{method: METHOD, target: STEP}"
            )
        elif trajectory is not None and Path(value).is_dir():
            _beside(trajectory, Path(value))


def inputs(context: Context) -> dict[str, Any]:
    """What decides the named models beside their names, so that a change of it is seen: sizes and
    times of the folders' files, and the dtype of predicted weights."""
    found: dict[str, Any] = {}
    for value in _named(context).values():
        if isinstance(value, Prediction):
            found["weight_extrap.dtype"] = context.config.weight_extrap.dtype
            continue
        for path in sorted(Path(value).rglob("*")):  # trainers keep weights folders down
            if path.is_file():
                found[str(path)] = [path.stat().st_size, path.stat().st_mtime_ns]
    return found


def named_candidates(context: Context, trajectory: Trajectory) -> list[Candidate]:
    """The named models, in the order given.

    Raises:
        PipelineError: a checkpoint of other tensors than the run's; see `check`, too.
    """
    predictions = _predictions(context, trajectory)
    return [
        predictions[name]
        if isinstance(value, Prediction)
        else _checkpoint(context, trajectory, name, value)
        for name, value in _named(context).items()
    ]


def _predictions(context: Context, trajectory: Trajectory) -> dict[str, Candidate]:
    """The predictions by name; all that must be measured for them comes out of one read."""
    from pipeline.trajectory.recipe import recipes

    given = {n: v for n, v in _named(context).items() if isinstance(v, Prediction)}
    wanted = [
        (methods.find(context, value.method, f"evaluate.models.{name}"), [value.target])
        for name, value in given.items()
    ]
    plans = methods.make_plans(context, trajectory, wanted)
    found = {}
    for (name, value), plan, made in zip(given.items(), plans, recipes(plans), strict=True):
        recipe, record = made[value.target], plan.record(value.target)
        content = single(context, trajectory, extrapolation_fingerprint(record), recipe)
        extra = {"step": value.target, "method": value.method.method, "alpha": record["alpha"]}
        found[name] = Candidate(name, "weight", content, recipe, extra)
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
        if isinstance(value, str):
            folder = models.model_folder(value, f"evaluate.models.{name}")
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


def _named(context: Context) -> dict[str, str | Prediction]:
    """`evaluate.models`, whose form `checks` has seen."""
    found: dict[str, str | Prediction] = {}
    for name, value in (context.config.evaluate.models or {}).items():
        if isinstance(value, str):
            found[str(name)] = value
        else:
            method = {key: given for key, given in value.items() if key != "target"}
            found[str(name)] = Prediction(MethodConfig(**method), value["target"])
    return found
