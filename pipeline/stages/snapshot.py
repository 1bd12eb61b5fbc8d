"""Find the checkpoints of a run, check and fingerprint them, and record the trajectory.

Everything downstream reads only `trajectory.json`.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.artifacts import hash_json, read_own, write_json
from pipeline.errors import PipelineError
from pipeline.stages import models, outside
from pipeline.stages.base import Context

if TYPE_CHECKING:
    from pipeline.trajectory.sources import Trajectory

SECTIONS = ("snapshot",)
REUSES = False

_found: dict[str, Trajectory] = {}  # several stages ask, and a file system may be slow


def needs(context: Context) -> tuple[str, ...]:
    """Our own training, unless somebody else's checkpoints are given."""
    ours = not _given(context) and context.runs_or_done("rl_train")
    return ("rl_train",) if ours else ()


def inputs(context: Context) -> dict[str, Any]:
    """Names, sizes and times of the given weight files, and the models' configs and tokenizer, so
    that a changed one is seen; of our own run, the steps."""
    if not _given(context):
        return {"steps of rl_train": _own_steps(context)}
    if names := _hub_names(context):  # looked up when the stage runs, not for a dry run
        return {"hub": names}
    trajectory = _discover(context)
    files = {
        str(file.path): [file.nbytes, file.mtime_ns]
        for checkpoint in trajectory.checkpoints.values()
        for file in checkpoint.files
    }
    return {**files, "settings": outside.settings(trajectory.paths)}


def standing(context: Context) -> str:
    exported = [f"exported/step_{step}" for step in context.config.snapshot.export]
    return context.standing("snapshot", "trajectory.json", *exported)


def plan(context: Context) -> str:
    if not _given(context):
        if context.runs_or_done("rl_train"):
            return "record the checkpoints of rl_train"
        if context.config.dry_run:
            return "nothing to read yet: give snapshot.source=DIR, a folder of checkpoints"
        raise PipelineError("snapshot.source: missing; give the folder of a run's checkpoints")
    if names := _hub_names(context):
        return f"record what the stage then finds of {' and '.join(names)} on the hub"
    trajectory = planned_trajectory(context)
    assert trajectory is not None  # given, and not on the hub
    for step in context.config.snapshot.export:
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
        f"{_left_out(context, trajectory)}"
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
    from pipeline.trajectory.export import export
    from pipeline.trajectory.fingerprint import check_finite, fingerprint

    trajectory = _discover(context)
    check_finite(trajectory)
    trajectory = fingerprint(trajectory)
    folder = context.stage_dir("snapshot")
    for step in context.config.snapshot.export:
        export(trajectory, step, folder / "exported" / f"step_{step}")
    settings = outside.settings(trajectory.paths)
    write_json(folder / "trajectory.json", {**trajectory.to_json(), "settings": settings})
    return {
        "checkpoints": len(trajectory.steps),
        "steps": _range(trajectory.steps),
        "parameters": trajectory.parameters,
        "dtype": trajectory.dtype,
    }


def planned_steps(context: Context) -> list[int] | None:
    """The steps of the trajectory, before there is one; None where only the hub knows them."""
    if "snapshot" not in context.config.stages:
        recorded = read_own(context.stage_dir("snapshot") / "trajectory.json")
        return [int(step) for step in recorded["steps"]]
    if _given(context):
        trajectory = planned_trajectory(context)
        return None if trajectory is None else trajectory.steps
    steps = _own_steps(context)
    return None if steps is None else [0, *steps]


def _own_steps(context: Context) -> list[int] | None:
    """The steps of our own run that are asked for, of which rl_train may have more; where it does
    not belong to the stages, those that it has. None if there are none yet."""
    rl = context.config.rl_train
    if "rl_train" in context.config.stages:
        return [*range(rl.snapshot_every, rl.steps + 1, rl.snapshot_every)]
    if not context.is_done("rl_train"):
        return None
    from pipeline.trajectory.steps import find_steps

    return sorted(find_steps(context.stage_dir("rl_train") / "snapshots"))


def planned_trajectory(context: Context) -> Trajectory | None:
    """The given checkpoints, before the stage has recorded them; None where they are not here."""
    if "snapshot" not in context.config.stages or not _given(context) or _hub_names(context):
        return None
    key = hash_json(asdict(context.config.snapshot))
    if key not in _found:
        _found[key] = _discover(context)
    return _found[key]


def _matched(trajectory: Trajectory) -> str:
    """What was done to bring the checkpoints to the same tensors, in words."""
    words = ""
    if any(trajectory.checkpoints[step].respelled for step in trajectory.steps):
        words += ", names mapped to the base's"
    if trajectory.kept:
        shown = ", ".join(trajectory.kept[:2]) + (", ..." if len(trajectory.kept) > 2 else "")
        words += f", {len(trajectory.kept)} tensors wholly or in rows from the base ({shown})"
    return words


def _given(context: Context) -> bool:
    snapshot = context.config.snapshot
    return snapshot.source is not None or bool(snapshot.checkpoints)


def _hub_names(context: Context) -> list[str]:
    """Source and base where they are no folders but could be hub ids."""
    snapshot = context.config.snapshot
    names = [snapshot.base] if snapshot.checkpoints else [snapshot.source, snapshot.base]
    return [name for name in names if name is not None and models.on_hub(name)]


def _discover(context: Context) -> Trajectory:
    from pipeline.trajectory.layouts import hub
    from pipeline.trajectory.sources import discover
    from pipeline.trajectory.spellings import Matching

    snapshot = context.config.snapshot
    rename = tuple((snapshot.rename or {}).items())
    matching = Matching(rename, snapshot.only_in_base == "keep")
    if not _given(context):
        source = context.stage_dir("rl_train") / "snapshots"
        own = {step: source / f"step_{step}" for step in _own_steps(context) or []}
        return discover(source, models.base_model(context), own, matching)
    explicit = {int(step): Path(path) for step, path in (snapshot.checkpoints or {}).items()}
    base = models.model_folder(snapshot.base, "snapshot.base") if snapshot.base else None
    given = snapshot.source or "."
    if not explicit and models.on_hub(given):
        given = hub.PREFIX + given.removeprefix(hub.PREFIX)
    return discover(Path(given), base, explicit or None, matching)


def _range(steps: list[int]) -> str:
    if len(steps) <= 4:
        return ", ".join(map(str, steps))
    return f"{steps[0]}, {steps[1]}, ..., {steps[-1]}"
