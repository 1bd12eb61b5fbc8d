"""Votes among the samples of a problem: maj@k, at k samples or at a budget of tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pipeline.tasks.canonical import canonical


def majority(predictions: Sequence[str | None], correct: Sequence[bool]) -> float:
    """maj@k of one problem: is the most frequent answer of the k samples right?

    Samples without an answer do not vote. Right answers are one candidate, however they are
    written, and so are wrong ones with one canonical form. A tie counts as the chance that a random
    one of the leaders is right.
    """
    votes = Counter(
        (True, "") if right else (False, canonical(prediction or ""))
        for prediction, right in zip(predictions, correct, strict=True)
        if right or prediction is not None
    )
    if not votes:
        return 0.0
    most = max(votes.values())
    leaders = [candidate for candidate, count in votes.items() if count == most]
    return sum(right for right, _ in leaders) / len(leaders)


def majority_of(m: int, predictions: Sequence[str | None], correct: Sequence[bool]) -> float:
    """maj@m of one problem from its k >= m samples: the mean over blocks of m that do not overlap.

    Samples are exchangeable, so every block is an estimate without bias.
    """
    starts = range(0, len(correct) - m + 1, m)
    return sum(
        majority(predictions[start : start + m], correct[start : start + m]) for start in starts
    ) / len(starts)


def agreement(answers: Sequence[str | None]) -> float:
    """Share of the most frequent answer to one problem among its samples.

    Args:
        answers: canonical; None, no answer, agrees with nothing, itself included.
    """
    counts = Counter(answer for answer in answers if answer is not None)
    return max(counts.values(), default=0) / len(answers)


def distinct_share(predictions: Sequence[str | None]) -> float:
    """Different answers to one problem, equal ones counted once, as a share of its samples; samples
    without an answer count together as one."""
    answers = {None if p is None else canonical(p) for p in predictions}
    return len(answers) / len(predictions)
