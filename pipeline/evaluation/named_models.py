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
from pipeline.content import files_state
from pipeline.errors import PipelineError
from pipeline.subject import methods
from pipeline.subject.base_model import model_folder, on_hub

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.inference.parallel import Candidate
    from pipeline.subject.found import Subject
    from pipeline.trajectory.sources import Trajectory

TAKEN = re.compile(r"base|mixture|\w+-[\d.e+-]+")  # names of the run's own models


@dataclass(frozen=True)
class Prediction:
    """What a method predicts for a step: one of the run's methods by its name, or any there is."""

    method: MethodConfig
    target: int


def check(subject: Subject) -> None:
    """Find what is wrong with the names and their values before anything starts.

    Raises:
        PipelineError: a folder that is not there, an unknown method, a target that cannot be.
    """
    steps = subject.steps
    for name, value in _named(subject).items():
        key = f"evaluate.models.{name}"
        if TAKEN.fullmatch(name):
            raise PipelineError(f"{key}: the run's own models have such names; choose another")
        if isinstance(value, Prediction):
            rule = methods.find(subject, value.method, key).rule
            rule.check_sum()
            if steps is not None:
                first, last = subject.ends(steps)
                rule.used_steps(steps, first, last)
                rule.check_targets([value.target], last)
        elif not (Path(value).is_dir() or on_hub(value)):
            raise PipelineError(
                f"{key}: {value} is neither a folder nor a hub id; a prediction is "
                "{method: METHOD, target: STEP}"
            )
        elif subject.planned is not None and Path(value).is_dir():
            _beside(subject.planned, Path(value))


def inputs(subject: Subject) -> dict[str, Any]:
    """What decides the named models beside their names, so that a change of it is seen: sizes and
    times of the folders' files, and the dtype of predicted weights."""
    found: dict[str, Any] = {}
    for value in _named(subject).values():
        if isinstance(value, Prediction):
            found["weight_extrap.dtype"] = subject.config.weight_extrap.dtype
            continue
        found |= files_state(Path(value))
    return found


def open_checkpoints(subject: Subject) -> dict[str, Trajectory]:
    """The named checkpoints, each beside the run's base; what is on the hub is fetched first.

    Raises:
        PipelineError: a checkpoint that is damaged, or of other tensors than the run's.
    """
    return {
        name: _beside(subject.trajectory, model_folder(value, f"evaluate.models.{name}"))
        for name, value in _named(subject).items()
        if isinstance(value, str)
    }


def named_candidates(subject: Subject, opened: Mapping[str, Trajectory]) -> list[Candidate]:
    """The named models, in the order given.

    Args:
        opened: from `open_checkpoints`.
    """
    found = _predictions(subject)
    found |= {name: _checkpoint(subject, name, beside) for name, beside in opened.items()}
    return [found[name] for name in _named(subject)]


def _predictions(subject: Subject) -> dict[str, Candidate]:
    """The predictions by name; all that must be measured for them comes out of one read."""
    from pipeline.evaluation.candidates import extrapolation_fingerprint, single
    from pipeline.inference.parallel import Candidate
    from pipeline.trajectory.recipe import recipes

    given = {n: v for n, v in _named(subject).items() if isinstance(v, Prediction)}
    wanted = [
        (methods.find(subject, value.method, f"evaluate.models.{name}"), [value.target])
        for name, value in given.items()
    ]
    plans = methods.make_plans(subject, subject.trajectory, wanted)
    found = {}
    for (name, value), plan, made in zip(given.items(), plans, recipes(plans), strict=True):
        recipe, record = made[value.target], plan.record(value.target)
        content = single(subject, extrapolation_fingerprint(record), recipe)
        extra = {"step": value.target, "method": value.method.method, "alpha": record["alpha"]}
        found[name] = Candidate(name, "weight", content, recipe, extra)
    return found


def _checkpoint(subject: Subject, name: str, opened: Trajectory) -> Candidate:
    from pipeline.evaluation.candidates import checkpoint_fingerprint, single
    from pipeline.inference.parallel import Candidate
    from pipeline.trajectory.conversation import end_tokens
    from pipeline.trajectory.export import engine_sources
    from pipeline.trajectory.fingerprint import fingerprint

    beside = fingerprint(opened)
    step = beside.steps[-1]
    [source] = engine_sources(beside, [step], subject.exported).values()
    subject.warn_of_ends(f"evaluate.models.{name}", end_tokens(beside))
    content = single(subject, checkpoint_fingerprint(beside, step), source)
    return Candidate(name, "named", content, source, {})


def start_folder(subject: Subject, opened: Mapping[str, Trajectory]) -> Path:
    """See `export.start_folder`; for the named models (`open_checkpoints`) as well."""
    from pipeline.trajectory import export

    parted = [beside for beside in opened.values() if beside.base.parted]
    return export.start_folder([*parted, subject.trajectory][0], subject.exported)


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


def _named(subject: Subject) -> dict[str, str | Prediction]:
    """`evaluate.models`, whose form `checks` has seen."""
    found: dict[str, str | Prediction] = {}
    for name, value in (subject.config.evaluate.models or {}).items():
        if isinstance(value, str):
            found[str(name)] = value
        else:
            method = {key: given for key, given in value.items() if key != "target"}
            found[str(name)] = Prediction(MethodConfig(**method), value["target"])
    return found
