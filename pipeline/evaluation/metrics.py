"""What the generations are worth: avg@k, pass@k, maj@k, paired tests, the rows of scores.json.

The unit of uncertainty is the problem: samples of one problem are not independent, so intervals
(intervals.py) and tests are over problems, never over samples.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import PipelineError
from pipeline.evaluation.intervals import difference_interval, score_interval
from pipeline.evaluation.tally import SIGNS, Tally, spent, within
from pipeline.evaluation.voting import distinct_share

Array = NDArray[np.float64]
OPTIONAL = ("method", "step", "alpha", "members", "coefficient_sum")  # what only some models have
CHUNK = 1_000_000  # random numbers held at a time: what fits the cache is fastest


def pass_at_k(n: int, c: int, k: int) -> float:
    """Unbiased probability that at least one of k samples is right, from c right ones of n.

    1 - C(n-c, k) / C(n, k) (Chen et al. 2021, arXiv 2107.03374, section 2.1), as a sum of logs:
    no binomial is formed, so n may be any size and a tiny probability keeps its digits.

    Raises:
        PipelineError: not 1 <= k <= n or not 0 <= c <= n.
    """
    if not (1 <= k <= n and 0 <= c <= n):
        raise PipelineError(f"pass@k: need 1 <= k <= n and 0 <= c <= n, got n={n} c={c} k={k}")
    if n - c < k:
        return 1.0
    if c < k:  # C(n-c, k) / C(n, k) is symmetric in c and k: take the shorter product
        return -math.expm1(float(np.log1p(-k / np.arange(n - c + 1, n + 1)).sum()))
    return -math.expm1(float(np.log1p(-c / np.arange(n - k + 1, n + 1)).sum()))


def paired_difference(
    a: Sequence[float] | Array,
    b: Sequence[float] | Array,
    resamples: int = 10_000,
    seed: int = 0,
    samples: float = math.inf,
) -> dict[str, Any]:
    """mean(a) - mean(b) over the same problems, with an interval and a p-value.

    p: two-sided sign-flip test of "no difference" (the two models are exchangeable within each
    problem), over all flips if there are at most 2**13, else over random ones. It is exact, the
    interval is not: near p = 0.05 the one may show a difference and the other none.

    Args:
        a, b: [problems], in the same order.
        samples: answers of each problem (see `difference_interval`).
        resamples: random flips.

    Returns:
        {"diff", "ci95": [low, high], "p"}.
    """
    one, other = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    low, high = difference_interval(one, other, samples)
    d = one - other
    moved = d[np.abs(d) > 1e-12]  # flipping a zero changes nothing
    p = sign_flip(moved, resamples, seed)
    return {"diff": float(d.mean()), "ci95": [float(low), float(high)], "p": p}


def sign_flip(d: Array, resamples: int, seed: int) -> float:
    """Share of sign assignments whose |sum| is at least the one seen.

    Args:
        d: [problems], paired differences in any unit, none of them zero.
    """
    observed = abs(float(d.sum())) - 1e-9  # equal sums differ by rounding
    if d.size <= 13:
        masks = np.arange(2**d.size)[:, None] >> np.arange(d.size) & 1
        return float((np.abs((1 - 2 * masks) @ d) >= observed).mean())
    rng = np.random.default_rng(seed)
    extreme = 0
    step = max(1, CHUNK // d.size)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        random_bytes = np.frombuffer(rng.bytes(rows * d.size // 8 + 1), dtype=np.uint8)
        flips = np.unpackbits(random_bytes, count=rows * d.size).astype(np.float64)
        flips = flips.reshape(rows, d.size)
        extreme += int((np.abs(d.sum() - 2 * (flips @ d)) >= observed).sum())
    return (extreme + 1) / (resamples + 1)  # the seen assignment is one of them


def mcnemar(a: Sequence[bool], b: Sequence[bool]) -> dict[str, Any]:
    """Exact McNemar test for two greedy runs on the same problems.

    Returns:
        {"only_a", "only_b", "p"}: problems that one alone solves, and the two-sided binomial p.
    """
    pairs = list(zip(a, b, strict=True))
    only_a = sum(x and not y for x, y in pairs)
    only_b = sum(y and not x for x, y in pairs)
    n = only_a + only_b
    tail = sum(math.comb(n, i) for i in range(min(only_a, only_b) + 1))
    return {"only_a": only_a, "only_b": only_b, "p": min(1.0, 2 * tail / 2**n)}


def score_groups(
    groups: Mapping[tuple[str, str, str], Tally],
    *,
    last_rl: str | None = None,
    start: str | None = None,
    chosen: Collection[str] = (),
    pass_k: Sequence[int] = (1,),
    resamples: int = 10_000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """The rows of scores.json: one for each model x task x split.

    Args:
        groups: samples by (model, task, split), as `tally` counts them.
        last_rl: the end of the real RL run; the others are compared with it, problem by problem.
        start: the last checkpoint that extrapolation has seen; compared with likewise.
        chosen: model ids that the validation split selected.
        pass_k: the k of pass@k; those above the number of samples are left out.

    Raises:
        PipelineError: a model and `last_rl` were not run on the same problems, or the problems of
            a model have different numbers of samples (generation is not finished).
    """
    rows = []
    for (model, task, split), group in groups.items():
        row = _score(group, pass_k)
        for key, other in (("diff_to_last_rl", last_rl), ("diff_to_start", start)):
            reference = groups.get((other or "", task, split))
            row[key] = None
            if reference is not None and model != other:
                row[key] = compare(group, reference, resamples, seed)
        rivals = [g for (_, *place), g in groups.items() if place == [task, split]]
        row["maj@budget"] = within(min(map(spent, rivals)), group)
        rows.append({**row, "chosen": model in chosen})
    return rows


def _score(group: Tally, pass_k: Sequence[int]) -> dict[str, Any]:
    """One row, without what needs other models."""
    first = group.first
    counts = {len(samples) for samples in group.correct.values()}
    if len(counts) != 1:
        raise PipelineError(
            f"scores: {first['model']} on {first['task']}/{first['split']} has between "
            f"{min(counts)} and {max(counts)} samples a problem; rerun evaluate to finish it"
        )
    k = counts.pop()
    right = [sum(samples) for samples in group.correct.values()]
    shares = group.shares(group.correct)
    low, high = score_interval(shares, k)
    optional = {key: first[key] for key in OPTIONAL if key in first}
    return {
        "model": first["model"],
        "kind": first["kind"],
        **optional,
        "task": first["task"],
        "split": first["split"],
        "n_problems": len(right),
        "samples_per_problem": k,
        "k": k,
        "avg@k": float(shares.mean()),
        "ci95": [float(low), float(high)],
        "pass@k": {
            str(size): float(np.mean([pass_at_k(k, c, size) for c in right]))
            for size in sorted(set(pass_k))
            if size <= k
        },
        "maj@k": group.majority(k),
        "distinct_share": float(np.mean([distinct_share(p) for p in group.predictions.values()])),
        "entropy": group.entropy,
        "perplexity": group.perplexity,
        "agreement": group.agreement if k > 1 else None,
        "same_answer_share": group.commonest[1],
        **{f"{sign}_share": group.share(sign) for sign in SIGNS},
        "tokens_mean": float(np.mean(group.tokens)),
        "grading_timeouts": group.timeouts,
        "extraction_failures": sum(group.marks["no_answer"]),
        "no_reference": group.no_reference,
    }


def compare(group: Tally, reference: Tally, resamples: int, seed: int) -> dict[str, Any]:
    """Paired difference to the reference; McNemar too where both have one sample a problem."""
    problems = list(group.correct)
    check_same_problems(group, reference)
    a, b = group.shares(problems), reference.shares(problems)
    samples = max(len(g.correct[problem]) for g in (group, reference) for problem in problems)
    result = paired_difference(a, b, resamples, seed, samples)
    if all(len(g.correct[p]) == 1 for g in (group, reference) for p in problems):
        result["mcnemar"] = mcnemar((a == 1).tolist(), (b == 1).tolist())
    return result


def check_same_problems(group: Tally, reference: Tally) -> None:
    """Two models can only be compared problem by problem.

    Raises:
        PipelineError: they were run on different problems.
    """
    if set(group.correct) != set(reference.correct):
        raise PipelineError(
            f"scores: {group.first['model']} and {reference.first['model']} were run on different "
            f"problems of {group.first['task']}/{group.first['split']}; rerun evaluate"
        )
