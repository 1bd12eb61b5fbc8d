"""Find the checkpoints of a run, check and fingerprint them, and record the trajectory.

Everything downstream reads only `trajectory.json`.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.artifacts import write_json
from pipeline.content import model_settings, run_settings
from pipeline.errors import PipelineError
from pipeline.estimates import sampling
from pipeline.stages.base import Context
from pipeline.subject.checkpoints import are_given, discover, discover_own, hub_names

if TYPE_CHECKING:
    from pipeline.trajectory.sources import Trajectory

SECTIONS = ("snapshot",)
REUSES = False


def needs(context: Context) -> tuple[str, ...]:
    """Our own training, unless somebody else's checkpoints are given."""
    ours = not are_given(context.config.snapshot) and context.runs_or_done("rl_train")
    return ("rl_train",) if ours else ()


def inputs(context: Context) -> dict[str, Any]:
    """Names, sizes and times of the given weight files, and the models' configs and tokenizer, so
    that a changed one is seen; of our own run, the steps."""
    if not are_given(context.config.snapshot):
        return {"steps of rl_train": context.own_steps}
    trajectory = context.given
    if trajectory is None:  # looked up when the stage runs, not for a dry run
        return {"hub": hub_names(context.config.snapshot)}
    files = {
        str(file.path): [file.nbytes, file.mtime_ns]
        for checkpoint in trajectory.checkpoints.values()
        for file in checkpoint.files
    }
    return {**files, "settings": run_settings(trajectory.paths)}


def standing(context: Context) -> str:
    exported = [f"exported/step_{step}" for step in context.config.snapshot.export]
    return context.standing("snapshot", "trajectory.json", *exported)


def plan(context: Context) -> str:
    snapshot, trajectory = context.config.snapshot, context.given
    if not are_given(snapshot):
        if context.runs_or_done("rl_train"):
            return f"record the checkpoints of rl_train{sampling.snapshot(context)}"
        if context.config.dry_run:
            return "nothing to read yet: give snapshot.source=DIR, a folder of checkpoints"
        raise PipelineError("snapshot.source: missing; give the folder of a run's checkpoints")
    if trajectory is None:
        names = " and ".join(hub_names(snapshot))
        return f"record what the stage then finds of {names} on the hub"
    for step in snapshot.export:
        if step not in trajectory.steps[1:]:
            known = ", ".join(map(str, trajectory.steps[1:]))
            raise PipelineError(
                f"snapshot.export: no later checkpoint of step {step}; have {known}"
            )
    size = sum(f.nbytes for c in trajectory.checkpoints.values() for f in c.files)
    return (
        f"{len(trajectory.steps)} checkpoints, steps {_range(trajectory.steps)}, "
        f"{trajectory.parameters:,} parameters in {trajectory.dtype}{_matched(trajectory)}; hash "
        f"{size / 1e9:.3g} GB"
        f"{_left_out(context, trajectory)}{sampling.snapshot(context)}"
    )


def _left_out(context: Context, trajectory: Trajectory) -> str:
    """A word on checkpoints beside the run's that have no step."""
    from pipeline.trajectory.steps import left_out

    snapshot = context.config.snapshot
    if snapshot.source is None or snapshot.checkpoints:
        return ""
    used = {step: c.source for step, c in trajectory.checkpoints.items()}
    names = left_out(Path(snapshot.source), used)
    return f"; left out, having no step in their names: {', '.join(names)}" if names else ""


def run(context: Context) -> dict[str, Any]:
    from pipeline.trajectory.conversation import check_conversation, end_tokens, turn_folders
    from pipeline.trajectory.export import export
    from pipeline.trajectory.fingerprint import check_finite, check_moved, fingerprint

    snapshot = context.config.snapshot
    if are_given(snapshot):
        trajectory = context.given or discover(snapshot)
    else:
        base, steps = context.base_model(), context.own_steps or []
        trajectory = discover_own(snapshot, context.snapshots, base, steps)
    check_finite(trajectory)
    trajectory = fingerprint(trajectory)
    if copies := check_moved(trajectory):
        logging.getLogger(__name__).warning(
            "snapshot: steps whose weights are the same files as an earlier step's (%s): leave out "
            "what is a copy, it bends the path",
            copies,
        )
    if differences := check_conversation(trajectory):
        logging.getLogger(__name__).warning(
            "snapshot: %s. Responses of every model are asked for in the base's template and stop "
            "at the end tokens of both (%s), written predictions carry the run's: if it was "
            "trained with a template of its own, give as snapshot.base the base's weights with "
            "the run's tokenizer files and generation_config.json",
            *(differences, ", ".join(map(str, end_tokens(trajectory)))),
        )
    for step in snapshot.export:
        export(trajectory, step, context.exported / f"step_{step}")
    settings = run_settings(trajectory.paths)
    turns = [[str(folder), model_settings(folder)] for folder in turn_folders(trajectory)]
    write_json(context.recorded, {**trajectory.to_json(), "settings": settings, "turns": turns})
    folders = {f"step_{step}": path for step, path in trajectory.paths.items()}
    context.tracker.artifact("trajectory", [context.recorded], folders)
    return {
        "checkpoints": len(trajectory.steps),
        "steps": _range(trajectory.steps),
        "parameters": trajectory.parameters,
        "dtype": trajectory.dtype,
    }


def _matched(trajectory: Trajectory) -> str:
    """What was done to bring the checkpoints to the same tensors, in words."""
    words = ""
    if any(trajectory.checkpoints[step].respelled for step in trajectory.steps):
        words += ", names mapped to the base's"
    if trajectory.kept:
        shown = ", ".join(trajectory.kept[:2]) + (", ..." if len(trajectory.kept) > 2 else "")
        words += f", {len(trajectory.kept)} tensors wholly or in rows from the base ({shown})"
    return words


def _range(steps: list[int]) -> str:
    if len(steps) <= 4:
        return ", ".join(map(str, steps))
    return f"{steps[0]}, {steps[1]}, ..., {steps[-1]}"
