"""Where the checkpoints of a run are: given by the user, on the hub, or our own training's."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config import SnapshotConfig
from pipeline.errors import PipelineError
from pipeline.subject.base_model import model_folder, on_hub

if TYPE_CHECKING:
    from pipeline.trajectory.sources import Trajectory
    from pipeline.trajectory.spellings import Matching


def are_given(snapshot: SnapshotConfig) -> bool:
    """Whether the user names checkpoints: they are not our own training's."""
    return snapshot.source is not None or bool(snapshot.checkpoints)


def hub_names(snapshot: SnapshotConfig) -> list[str]:
    """Source and base where they are no folders but could be hub ids."""
    names = [snapshot.base] if snapshot.checkpoints else [snapshot.source, snapshot.base]
    return [name for name in names if name is not None and on_hub(name)]


def discover(snapshot: SnapshotConfig) -> Trajectory:
    """Find and check the given checkpoints; of the hub's, what is not here is fetched.

    Raises:
        PipelineError: see `trajectory.sources.discover`; the hub did not answer.
    """
    from pipeline.trajectory import sources
    from pipeline.trajectory.layouts import hub

    explicit = {int(step): Path(path) for step, path in (snapshot.checkpoints or {}).items()}
    base = model_folder(snapshot.base, "snapshot.base") if snapshot.base else None
    source = snapshot.source or "."
    if not explicit and on_hub(source):
        source = hub.PREFIX + source.removeprefix(hub.PREFIX)
    return sources.discover(Path(source), base, explicit or None, _matching(snapshot))


def discover_own(
    snapshot: SnapshotConfig, source: Path, base: Path, steps: Iterable[int]
) -> Trajectory:
    """The same of these steps of our own training.

    Args:
        source: where it wrote its snapshots.
        base: the model that training started from.
    """
    from pipeline.trajectory import sources

    own = {step: source / f"step_{step}" for step in steps}
    return sources.discover(source, base, own, _matching(snapshot))


def check_step(key: str, step: int, steps: Collection[int]) -> None:
    """Refuse a step that the trajectory does not have; `key` is where it was asked for."""
    if step not in steps:
        there = ", ".join(map(str, sorted(steps)))
        way = "" if step else "; give snapshot.base, the model of step 0, or another step"
        raise PipelineError(f"{key}: there is no checkpoint of step {step}; there are {there}{way}")


def _matching(snapshot: SnapshotConfig) -> Matching:
    from pipeline.trajectory.spellings import Matching

    return Matching(tuple((snapshot.rename or {}).items()), snapshot.only_in_base == "keep")
