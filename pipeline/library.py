"""What the package offers to other code: a run's checkpoints, their linearity, later checkpoints.

The same core as the command line, with plain values in place of a configuration and no Hydra.
`import pipeline` loads none of it; the first use does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.trajectory import sources
from pipeline.trajectory.combine import write
from pipeline.trajectory.folder import RECORD
from pipeline.trajectory.linearity import probe_weights
from pipeline.trajectory.plan import make_plan
from pipeline.trajectory.rule import make_rule
from pipeline.trajectory.sources import Trajectory
from pipeline.trajectory.spellings import Matching

PathLike = str | Path
NORMS = "*norm*"  # held unless something else is said, as on the command line


def discover(
    source: PathLike | Mapping[int, PathLike],
    *,
    base: PathLike | None = None,
    rename: Mapping[str, str | None] | None = None,
    keep: bool = False,
) -> Trajectory:
    """Find and check the checkpoints of a run; reads headers only, so it is quick.

    Args:
        source: folder with `global_step_N`, `checkpoint-N`, `step_N` folders or the like,
            "hub:owner/name" with such revisions, or {step: folder}.
        base: the model that training started from, taken as step 0; None if the run's lowest step
            is to be the start.
        rename: {beginning of the run's tensor names: the base's, or None to leave them out}.
        keep: take tensors and vocabulary rows that only the base has from it, in place of refusing.

    Raises:
        PipelineError: nothing found, a step twice, a damaged or unlike checkpoint.
    """
    matching = Matching(tuple((rename or {}).items()), keep)
    start = None if base is None else _path(base)
    if isinstance(source, Mapping):
        explicit = _folders("source", source)
        return sources.discover(Path(), start, explicit, matching)
    return sources.discover(_path(source), start, None, matching)


def linearity(
    trajectory: Trajectory, *, min_change: float = 1e-4, min_unique: int = 4
) -> dict[str, Any]:
    """R² of every weight on the step, by one read of all checkpoints.

    Args:
        min_change: a weight counts if max - min is above this...
        min_unique: ...and it takes at least so many values; figures without filters stand beside.

    Returns:
        `r2_median`, `r2_share_above_0.7`, `histogram`, `tensors` (one row each) and more: see
        `pipeline.trajectory.linearity.probe_weights`.

    Raises:
        PipelineError: fewer than 3 checkpoints; NaN or infinity in one.
    """
    return probe_weights(trajectory, min_change, min_unique)


def extrapolate(
    trajectory: Trajectory,
    *,
    to: Mapping[int, PathLike],
    method: str = "two_point",
    first: int | None = None,
    last: int | None = None,
    hold: Sequence[str] | None = None,
    dtype: str = "bfloat16",
    options: Mapping[str, Any] | None = None,
) -> dict[int, dict[str, Any]]:
    """Write a complete HF model folder for each step to predict; all of them from one read.

    Args:
        to: {step: folder to write}. A folder that this function wrote is left as it is if it was
            made from the same things, and replaced otherwise; any other folder is refused.
        method: a name in `pipeline.trajectory.coefficients.METHODS`.
        first, last: steps of the trajectory; its first and last one where not given.
        hold: globs of tensors copied from `last`; None: the norms, if there are any.
        dtype: "bfloat16", "float16", "float32", or "same" for each tensor's own.
        options: the method's own, and for every method `damping`, `max_norm` and
            `alpha_by_tensor`.

    Returns:
        For each step the content of the folder's extrapolation.json.

    Raises:
        PipelineError: bad step, method, option, dtype or folder; NaN or infinity in an input;
            disk full.
    """
    folders = _folders("to", to)
    steps = trajectory.steps
    names = trajectory.base.entries
    if hold is None:
        hold = [NORMS] if any(fnmatchcase(name, NORMS) for name in names) else []
    plan = make_plan(
        trajectory,
        make_rule(method, options),
        steps[0] if first is None else first,
        steps[-1] if last is None else last,
        sorted(folders),
        hold,
        dtype,
    )
    return write(plan, _replaceable(trajectory, folders))


def _replaceable(trajectory: Trajectory, folders: dict[int, Path]) -> dict[int, Path]:
    """The folders to write, if all that they replace was written here and is no input now."""
    inputs = {
        path.resolve(): step
        for step, checkpoint in trajectory.checkpoints.items()
        for path in (checkpoint.source, checkpoint.folder)
    }
    taken: dict[Path, int] = {}
    for step, folder in folders.items():
        place = folder.resolve()
        if place in inputs:
            raise PipelineError(
                f"{folder}: is the checkpoint of step {inputs[place]}; choose another"
            )
        if taken.setdefault(place, step) != step:
            raise PipelineError(f"{folder}: for steps {taken[place]} and {step}; give each its own")
        ours = (folder / RECORD).is_file() or not folder.exists()
        if not ours and (not folder.is_dir() or any(folder.iterdir())):
            raise PipelineError(f"{folder}: exists and is no extrapolated model; choose another")
    return folders


def _folders(name: str, given: Mapping[int, PathLike]) -> dict[int, Path]:
    """{step: folder} of an argument, checked: who calls may not check types."""
    if not isinstance(given, Mapping):
        raise PipelineError(f"{name}={given!r}: give {{step: folder}}")
    if not given:
        what = "step to predict" if name == "to" else "checkpoint"
        raise PipelineError(f"{name}: no {what} in it; give {{step: folder}}")
    for step in given:
        if isinstance(step, bool) or not isinstance(step, int):
            raise PipelineError(f"{name}: step {step!r} is not a whole number")
    return {step: _path(folder) for step, folder in given.items()}


def _path(given: PathLike) -> Path:
    return Path(given).expanduser()
