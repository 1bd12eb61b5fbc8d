"""Tuples of integers that make the problems of a generated task, each in the split of its key."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from pipeline.errors import PipelineError
from pipeline.tasks.problem import Request
from pipeline.tasks.splits import split_of

ENUMERATE_UP_TO = 200_000  # tuples; above this, problems are drawn instead of listed
GIVE_UP_AFTER = 10_000  # draws in a row that were seen before or belong to another split

Key = Callable[[Sequence[int]], str | None]


class Splits(Protocol):
    """What the options of a generated task have in common."""

    @property
    def splits(self) -> Mapping[str, float]: ...

    @property
    def split_seed(self) -> int: ...


def draw(
    request: Request, options: Splits, numbers: range, length: int, key: Key
) -> list[tuple[int, ...]]:
    """Tuples of the request's split in seeded random order, each once.

    Args:
        numbers: what each member of a tuple may be.
        length: members of a tuple.
        key: the same for tuples that give each other away, so that they share a split; None for a
            tuple that makes no problem.

    Returns:
        The first `request.count` (all of a finite split if None); fewer are a prefix of more.

    Raises:
        PipelineError: the split has too few, or is too large to list and no count is given.
    """
    count = request.count
    taken: list[tuple[int, ...]] = []
    misses = 0
    draws = _draws(request, options, numbers, length, key)
    while count is None or len(taken) < count:
        drawn = next(draws, ())
        if drawn == ():
            break
        if drawn is not None:
            taken.append(drawn)
            misses = 0
            continue
        misses += 1
        if count is None:
            raise PipelineError(
                f"task {request.task.name}: the {request.split} split is too large to list; "
                "give the number of problems"
            )
        if misses > GIVE_UP_AFTER:
            break
    if count is not None and len(taken) < count:
        raise PipelineError(
            f"task {request.task.name}: {count} problems wanted but the {request.split} split has "
            f"{len(taken)}; ask for fewer, widen the operands or change options.splits"
        )
    return taken


def _draws(
    request: Request, options: Splits, numbers: range, length: int, key: Key
) -> Iterator[tuple[int, ...] | None]:
    """A finite set ends; from one too large to list, None stands for a draw that did not fit."""
    rng = random.Random(f"{request.task.name}/{request.split}/{request.seed}")

    def belongs(drawn: tuple[int, ...]) -> bool:
        content = key(drawn)
        if content is None:
            return False
        return split_of(content, options.splits, options.split_seed) == request.split

    if len(numbers) ** length <= ENUMERATE_UP_TO:
        every = [n for n in itertools.product(numbers, repeat=length) if belongs(n)]
        rng.shuffle(every)
        yield from every
        return
    seen: set[tuple[int, ...]] = set()
    while True:
        drawn = tuple(rng.randint(numbers[0], numbers[-1]) for _ in range(length))
        if drawn in seen or not belongs(drawn):
            yield None
        else:
            seen.add(drawn)
            yield drawn
