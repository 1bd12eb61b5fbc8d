"""Find the checkpoints of a run, whoever wrote it, and check them before any work is done.

A step is the number in a folder's name (or given by hand), never a position in a list: with one
checkpoint missing, positions would shift every later step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from pipeline.artifacts import hash_file
from pipeline.errors import PipelineError
from pipeline.faults import why_missing
from pipeline.trajectory.align import align
from pipeline.trajectory.checkpoint import Checkpoint, WeightFile
from pipeline.trajectory.layouts import PLAIN, open_checkpoint
from pipeline.trajectory.segments import virtual_steps
from pipeline.trajectory.spellings import Matching
from pipeline.trajectory.steps import check_distinct, find_steps


@dataclass(frozen=True)
class Trajectory:
    """Checkpoints of one model by step; the same tensors, of the same shapes, in each.

    Attributes:
        given: the base folder that the user named, if any.
        matching: how the checkpoints were brought to the same tensors.
        virtual: of a run with jumps, the virtual step of each (see `segments`).
    """

    checkpoints: dict[int, Checkpoint]
    given: Path | None = None
    matching: Matching = field(default_factory=Matching)
    virtual: dict[int, float] = field(default_factory=dict)

    @property
    def steps(self) -> list[int]:
        return sorted(self.checkpoints)

    @property
    def times(self) -> list[float]:
        """Where `steps` lie on the line of the run: the steps themselves, but for jumps."""
        return [self.virtual.get(step, step) for step in self.steps]

    @property
    def paths(self) -> dict[int, Path]:
        """Model folders (with config.json) by step."""
        return {step: self.checkpoints[step].folder for step in self.steps}

    @property
    def base(self) -> Checkpoint:
        """The checkpoint of the lowest step."""
        return self.checkpoints[self.steps[0]]

    @property
    def parameters(self) -> int:
        """Scalars in the floating-point tensors; a tied head counts once."""
        return sum(e.numel for e in self.base.entries.values() if e.is_float)

    @property
    def dtype(self) -> str:
        """The dtype of most parameters of the last checkpoint, e.g. "bfloat16"."""
        counts: dict[torch.dtype, int] = {}
        for entry in self.checkpoints[self.steps[-1]].entries.values():
            counts[entry.dtype] = counts.get(entry.dtype, 0) + entry.numel
        return str(max(counts, key=lambda dtype: counts[dtype])).removeprefix("torch.")

    @property
    def tied(self) -> tuple[str, ...]:
        """Names that are another tensor's at every checkpoint, and so not stored."""
        return self.base.tied

    @property
    def kept(self) -> list[str]:
        """Tensors that only the base has, or of which it alone has some rows."""
        return sorted({name for c in self.checkpoints.values() for name in c.kept})

    @property
    def fixed(self) -> frozenset[str]:
        """Buffers that are not finite and never change."""
        return self.base.fixed

    def to_json(self) -> dict[str, Any]:
        """What `from_json` needs, and what a reader wants to know (plain JSON values)."""
        return {
            "base": str(self.base.folder),
            "given_base": None if self.given is None else str(self.given),
            "steps": self.steps,
            **({"virtual_steps": self.times} if self.virtual else {}),
            "parameters": self.parameters,
            "dtype": self.dtype,
            "tensors": len(self.base.entries),
            "tied": list(self.tied),
            "only_in_base": self.kept,
            "matching": self.matching.to_plain(),
            "checkpoints": [_checkpoint_json(self.checkpoints[step]) for step in self.steps],
        }

    @staticmethod
    def from_json(value: dict[str, Any]) -> Trajectory:
        """Open the checkpoints again and check that they are the ones that were recorded.

        Sizes are compared, and content hashes where a file's time stamp has changed.

        Raises:
            PipelineError: a checkpoint is gone or its content has changed.
        """
        given = value.get("given_base")
        sources = {int(item["step"]): Path(item["path"]) for item in value["checkpoints"]}
        matching = Matching.from_plain(value.get("matching"))
        trajectory = _open(sources, None if given is None else Path(given), matching)
        times = value.get("virtual_steps", [])
        trajectory = replace(trajectory, virtual=dict(zip(trajectory.steps, times, strict=False)))
        recorded = {Path(f["path"]): f for item in value["checkpoints"] for f in item["files"]}
        return trajectory.with_files(
            {
                file.path: confirm(file, recorded.get(file.path))
                for checkpoint in trajectory.checkpoints.values()
                for file in checkpoint.files
            }
        )

    def with_files(self, files: Mapping[Path, WeightFile]) -> Trajectory:
        """The same trajectory with other records of its files (their hashes)."""
        return replace(
            self,
            checkpoints={
                step: replace(checkpoint, files=tuple(files[f.path] for f in checkpoint.files))
                for step, checkpoint in self.checkpoints.items()
            },
        )


