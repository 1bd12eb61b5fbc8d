"""Train, validation and test problems that cannot overlap, whatever is asked for.

Every problem has a key (its content, with twins such as 3+4 and 4+3 mapped to one key). The hash
of the key, a number in [0, 1), decides the split; nothing else does. So two calls with different
seeds, counts or processes can never put one problem into two splits.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Mapping

from pipeline.errors import PipelineError
from pipeline.tasks.problem import Problem, Request
from pipeline.tasks.task import TaskConfig

DEFAULT_SPLITS = {"train": 0.8, "validation": 0.1, "test": 0.1}


def split_of(key: str, splits: Mapping[str, float], split_seed: int) -> str:
    """The split that a problem belongs to.

    Args:
        key: canonical content of the problem; equal for problems that give each other away.
        splits: {name: share}, in order; shares sum to 1.
        split_seed: chooses the partition; keep it fixed over a project.
    """
    digest = hashlib.sha256(f"{split_seed}/{key}".encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    edge = 0.0
    for name, share in splits.items():
        edge += share
        if position < edge:
            return name
    return list(splits)[-1]  # position above a sum that rounds to just below 1


def check_shares(task: TaskConfig, splits: Mapping[str, float]) -> None:
    """Raise PipelineError if the shares are no partition."""
    if any(share < 0 for share in splits.values()) or not math.isclose(sum(splits.values()), 1):
        raise PipelineError(
            f"task {task.name}: options.splits must be shares that sum to 1, got {dict(splits)}"
        )


def check_splits(request: Request, splits: Mapping[str, float]) -> None:
    """Raise PipelineError if the request's split has no share or the shares are no partition."""
    task, split = request.task, request.split
    check_shares(task, splits)
    if splits.get(split, 0.0) == 0.0:
        raise PipelineError(
            f"task {task.name}: no split {split!r}; it has {', '.join(splits)}; "
            f"give it a share in options.splits, e.g. {{{split}: 0.5, ...}}"
        )


def choose(problems: list[Problem], request: Request) -> list[Problem]:
    """All problems in their order, or a seeded choice of `request.count`.

    The task's name has no part in it: a data set under two names, with two prompts, say, is
    compared on the same problems.
    """
    if request.count is None:
        return problems
    if request.count > len(problems):
        raise PipelineError(
            f"task {request.task.name}: {request.count} problems wanted but the {request.split} "
            f"split has {len(problems)}; ask for fewer or change options.splits"
        )
    rng = random.Random(f"{request.split}/{request.seed}")
    return rng.sample(problems, request.count)
