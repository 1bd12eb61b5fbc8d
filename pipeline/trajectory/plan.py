"""What an extrapolation is to do, settled and checked before any work: inputs, rule, outputs."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from hashlib import sha256
from typing import Any

import torch

import pipeline
from pipeline.artifacts import hash_json
from pipeline.errors import PipelineError
from pipeline.trajectory.checkpoint import Checkpoint
from pipeline.trajectory.coefficients import Matrix, Vector
from pipeline.trajectory.companions import CONFIG, Companions, companions
from pipeline.trajectory.rule import Rule
from pipeline.trajectory.sources import Trajectory
from pipeline.trajectory.writer import Shard, plan_shards

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
FORMAT = 3  # raise when the same plan would give other bytes


@dataclass(frozen=True)
class Plan:
    """One method's extrapolation to any number of targets.

    From it come model folders (`combine.write`) or recipes for engines (`recipe.recipes`).

    Attributes:
        checkpoints: the used ones in order, theta_0's first.
        hold: globs of tensors that are copied from the last used checkpoint.
        copied: names copied bit by bit from it: held ones, integers, buffers that are not finite,
            and what only the base has.
        beside: the files that belong to an output beside its weights.
    """

    trajectory: Trajectory
    rule: Rule
    checkpoints: tuple[Checkpoint, ...]
    targets: tuple[int, ...]
    hold: tuple[str, ...]
    copied: frozenset[str]
    dtype: str
    shards: tuple[Shard, ...]
    beside: Companions

    @property
    def steps(self) -> list[int]:
        return [checkpoint.step for checkpoint in self.checkpoints]

    @property
    def last(self) -> Checkpoint:
        return self.checkpoints[-1]

    def places(self, checkpoints: Sequence[Checkpoint]) -> list[int]:
        """Where this plan's checkpoints are among those of several plans (`union`)."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        return [steps.index(step) for step in self.steps]

    def predicts(self, name: str) -> bool:
        """True if an output's tensor is a sum of the checkpoints', and no copy of the last one."""
        return name not in self.copied and self.last.entries[name].numel > 0

    def coefficients(self, name: str, gram: Matrix | None, target: int) -> Vector:
        """c [K] of one tensor, fp64; `gram` [K, K] only where the rule needs it."""
        return self.rule.coefficients(self.steps, name, gram, target)

    def record(self, target: int) -> dict[str, Any]:
        """What extrapolation.json says before the work is done; `plan` identifies all of it."""
        steps = self.steps
        record: dict[str, Any] = {
            "format": FORMAT,
            "method": self.rule.name,
            "options": self.rule.options,
            "damping": self.rule.damping,
            "alpha_by_tensor": dict(self.rule.alpha_by_tensor),
            "first": steps[0],
            "last": steps[-1],
            "target": target,
            "alpha": (target - steps[0]) / (steps[-1] - steps[0]),  # 1: the last itself
            "steps": steps,
            "dtype": self.dtype,
            "hold": list(self.hold),
            "copied": sorted(self.copied),
            "inputs": [_input(checkpoint) for checkpoint in self.checkpoints],
            "config": str(self.beside.files[CONFIG].parent),
            "tokenizer": None if self.beside.tokenizer is None else str(self.beside.tokenizer),
            "versions": {
                "pipeline": pipeline.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        }
        stamps = [[file.mtime_ns for file in c.files] for c in self.checkpoints]
        shards = [[s.filename, sha256(s.header).hexdigest()] for s in self.shards]
        beside = [[name, path.stat().st_mtime_ns] for name, path in self.beside.files.items()]
        return record | {"plan": hash_json([record, stamps, shards, beside])}


def _input(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "step": checkpoint.step,
        "path": str(checkpoint.weights),
        "layout": checkpoint.layout,
        "files": [
            {"path": str(f.path), "bytes": f.nbytes, "sha256": f.sha256} for f in checkpoint.files
        ],
    }


def make_plan(
    trajectory: Trajectory,
    rule: Rule,
    first: int,
    last: int,
    targets: Sequence[int],
    hold: Sequence[str] = (),
    dtype: str = "bfloat16",
) -> Plan:
    """Check every value and lay out the outputs; reads no weights.

    Args:
        first, last: steps of the trajectory between which the method sees it.
        targets: steps to predict.
        dtype: "bfloat16", "float16", "float32", or "same" for each tensor's own.

    Raises:
        PipelineError: names the bad value.
    """
    rule.check_targets(targets, last)
    steps = rule.used_steps(trajectory.steps, first, last)
    checkpoints = tuple(trajectory.checkpoints[step] for step in steps)
    names = checkpoints[-1].entries
    _check_globs(f"{rule.key}.hold", hold, names)
    globs = [glob for glob, _ in rule.alpha_by_tensor]
    _check_globs(f"{rule.key}.options.alpha_by_tensor", globs, names)
    copied = frozenset(
        name
        for name, entry in names.items()
        if not entry.is_float
        or name in checkpoints[-1].fixed
        or checkpoints[-1].kept.get(name) == 0
        or any(fnmatchcase(name, glob) for glob in hold)
    )
    return Plan(
        trajectory=trajectory,
        rule=rule,
        checkpoints=checkpoints,
        targets=tuple(targets),
        hold=tuple(hold),
        copied=copied,
        dtype=dtype,
        shards=tuple(plan_shards(_outputs(checkpoints[-1], copied, dtype))),
        beside=companions(checkpoints[-1], trajectory.base),
    )


def union(plans: Sequence[Plan]) -> tuple[Checkpoint, ...]:
    """All checkpoints that plans between the same two use, in order."""
    ends = {(plan.steps[0], plan.steps[-1]) for plan in plans}
    if len(ends) != 1:
        raise ValueError(f"plans between different checkpoints cannot share a read: {ends}")
    return max((plan.checkpoints for plan in plans), key=len)


def _check_globs(key: str, globs: Sequence[str], names: Mapping[str, Any]) -> None:
    for glob in globs:
        if not any(fnmatchcase(name, glob) for name in names):
            raise PipelineError(f"{key}: {glob!r} matches no tensor; correct or drop it")


def _outputs(
    last: Checkpoint, copied: frozenset[str], dtype: str
) -> list[tuple[str, torch.dtype, tuple[int, ...]]]:
    """Name, dtype and shape of each output tensor, in the order of the input files."""
    if dtype not in DTYPES and dtype != "same":
        known = ", ".join([*DTYPES, "same"])
        raise PipelineError(f"weight_extrap.dtype={dtype}: known dtypes are {known}")
    ordered = sorted(last.entries.values(), key=lambda e: (e.extents[0].path, e.extents[0].offset))
    return [
        (e.name, e.dtype if e.name in copied or dtype == "same" else DTYPES[dtype], e.shape)
        for e in ordered
    ]
