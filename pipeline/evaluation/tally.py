"""The samples of each model on each split of each task, counted.

In whatever order rows come (an evaluation in parts, one that was killed, one process), a problem's
samples are counted in the order of their numbers and the problems in that of their ids, so that
sums, random sign flips and ties are the same to the bit.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.voting import agreement, majority_of
from pipeline.tasks.canonical import canonical

Array = NDArray[np.float64]


SIGNS = ("truncated", "no_answer", "looping", "copied")  # marks of a response (signs.py)


@dataclass
class Tally:
    """All samples of one model on one split of one task."""

    first: Mapping[str, Any]  # its first generation: model, kind, alpha, step
    correct: dict[str, list[bool]]  # problem id -> samples
    predictions: dict[str, list[str | None]]  # equal wrong ones in one spelling, for maj@k
    tokens: list[int]
    logprobs: list[float] = field(default_factory=list)  # of responses, under what drew them
    places: list[str] = field(default_factory=list)  # the problem of each response
    marks: dict[str, list[bool]] = field(default_factory=lambda: {sign: [] for sign in SIGNS})
    answers: dict[str, list[str | None]] = field(default_factory=lambda: defaultdict(list))
    golds: Mapping[str, str] = field(default_factory=dict)  # problem id -> canonical reference
    timeouts: int = 0
    no_reference: int = 0

    def shares(self, problems: Iterable[str]) -> Array:
        return np.array([np.mean(self.correct[problem]) for problem in problems])

    def share(self, sign: str) -> float:
        """Share of responses with a mark."""
        return sum(self.marks[sign]) / len(self.tokens)

    def by_problem(self, values: Sequence[float]) -> dict[str, float]:
        """Means over the responses of each problem.

        Args:
            values: one for each response, in the order of `places`.
        """
        sums: dict[str, float] = defaultdict(float)
        for place, value in zip(self.places, values, strict=True):
            sums[place] += value
        return {place: total / len(self.correct[place]) for place, total in sums.items()}

    def add(self, row: Mapping[str, Any], grade: Mapping[str, Any]) -> None:
        """Count one more response (see `tally`)."""
        problem = row["problem_id"]
        self.correct[problem].append(bool(grade["correct"]))
        prediction = grade.get("prediction")
        self.predictions[problem].append(prediction)
        answer = grade.get("answer")
        if answer is None and prediction is not None:
            answer = canonical(prediction)
        self.answers[problem].append(answer)
        self.tokens.append(int(row["tokens"]))
        if row.get("logprob") is not None:
            self.logprobs.append(float(row["logprob"]))
        self.places.append(problem)
        marks = {
            "truncated": row["finish_reason"] == "length",
            "no_answer": grade["status"] == "no_answer",
            "looping": bool(row.get("looping")),
            "copied": bool(row.get("copied")),
        }
        for sign, mark in marks.items():
            self.marks[sign].append(mark)
        self.timeouts += grade["status"] == "timeout"
        self.no_reference += grade["status"] == "no_reference"

    @property
    def cost(self) -> float:
        """Tokens that a sample costs on average; a mixture decodes with two models, or with as
        many as it has members (each counts as one, whatever its size)."""
        models = 2 if self.first["kind"] == "logit" else len(self.first.get("members") or [0])
        return float(np.mean(self.tokens)) * models

    @property
    def entropy(self) -> float | None:
        """Nats per token of what the responses were drawn from; None if a row does not say."""
        if len(self.logprobs) < len(self.tokens):
            return None
        return round(max(0.0, -sum(self.logprobs)) / max(1, sum(self.tokens)), 4)

    @property
    def perplexity(self) -> float | None:
        """Of the model's own responses under what they were drawn from, each counted alike, long or
        short: exp of the mean over responses of nats per token. None if a row does not say."""
        if len(self.logprobs) < len(self.tokens):
            return None
        pairs = zip(self.logprobs, self.tokens, strict=True)
        mean = sum(-logprob / max(1, tokens) for logprob, tokens in pairs) / len(self.tokens)
        return round(math.exp(max(0.0, mean)), 4)

    @property
    def agreement(self) -> float:
        """Share of a problem's most frequent answer among its responses, averaged over problems.

        No reference is looked at. A response without an answer agrees with none.
        """
        return float(np.mean([agreement(answers) for answers in self.answers.values()]))

    @property
    def commonest(self) -> tuple[str | None, float]:
        """The answer that most responses give, whatever the problem, and their share."""
        counts = Counter(a for answers in self.answers.values() for a in answers if a is not None)
        if not counts:
            return None, 0.0
        answer, count = counts.most_common(1)[0]
        return answer, count / len(self.tokens)

    def majority(self, m: int) -> float:
        """maj@m over the problems."""
        pairs = ((self.predictions[p], self.correct[p]) for p in self.correct)
        return float(np.mean([majority_of(m, *pair) for pair in pairs]))


def tally(
    generations: Sequence[Mapping[str, Any]], grades: Sequence[Mapping[str, Any]]
) -> dict[tuple[str, str, str], Tally]:
    """Samples by (model, task, split), these in order of appearance.

    Args:
        generations: rows of generations.jsonl, each once (`inference.run.Once`); `looping` and
            `copied` (signs.py) count where given.
        grades: one for each row: correct, status (tasks.problem.Status), prediction; `answer`, what
            it amounts to without a look at the reference (None: the canonical prediction).
    """
    places: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for i, row in enumerate(generations):
        places[row["model"], row["task"], row["split"]].append(i)
    groups = {}
    for key, mine in places.items():
        group = Tally(generations[mine[0]], defaultdict(list), defaultdict(list), [])
        for i in sorted(mine, key=lambda i: number(generations[i])):
            group.add(generations[i], grades[i])
        groups[key] = group
    return groups


def number(row: Mapping[str, Any]) -> tuple[str, int]:
    """Which response of its model this is."""
    return row["problem_id"], row["sample"]


def spent(group: Tally) -> float:
    """Tokens spent on a problem, all samples together."""
    return group.cost * len(next(iter(group.correct.values())))


def within(budget: float, group: Tally) -> dict[str, Any]:
    """maj@m with as many samples as `budget` tokens a problem pay for: what the cheapest model of
    the same task and split spends."""
    k = len(next(iter(group.correct.values())))
    m = max(1, min(k, int(budget / group.cost + 1e-9))) if group.cost else k
    return {"m": m, "tokens": round(m * group.cost, 1), "value": group.majority(m)}
