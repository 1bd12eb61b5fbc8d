"""Find the checkpoint folders of a run by their names, or say why there are none."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.faults import why_missing
from pipeline.quoting import assignment
from pipeline.trajectory import names
from pipeline.trajectory.foreign import looks_like_checkpoint
from pipeline.trajectory.layouts import hub

INNER = "_actor"  # OpenRLHF keeps DeepSpeed checkpoints of the actor one folder down
_SHOWN = 4  # names in a message


def find_steps(source: Path) -> dict[int, Path]:
    """Checkpoint folders directly below `source`, by the step in their names (see `names`).

    Args:
        source: a folder, or "hub:owner/name" for a repository with such revisions.

    Raises:
        PipelineError: no such folder, no checkpoints in it, or names that leave a step open.
    """
    if str(source).startswith(hub.PREFIX):
        return hub.download_steps(str(source).removeprefix(hub.PREFIX))
    if not source.is_dir():
        raise PipelineError(
            f"{source}: {why_missing(source, 'folder')}; set snapshot.source to a run's folder"
        )
    found = _named_folders(source)
    if not found and (source / INNER).is_dir():
        found = _named_folders(source / INNER)
    own = names.parse(source.absolute().name)
    # a checkpoint of DeepSpeed has a folder of the same step in it
    if not found or (own is not None and set(found) == {own.step}):
        raise PipelineError(_no_run(source, own))
    check_distinct(found)
    return found


def _named_folders(source: Path) -> dict[int, Path]:
    inside = sorted(source.iterdir())
    for path in inside:
        if path.is_symlink() and not path.exists() and names.parse(path.name):
            raise PipelineError(f"{path}: {why_missing(path)}; put it back or remove the link")
    folders = [path.name for path in inside if path.is_dir()]
    found = [step for name in folders if (step := names.parse(name)) is not None]
    if not found:  # numbers alone may count anything, such as the logs of ranks
        numbers = [step for name in folders if (step := names.parse_number(name)) is not None]
        if any(looks_like_checkpoint(source / step.name) for step in numbers):
            found = numbers
    return {step: source / name for step, name in names.by_step(source, found).items()}


def check_distinct(folders: Mapping[int, Path]) -> None:
    """Refuse one folder as two steps, be it by a link: the run would seem to stand still.

    Raises:
        PipelineError: names the steps and the folder.
    """
    seen: dict[Path, int] = {}
    for step in sorted(folders):
        real = folders[step].resolve()
        if real in seen:
            raise PipelineError(
                f"steps {seen[real]} and {step} are the same folder: {folders[step]} is {real}; "
                "leave one of them out"
            )
        seen[real] = step


def left_out(source: Path, used: Mapping[int, Path]) -> list[str]:
    """Names of folders beside the used ones that hold checkpoints as well, or parts of them."""
    rooms = {path.parent for path in used.values()} & {source, source / INNER}
    return [
        path.name
        for room in sorted(rooms)
        for path in sorted(room.iterdir())
        if path not in used.values()
        and path.is_dir()
        and (names.is_set_aside(path.name) or looks_like_checkpoint(path))
        and path.name != INNER
    ]


def _no_run(source: Path, own: names.StepName | None) -> str:
    """Why there are no checkpoints to take, and how to name them."""
    files = [path.name for path in sorted(source.iterdir()) if path.is_file()]
    steps = [name for name in files if names.parse(name.split(".")[0])]
    if steps:
        return f"{source}: {_listed(steps)}: a checkpoint is a folder; put each into one of its own"
    checkpoint = next(
        (p for p in source.absolute().parents if names.parse(p.name) and looks_like_checkpoint(p)),
        source if looks_like_checkpoint(source) else None,
    )
    folders = sorted(path for path in source.iterdir() if path.is_dir())
    like = [path for path in folders if looks_like_checkpoint(path)]
    if checkpoint is not None and not (like and own is None and checkpoint == source):
        return _one_checkpoint(source, checkpoint)
    for folder in folders:
        inner = [p.name for p in sorted(folder.iterdir()) if p.is_dir() and names.parse(p.name)]
        if inner:
            given = assignment("snapshot.source", str(folder))
            return (
                f"{source}: its checkpoints ({_listed(inner)}) lie in {folder.name}; give {given}"
            )
    if like:
        return _other_names(source, like)
    known = f"expected folders named {names.KNOWN} or N"
    there = _listed([path.name for path in folders]) or _listed(files) or "nothing"
    return f"{source}: no checkpoints in it; {known}; there is {there}"


def _one_checkpoint(source: Path, checkpoint: Path) -> str:
    what = "is one checkpoint" if checkpoint == source else f"lies in the checkpoint {checkpoint}"
    run = checkpoint.absolute().parent
    named = names.parse(checkpoint.absolute().name)
    if named is not None:
        way = f"give the run's folder: {assignment('snapshot.source', str(run))}"
    else:
        way = "name at least two by their steps: " + assignment(
            "snapshot.checkpoints", {100: str(checkpoint)}, more=True
        )
    return f"{source}: {what}, not the folder of a run; {way}"


def _other_names(source: Path, folders: Sequence[Path]) -> str:
    """Checkpoints whose names say no step: how to say it."""
    known = [path.name for path in folders]
    numbers = [re.findall(r"[0-9]+", name) for name in known]
    steps = [int(found[0]) for found in numbers if len(found) == 1 and len(found[0]) < 18]
    epochs = any(names.is_epoch(name) for name in known)
    if epochs or len(set(steps)) < len(folders):
        steps = [100 * place for place in range(1, len(folders) + 1)]
    chosen = {step: str(path) for step, path in zip(steps, folders, strict=False)}
    first = dict(list(chosen.items())[:_SHOWN])
    given = assignment("snapshot.checkpoints", first, more=len(chosen) > _SHOWN)
    what = "count epochs, not steps" if epochs else "say no step"
    return f"{source}: the names {_listed(known)} {what}; give the steps, e.g. {given}"


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words[:_SHOWN]) + (", ..." if len(words) > _SHOWN else "")
