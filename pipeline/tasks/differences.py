"""Chains of differences: a task that a small model can guess at or work out.

A problem is a row of digits. Its answer starts from the first digit and takes the distance to each
next one: `739152=` has |7-3| = 4, |4-9| = 5, |5-1| = 4, |4-5| = 1, |1-2| = 1, so 1. There are two
ways to respond: the answer alone, `1`, or all distances behind a marker, `>45411`, of which the
last is the answer. The whole in one go is hard; each distance is one of a hundred easy facts.

It is made for RL on a model made from nothing. Its first lessons (the split `lessons`) show right
answers only, few of them worked out. So the model knows the better way and seldom takes it, and to
take it is what RL has to teach.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.errors import PipelineError
from pipeline.tasks.draws import draw
from pipeline.tasks.kind import Example, Kind, one_by_one
from pipeline.tasks.problem import Grade, Problem, Request
from pipeline.tasks.splits import check_splits

MARKER = ">"  # opens a response that is worked out
LESSONS = "lessons"  # the split whose problems come with a response to learn from
DIFFERENCES_ALPHABET = f"0123456789={MARKER}"  # every character of prompts and responses
SPLITS = {LESSONS: 0.4, "train": 0.4, "validation": 0.1, "test": 0.1}


@dataclass(frozen=True)
class DifferencesOptions:
    """digits: length of a problem; splits, split_seed: see splits.py.

    worked_out: share of the lessons that show the distances; the rest show the answer alone.
    """

    digits: int = 6
    worked_out: float = 0.12
    splits: Mapping[str, float] = field(default_factory=lambda: SPLITS)
    split_seed: int = 0


def load_differences(request: Request, o: DifferencesOptions) -> list[Problem]:
    """Problems such as `739152=` with answer `1`; those of the split `lessons` have a lesson."""
    check_splits(request, o.splits)
    if o.digits < 2 or not 0 <= o.worked_out <= 1:
        raise PipelineError(
            f"task {request.task.name}: options.digits must be >= 2 and options.worked_out a share"
        )
    rows = draw(request, o, range(10), o.digits, _same_start)
    return [_problem(request, o, row) for row in rows]


def _problem(request: Request, o: DifferencesOptions, digits: Sequence[int]) -> Problem:
    text = "".join(map(str, digits))
    found = distances(digits)
    answer, lesson = str(found[-1]), None
    if request.split == LESSONS:
        # decided by the problem alone, so that it is taught one way, however often it comes up
        worked_out = random.Random(f"{o.split_seed}/{text}").random() < o.worked_out
        lesson = MARKER + "".join(map(str, found)) if worked_out else answer
    return Problem(
        id=text,
        prompt=request.task.pose(f"{text}=", chat=False),
        answer=answer,
        split=request.split,
        meta={"distances": len(found)},
        lesson=lesson,
    )


def distances(digits: Sequence[int]) -> list[int]:
    """From the first digit to the second, from that distance to the third, and so on."""
    return list(itertools.accumulate(digits, lambda a, b: abs(a - b)))[1:]


def _same_start(digits: Sequence[int]) -> str:
    # |a-b| is |b-a|: two rows that begin with the same two digits are the same problem
    return "".join(map(str, [*sorted(digits[:2]), *digits[2:]]))


def grade_differences(problem: Problem, text: str) -> Grade:
    """Right if the response is the answer, or as many distances as there are, the last one right.

    Anything else (a digit too many, none, two markers) is no answer.
    """
    response = text.strip()
    worked_out = rf"{MARKER}[0-9]{{{problem.meta['distances']}}}"
    if not re.fullmatch(rf"[0-9]|{worked_out}", response):
        return Grade(False, "no_answer")
    return Grade(response[-1] == problem.answer, "ok", response[-1])


KIND = Kind(
    DifferencesOptions,
    load_differences,
    one_by_one(grade_differences),
    Example(options={"digits": 4}, prompt="7391=", right=">454", wrong="54"),
)
