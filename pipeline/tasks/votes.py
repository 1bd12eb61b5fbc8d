r"""Which answers of a vote are one where their spelling does not tell (canonical.py does the rest).

\sqrt8 and 2\sqrt2 are one answer. The grader decides it as it grades: the first as the reference,
the second as the response. That costs a look by math-verify, so it is only asked about pairs that
can change a vote: of a problem with right answers as well as wrong ones, whose wrong ones together
are as many as the right ones and no group of them alone is more.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

from pipeline.tasks.canonical import canonical
from pipeline.tasks.problem import Problem
from pipeline.tasks.registry import grade_many
from pipeline.tasks.task import TaskConfig

MOST = 12  # different wrong answers to a problem that are compared, the most frequent first
KIND = "math"  # the kind whose grader compares answers
NUMBER = re.compile(r"-?\d+(?:/\d+)?")

Pair = tuple[str, str]  # canonical answers
Grade = dict[str, Any]


def merge_votes(
    rows: Sequence[Mapping[str, Any]],
    grades: Sequence[Grade],
    tasks: Mapping[str, TaskConfig],
    done: Callable[[], object] | None = None,
) -> None:
    """Give wrong predictions that are equal one spelling, in place.

    Args:
        rows: of generations.jsonl: model, task, split, problem_id.
        grades: one for each row: correct and prediction.
        tasks: those that the rows name, by name.
        done: called once a comparison or so.
    """
    ballots: dict[tuple[str, ...], list[Grade]] = defaultdict(list)
    for row, grade in zip(rows, grades, strict=True):
        if tasks[row["task"]].kind == KIND:
            key = (row["task"], row["model"], row["split"], row["problem_id"])
            ballots[key].append(grade)
    pairs: dict[str, dict[Pair, Pair]] = defaultdict(dict)  # task -> pair -> as it was written
    for (task, *_), ballot in ballots.items():
        pairs[task] |= _doubtful(ballot)
    equal = {name: _equal(tasks[name], asked, done) for name, asked in pairs.items() if asked}
    for (task, *_), ballot in ballots.items():
        if task in equal:
            _rename(ballot, equal[task])


def _wrong(ballot: Sequence[Grade]) -> dict[str, list[Grade]]:
    """Wrong answers by their canonical form, the most frequent first."""
    groups: dict[str, list[Grade]] = defaultdict(list)
    for grade in ballot:
        if not grade["correct"] and grade["prediction"] is not None:
            groups[canonical(grade["prediction"])].append(grade)
    return dict(sorted(groups.items(), key=lambda item: -len(item[1])))


def _doubtful(ballot: Sequence[Grade]) -> dict[Pair, Pair]:
    """The pairs of wrong answers whose equality may change the vote, with their own texts."""
    right = sum(bool(grade["correct"]) for grade in ballot)
    if not right or 2 * right > len(ballot):
        return {}
    groups = _wrong(ballot)
    sizes = [len(group) for group in groups.values()]
    if len(groups) < 2 or max(sizes) > right or sum(sizes) < right:
        return {}
    texts = {name: group[0]["prediction"] for name, group in groups.items()}
    return {
        (one, other): (texts[one], texts[other])
        for one, other in combinations(sorted(list(groups)[:MOST]), 2)
        if not (NUMBER.fullmatch(one) and NUMBER.fullmatch(other))
    }


def _equal(
    task: TaskConfig, pairs: Mapping[Pair, Pair], done: Callable[[], object] | None
) -> set[Pair]:
    """The pairs that the grader takes for equal."""
    asked = [
        (Problem("", "", one, "", task=task.name), f"\\boxed{{{other}}}")
        for one, other in pairs.values()
    ]
    verdicts = grade_many(replace(task, grade_after=None), asked, done=done)
    return {pair for pair, verdict in zip(pairs, verdicts, strict=True) if verdict.correct}


def _rename(ballot: Sequence[Grade], equal: set[Pair]) -> None:
    """Write equal answers as the most frequent of them is written."""
    groups = _wrong(ballot)
    first: dict[str, str] = {}
    for name in groups:
        twins = (other for other in first if (min(other, name), max(other, name)) in equal)
        first[name] = next((first[other] for other in twins), name)
    for name, group in groups.items():
        spelling = groups[first[name]][0]["prediction"]
        for grade in group:
            grade["prediction"] = spelling
