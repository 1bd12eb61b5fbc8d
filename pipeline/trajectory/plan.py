"""What an extrapolation is to do, settled and checked before any work: inputs, rules, outputs."""

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
from pipeline.trajectory.coefficients import (
    Method,
    Vector,
    alpha,
    check_options,
    check_targets,
    damped,
    find_method,
    used_steps,
)
from pipeline.trajectory.companions import CONFIG, Companions, companions
from pipeline.trajectory.gram import Matrix
from pipeline.trajectory.sources import Trajectory
from pipeline.trajectory.writer import Shard, plan_shards

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
FORMAT = 3  # raise when the same plan would give other bytes


@dataclass(frozen=True)
class Plan:
    """One extrapolation to any number of targets.

    Attributes:
        checkpoints: the used ones in order, theta_0's first.
        damping: factor on the step beyond the last checkpoint, for every method.
        alpha_by_tensor: (glob, alpha) rules; the first that matches a name replaces its target.
        beside: the files that belong to an output beside its weights.
        copied: names copied bit by bit from the last used checkpoint: held ones, integers, buffers
            that are not finite, and what only the base has.
    """

    method: str
    rule: Method
    options: dict[str, Any]
    checkpoints: tuple[Checkpoint, ...]
    targets: tuple[int, ...]
    damping: float
    alpha_by_tensor: tuple[tuple[str, float], ...]
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

    def moves(self, name: str) -> bool:
        """True for tensors of finite floating-point values, whose movement can be measured."""
        return self.last.entries[name].is_float and name not in self.last.fixed

    @property
    def by_scalar(self) -> bool:
        """True if each scalar's step is to be gated by its own R²."""
        return self.options.get("by") == "scalar"

    def coefficients(self, name: str, gram: Matrix | None, target: int) -> Vector:
        """c [K] of one tensor, fp64; `gram` only where the method needs it."""
        steps = self.steps
        goal = float(target)
        for glob, factor in self.alpha_by_tensor:
            if fnmatchcase(name, glob):
                goal = steps[0] + factor * (steps[-1] - steps[0])
                break
        return damped(self.rule.coefficients(steps, gram, goal, **self.options), self.damping)

    def record(self, target: int) -> dict[str, Any]:
        """What extrapolation.json says before the work is done; `plan` identifies all of it."""
        steps = self.steps
        record: dict[str, Any] = {
            "format": FORMAT,
            "method": self.method,
            "options": self.options,
            "damping": self.damping,
            "alpha_by_tensor": dict(self.alpha_by_tensor),
            "first": steps[0],
            "last": steps[-1],
            "target": target,
            "alpha": alpha(steps[0], steps[-1], target),
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
    method: str,
    first: int,
    last: int,
    targets: Sequence[int],
    hold: Sequence[str],
    dtype: str,
    options: Mapping[str, Any],
) -> Plan:
    """Check every value and lay out the outputs; reads no weights.

    Args:
        options: the method's own, and for every method `damping` (float) and `alpha_by_tensor`
            ({glob: alpha}).

    Raises:
        PipelineError: names the bad value.
    """
    own = dict(options)
    damping = float(own.pop("damping", 1.0))
    rules = tuple((str(g), float(a)) for g, a in dict(own.pop("alpha_by_tensor", {})).items())
    rule = find_method(method)
    check_options(method, own)
    check_targets(method, options, targets, last)
    steps = used_steps(rule, trajectory.steps, first, last)
    checkpoints = tuple(trajectory.checkpoints[step] for step in steps)
    names = checkpoints[-1].entries
    _check_globs("extrapolation.hold", hold, names)
    _check_globs("extrapolation.options.alpha_by_tensor", [glob for glob, _ in rules], names)
    copied = frozenset(
        name
        for name, entry in names.items()
        if not entry.is_float
        or name in checkpoints[-1].fixed
        or checkpoints[-1].kept.get(name) == 0
        or any(fnmatchcase(name, glob) for glob in hold)
    )
    return Plan(
        method=method,
        rule=rule,
        options=own,
        checkpoints=checkpoints,
        targets=tuple(targets),
        damping=damping,
        alpha_by_tensor=rules,
        hold=tuple(hold),
        copied=copied,
        dtype=dtype,
        shards=tuple(plan_shards(_outputs(checkpoints[-1], copied, dtype))),
        beside=companions(checkpoints[-1], trajectory.base),
    )


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
