"""What an engine loads of any checkpoint of a trajectory, whatever its layout: its folder, a recipe
of its weights, or a plain HF model folder that is written first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.trajectory.combine import write
from pipeline.trajectory.plan import make_plan
from pipeline.trajectory.recipe import Recipe
from pipeline.trajectory.rule import make_rule
from pipeline.trajectory.sources import Trajectory


def export(trajectory: Trajectory, step: int, out: Path, dtype: str = "same") -> dict[str, Any]:
    """One step as a model that `from_pretrained` and vLLM load.

    Args:
        step: a step of the trajectory after its first, which is a model folder already.
        out: the folder to write; done already, it is left as it is.
        dtype: "bfloat16", "float16", "float32", or "same" for each tensor's own (the base's, where
            the step is stored as a delta or an adapter: sums are fp32, rounded once).

    Returns:
        The content of the folder's extrapolation.json.

    Raises:
        PipelineError: no such step; disk full.
    """
    later = trajectory.steps[1:]
    if step not in later:
        known = ", ".join(map(str, later))
        raise PipelineError(f"export: no later checkpoint of step {step}; steps: {known}")
    start = trajectory.steps[0]
    plan = make_plan(trajectory, make_rule("last"), start, step, [step], dtype=dtype)
    return write(plan, {step: out})[step]


def export_base(trajectory: Trajectory, out: Path) -> None:
    """The first step, with the tensors and the configuration that the whole trajectory has.

    Args:
        out: the folder to write; done already, it is left as it is.
    """
    base, step = trajectory.base, trajectory.steps[0]
    twice = replace(trajectory, checkpoints={step: base, step + 1: replace(base, step=step + 1)})
    export(twice, step + 1, out)


def start_folder(trajectory: Trajectory, exported: Path) -> Path:
    """The folder that an engine is started on, which can hold every checkpoint of a trajectory.

    That is the base's; but where the run's head is a tensor of its own and the base's is not, or
    the base's files have other names than a model's, the base is written in the run's form first.

    Args:
        exported: where it is written, as step_N.
    """
    if trajectory.base.loadable:
        return trajectory.base.folder
    folder = exported / f"step_{trajectory.steps[0]}"
    export_base(trajectory, folder)
    return folder


def engine_sources(
    trajectory: Trajectory, steps: Sequence[int], exported: Path
) -> dict[int, Path | Recipe]:
    """What an engine loads for each step: its folder, or where it is no model (deltas, adapters,
    shards) what builds its weights in the engine's memory.

    Args:
        exported: where steps may have been written before, as step_N.

    Raises:
        PipelineError: the first checkpoint is no model folder either.
    """
    sources: dict[int, Path | Recipe] = {}
    for step in steps:
        checkpoint = trajectory.checkpoints[step]
        written = exported / f"step_{step}"
        if checkpoint.loadable:
            sources[step] = checkpoint.folder
        elif checkpoint is trajectory.base:
            sources[step] = start_folder(trajectory, exported)
        elif trajectory.base.is_model:
            base, how = trajectory.base.folder, trajectory.matching
            sources[step] = Recipe((checkpoint.weights,), [1.0], (), "float32", base, how)
        elif written.exists():
            sources[step] = written
        else:
            raise PipelineError(
                f"step {step} is stored as {checkpoint.layout}, which no engine loads; give "
                "snapshot.base, the model that training started from"
            )
    return sources
