"""Whether a model has come apart, told from its responses alone, and by which signs.

A model is compared with the last checkpoint that extrapolation has seen, problem by problem. A
sign counts if it is large and certain: it passes its threshold, and the difference is no chance at
a level of 0.001, since some hundred signs are looked at in a run. At that level ten problems are
never enough. docs/evaluate.md gives the reason for each threshold.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.evaluation.intervals import difference_interval
from pipeline.evaluation.metrics import check_same_problems, sign_flip
from pipeline.evaluation.tally import Tally

CONFIDENCE = 0.999  # that a difference is none of chance
RISE = 0.2  # of a share of responses
MOST = 0.5  # share of responses from which a sign counts although accuracy rose
ONE_ANSWER = 0.3  # rise of the share of responses that give one answer where it is not asked for
NATS = 1.0  # by which the entropy per token rises, and it at least doubles
SURE = 0.1  # of the reference's entropy, below which nothing is left of it
LEAST_ENTROPY = 0.05  # nats; a reference below has no entropy to lose
LENGTH = 4.0  # ratio of mean lengths, either way
RESAMPLES = 20_000  # random sign flips: enough to tell 0.001
SHOWN = 20  # characters of an answer that are shown

SHARES = {
    "truncated": "hit the limit of tokens",
    "no_answer": "hold no answer",
    "looping": "end in a loop",
    "copied": "only repeat the question",
}

Key = tuple[str, str, str]  # model, task, split


@dataclass(frozen=True)
class Judged:
    """What a model's responses show on one split of one task.

    Attributes:
        against: the model that it was compared with.
        reasons: why it has collapsed, in words; none if it has not.
        without_labels: signs of collapse where no reference answer may be looked at: more of them,
            since a gain in accuracy excuses none.
    """

    against: str
    reasons: tuple[str, ...]
    without_labels: tuple[str, ...]


def judge(groups: Mapping[Key, Tally], start: str) -> dict[Key, Judged]:
    """All models but the base, and those that lack the model to compare with.

    What goes beyond `start` (later real RL, extrapolations, mixtures) is compared with it. It
    itself, checkpoints before it and those that the user has named are compared with the base, and
    so is everything where `start` has collapsed.

    Args:
        groups: samples by (model, task, split).
        start: the last checkpoint that extrapolation has seen.
    """
    found: dict[Key, Judged] = {}
    bases = {key[1:]: group for key, group in groups.items() if group.first["kind"] == "base"}
    for place, base in bases.items():
        reference = groups.get((start, *place))
        lost = False
        if reference is not None and reference is not base:
            found[start, *place] = _judged(reference, base)
            lost = bool(found[start, *place].reasons)
        for key, group in groups.items():
            if key[1:] != place or group is base or key in found:
                continue
            early = group.first["kind"] == "named" or _before(group, reference)
            other = base if early or lost or reference is None else reference
            found[key] = _judged(group, other)
    return found


def _before(group: Tally, reference: Tally | None) -> bool:
    """Whether a checkpoint of real RL lies before the one that others are compared with."""
    if reference is None or group.first["kind"] != "rl":
        return False
    return int(group.first["step"]) <= int(reference.first["step"])


def _judged(group: Tally, reference: Tally) -> Judged:
    low, high = _accuracy(group, reference)
    wild, shifted = [*_wild(group, reference)], [*_shifted(group, reference)]
    reasons = [*_shares(group, reference, gained=low > 0)]
    reasons += [*_one_answer(group, reference, group.golds), *wild]
    if high < 0:
        reasons += [f"{reason}, and accuracy fell" for reason in shifted]
    blind = [*_shares(group, reference, gained=False), *_one_answer(group, reference, {})]
    return Judged(_name(reference), tuple(reasons), (*blind, *wild, *shifted))


def _shares(group: Tally, reference: Tally, gained: bool) -> Iterator[str]:
    """Responses that came to nothing. A model that gains may think so long that some are cut."""
    for sign, words in SHARES.items():
        own, other = group.share(sign), reference.share(sign)
        if own - other < RISE or (gained and own < MOST):
            continue
        mine, others = (g.by_problem(g.marks[sign]) for g in (group, reference))
        if _difference(group, reference, mine, others, CONFIDENCE)[0] > 0:
            yield (
                f"{_percent(own)} of responses {words} ({_percent(other)} at {_name(reference)})"
            )


def _one_answer(group: Tally, reference: Tally, golds: Mapping[str, str]) -> Iterator[str]:
    """One answer to most problems, beyond those whose reference answer (`golds`) it is."""
    answer, own = group.commonest
    if answer is None or own < MOST:
        return

    def off(g: Tally) -> dict[str, float]:
        return {
            problem: answers.count(answer) / len(answers) if golds.get(problem) != answer else 0.0
            for problem, answers in g.answers.items()
        }

    values = off(group), off(reference)
    rise = float(np.mean([*values[0].values()]) - np.mean([*values[1].values()]))
    if rise >= ONE_ANSWER and _difference(group, reference, *values, CONFIDENCE)[0] > 0:
        counts = (answers.count(answer) for answers in reference.answers.values())
        other = sum(counts) / len(reference.tokens)
        shown = " ".join(answer.split())
        shown = shown if len(shown) <= SHOWN else f"{shown[: SHOWN - 1]}…"
        yield (
            f"{_percent(own)} of responses give one answer, {shown}, whatever the problem "
            f"({_percent(other)} at {_name(reference)})"
        )


def _wild(group: Tally, reference: Tally) -> Iterator[str]:
    """Next to any token may come."""
    own, other = group.entropy, reference.entropy
    if own is None or other is None or own < max(2 * other, other + NATS):
        return
    if _beyond_chance(_by_token(group), _by_token(reference)):
        yield f"the entropy is {own:.2g} nats per token ({other:.2g} at {_name(reference)})"


def _shifted(group: Tally, reference: Tally) -> Iterator[str]:
    """What sharpening or longer thought does as well, and is no collapse where it costs nothing."""
    own, other = (float(np.mean(g.tokens)) for g in (group, reference))
    if other and not 1 / LENGTH < own / other < LENGTH:
        lengths = [
            {problem: float(np.log(max(mean, 1))) for problem, mean in means.items()}
            for means in (g.by_problem(g.tokens) for g in (group, reference))
        ]
        if _beyond_chance(*lengths):
            yield (
                f"responses have {own:.3g} tokens on average ({other:.3g} at {_name(reference)})"
            )
    before, now = reference.entropy, group.entropy
    if now is None or before is None or before < LEAST_ENTROPY or now > SURE * before:
        return
    if _beyond_chance(_by_token(group), _by_token(reference)):
        yield f"the entropy is {now:.2g} nats per token ({before:.2g} at {_name(reference)})"


def _by_token(group: Tally) -> dict[str, float]:
    """The entropy of each problem's responses, nats per token."""
    sums, tokens = group.by_problem(group.logprobs), group.by_problem(group.tokens)
    return {problem: -total / max(tokens[problem], 1) for problem, total in sums.items()}