def confirm(file: WeightFile, recorded: dict[str, Any] | None) -> WeightFile:
    """`file` with its recorded hash, if it is still the recorded content.

    Raises:
        PipelineError: it is not.
    """
    if recorded is None:
        raise PipelineError(
            f"{file.path}: not there when the trajectory was recorded; rerun snapshot"
        )
    sha256 = recorded["sha256"]
    same = file.nbytes == recorded["bytes"]
    if same and sha256 is not None and file.mtime_ns != recorded["mtime_ns"]:
        same = hash_file(file.path) == sha256
    if not same:
        raise PipelineError(
            f"{file.path}: changed since the trajectory was recorded; rerun snapshot"
        )
    return replace(file, sha256=sha256)


def _checkpoint_json(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "step": checkpoint.step,
        "path": str(checkpoint.source),
        "folder": str(checkpoint.folder),
        "layout": checkpoint.layout,
        "respelled": checkpoint.respelled,
        "files": [
            {"path": str(f.path), "bytes": f.nbytes, "mtime_ns": f.mtime_ns, "sha256": f.sha256}
            for f in checkpoint.files
        ],
    }


def discover(
    source: Path,
    base: Path | None,
    explicit: Mapping[int, Path] | None = None,
    matching: Matching = PLAIN,
) -> Trajectory:
    """Find and check the checkpoints of a run; reads headers only, so it is quick.

    Args:
        source: folder with `global_step_N`, `checkpoint-N`, `step_N` folders or the like (see
            `names`), or "hub:owner/name" with such revisions; ignored if `explicit` is given.
        base: the model that training started from, taken as step 0; None if the run's lowest step
            is to be the start.
        explicit: {step: folder}, in place of looking for names.
        matching: other names of the run's tensors, and whether what only the base has is taken.

    Raises:
        PipelineError: nothing found, a step twice, a damaged or unlike checkpoint, a rule of
            `matching` that no name follows.
    """
    if base is not None and not base.is_dir():
        raise PipelineError(f"{base}: {why_missing(base, 'folder')} (snapshot.base)")
    folders = dict(explicit) if explicit else find_steps(source)
    if base is not None:
        if 0 in folders and folders[0].resolve() != base.resolve():
            raise PipelineError(
                f"step 0 twice: {folders[0]} and the base {base}; leave one of them out"
            )
        folders[0] = base
    check_distinct(folders)
    trajectory = _open(folders, base, matching)
    return replace(trajectory, virtual=virtual_steps(folders))


def _open(folders: Mapping[int, Path], base: Path | None, matching: Matching) -> Trajectory:
    given = None if base is None else open_checkpoint(0, base)
    found: list[Checkpoint] = []
    for step in sorted(folders):
        same = given is not None and step == 0
        found.append(
            given if given and same else open_checkpoint(step, folders[step], given, matching)
        )
    for old, _ in matching.rename:
        if not any(old in checkpoint.rules for checkpoint in found):
            raise PipelineError(
                f"snapshot.rename: no tensor's name begins with {old!r}; names are like "
                f"{next(iter(found[-1].entries), 'none')}: correct or drop it"
            )
    aligned = align(found, matching)
    return Trajectory({c.step: c for c in aligned}, base, matching)
