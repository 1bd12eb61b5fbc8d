"""Write any checkpoint of a trajectory, whatever its layout, as a plain HF model folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.trajectory.combine import write
from pipeline.trajectory.plan import make_plan
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
    plan = make_plan(trajectory, make_rule("stale"), start, step, [step], dtype=dtype)
    return write(plan, {step: out})[step]


def export_base(trajectory: Trajectory, out: Path) -> dict[str, Any]:
    """The first step, with the tensors and the configuration that the whole trajectory has.

    Args:
        out: the folder to write; done already, it is left as it is.

    Returns:
        The content of the folder's extrapolation.json.
    """
    base, step = trajectory.base, trajectory.steps[0]
    twice = replace(trajectory, checkpoints={step: base, step + 1: replace(base, step=step + 1)})
    return export(twice, step + 1, out)