def _accuracy(group: Tally, reference: Tally) -> tuple[float, float]:
    """95 % interval of the difference in accuracy."""
    own, other = (
        dict(zip(g.correct, g.shares(g.correct), strict=True)) for g in (group, reference)
    )
    return _difference(group, reference, own, other, 0.95)


def _difference(
    group: Tally,
    reference: Tally,
    own: Mapping[str, float],
    other: Mapping[str, float],
    confidence: float,
) -> tuple[float, float]:
    """Interval of the difference of two shares, given by problem.

    Raises:
        PipelineError: the models were not run on the same problems.
    """
    check_same_problems(group, reference)
    samples = max(len(c) for g in (group, reference) for c in g.correct.values())
    ordered = np.array([*own.values()]), np.array([other[problem] for problem in own])
    low, high = difference_interval(*ordered, samples, confidence)
    return float(low), float(high)


def _beyond_chance(own: Mapping[str, float], other: Mapping[str, float]) -> bool:
    """Whether the differences of the problems have one direction."""
    differences = np.array([own[problem] - other[problem] for problem in own])
    moved = differences[np.abs(differences) > 1e-12]
    return sign_flip(moved, RESAMPLES, 0) < 1 - CONFIDENCE


def _name(group: Tally) -> str:
    return str(group.first["model"])


def _percent(share: float) -> str:
    """A share of at least a tenth in whole percent, a smaller one with two digits."""
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"
