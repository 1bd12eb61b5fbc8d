"""Scores against closed forms and brute force."""

import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import PipelineError
from pipeline.evaluation.metrics import (
    mcnemar,
    paired_difference,
    pass_at_k,
    score_groups,
)
from pipeline.evaluation.tally import tally
from pipeline.evaluation.voting import distinct_share, majority, majority_of


def score_rows(
    generations: list[dict[str, Any]], grades: list[dict[str, Any]], **how: Any
) -> list[dict[str, Any]]:
    return score_groups(tally(generations, grades), **how)


@pytest.mark.parametrize("n", [1, 2, 5, 6])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(n: int) -> None:
    """Catches a biased estimator: every subset of every case is listed."""
    for c in range(n + 1):
        samples = [True] * c + [False] * (n - c)
        for k in range(1, n + 1):
            subsets = [any(s) for s in itertools.combinations(samples, k)]
            assert pass_at_k(n, c, k) == pytest.approx(sum(subsets) / len(subsets), abs=1e-12)


@given(data=st.data())
def test_pass_at_k_is_exact_for_large_n(data: st.DataObject) -> None:
    """Catches overflow and cancellation, against exact rational arithmetic."""
    n = data.draw(st.integers(1, 3000))
    c = data.draw(st.integers(0, n))
    k = data.draw(st.integers(1, n))
    exact = 1 - Fraction(math.comb(n - c, k), math.comb(n, k))
    assert pass_at_k(n, c, k) == pytest.approx(float(exact), rel=1e-9)


def test_pass_at_k_keeps_small_probabilities_of_huge_runs() -> None:
    """Catches 1 - (1 - tiny) = 0: one right sample of 10^6 at k = 1 is 10^-6."""
    assert pass_at_k(1_000_000, 1, 1) == pytest.approx(1e-6, rel=1e-9)
    assert pass_at_k(1_000_000, 1, 1000) == pytest.approx(1e-3, rel=1e-9)
    assert pass_at_k(1_000_000, 999_999, 2) == 1.0


@pytest.mark.parametrize(("n", "c", "k"), [(4, 1, 5), (4, 5, 1), (4, 1, 0), (0, 0, 1), (4, -1, 1)])
def test_pass_at_k_refuses_nonsense(n: int, c: int, k: int) -> None:
    """Catches a silent number for k above n."""
    with pytest.raises(PipelineError, match=r"pass@k"):
        pass_at_k(n, c, k)


MAJORITY_CASES = [
    (["4", "4", "5"], [True, True, False], 1.0),
    (["5", "5", "4"], [False, False, True], 0.0),
    (["5", "4"], [False, True], 0.5),
    (["5", "6", "4"], [False, False, True], 1 / 3),
    (["0.5", "1/2", "7", "7", "8"], [True, True, False, False, False], 0.5),
    ([None, None, "4"], [False, False, True], 1.0),
    ([None, None], [False, False], 0.0),
]


@pytest.mark.parametrize(("predictions", "correct", "expected"), MAJORITY_CASES)
def test_majority(predictions: list[str | None], correct: list[bool], expected: float) -> None:
    """Catches votes by samples without an answer, unfair ties, equal answers split by spelling."""
    assert majority(predictions, correct) == pytest.approx(expected)


def test_a_vote_of_fewer_samples_is_the_mean_over_blocks() -> None:
    """A vote on a budget that looks at all samples after all, or at the first ones only."""
    predictions, correct = ["4", "4", "5", "5", "5"], [True, True, False, False, False]
    assert majority_of(5, predictions, correct) == 0.0
    assert majority_of(2, predictions, correct) == 0.5
    assert majority_of(1, predictions, correct) == pytest.approx(0.4)
    assert distinct_share(["0.5", "1/2", None, "7"]) == 0.75


def test_entropy_and_the_vote_on_a_budget() -> None:
    """Entropy per response instead of per token; a mixture that votes with twice the tokens."""
    rows = [
        {"model": model, "kind": kind, "task": "t", "split": "test", "problem_id": "p"}
        | {"sample": n, "tokens": 10, "finish_reason": "stop", "logprob": -2.0 - n, "alpha": 2.0}
        for model, kind in (("rl-1", "rl"), ("logit-2", "logit"))
        for n in range(4)
    ]
    grades = [{"correct": n % 4 < 2, "status": "ok", "prediction": str(n % 4)} for n in range(8)]
    one, mixture = score_rows(rows, grades, resamples=10)
    assert one["entropy"] == pytest.approx((2 + 3 + 4 + 5) / 40)
    assert one["maj@budget"] == {"m": 4, "tokens": 40.0, "value": 1.0}
    assert mixture["maj@budget"] == {"m": 2, "tokens": 40.0, "value": 0.5}
    assert one["distinct_share"] == 1.0
    del rows[0]["logprob"]
    assert score_rows(rows, grades, resamples=10)[0]["entropy"] is None


def test_paired_difference_uses_the_pairing() -> None:
    """Catches an unpaired test: a constant small gain over noisy problems is certain."""
    noise = np.random.default_rng(0).random(200)
    result = paired_difference(noise + 0.01, noise)
    assert result["diff"] == pytest.approx(0.01)
    assert result["ci95"] == pytest.approx([0.01, 0.01])
    assert result["p"] < 1e-3


def test_sign_flip_p_is_exact_for_few_problems() -> None:
    """Catches a one-sided or uncorrected p: all 2^5 sign assignments are listed here too."""
    d = np.array([0.3, 0.1, -0.2, 0.4, 0.25])
    flips = [abs(sum(s * d)) for s in itertools.product((1, -1), repeat=5)]
    expected = np.mean(np.array(flips) >= abs(d.sum()) - 1e-12)
    assert paired_difference(d, np.zeros(5))["p"] == pytest.approx(expected)
    assert paired_difference([0.5, 0.5], [0.5, 0.5])["p"] == 1.0


def test_random_sign_flips_agree_with_the_binomial() -> None:
    """Catches a wrong random path: for +-1 differences the test is the sign test."""
    d = np.array([1.0] * 14 + [-1.0] * 6)
    expected = 2 * sum(math.comb(20, i) for i in range(7)) / 2**20
    p = paired_difference(d, np.zeros(20), resamples=100_000)["p"]
    assert p == pytest.approx(expected, abs=0.005)


def test_p_values_are_uniform_when_nothing_differs() -> None:
    """Catches a test that finds differences by itself: 5 % of null comparisons at p < 0.05."""
    rng = np.random.default_rng(0)
    ps = [paired_difference(rng.random(30), rng.random(30), resamples=400)["p"] for _ in range(400)]
    assert 0.02 < np.mean(np.array(ps) < 0.05) < 0.085


def test_mcnemar_matches_the_binomial() -> None:
    """Catches counting problems that both or neither solve; p from the textbook sum."""
    a = [True] * 9 + [False] * 2 + [True] * 5 + [False] * 4
    b = [False] * 9 + [True] * 2 + [True] * 5 + [False] * 4
    expected = 2 * sum(math.comb(11, i) for i in range(3)) / 2**11
    assert mcnemar(a, b) == {"only_a": 9, "only_b": 2, "p": pytest.approx(expected)}
    assert mcnemar([True], [True])["p"] == 1.0


Rows = tuple[list[dict[str, Any]], list[dict[str, Any]]]


def run(model: str, right: dict[str, list[bool]], **more: Any) -> Rows:
    rows, grades = [], []
    for problem, samples in right.items():
        for sample, correct in enumerate(samples):
            rows.append(
                {
                    "task": "t",
                    "split": "test",
                    "problem_id": problem,
                    "sample": sample,
                    "model": model,
                    "kind": "rl",
                    "tokens": 10 + sample,
                    "finish_reason": "length" if sample else "stop",
                    **more,
                }
            )
            grades.append({"correct": correct, "status": "ok", "prediction": str(correct)})
    return rows, grades


def merge(*runs: Rows) -> Rows:
    return [r for rows, _ in runs for r in rows], [g for _, grades in runs for g in grades]


def test_score_rows_hold_the_hand_computed_figures() -> None:
    """Catches mixed-up models, a difference with the wrong sign, statuses counted as wrong."""
    last = run("rl-600", {"a": [True, False], "b": [False, False]})
    other = run("logit-1.5", {"b": [True, False], "a": [True, True]}, alpha=1.5, step=900)
    other[1][1]["status"] = "timeout"
    other[1][2]["status"] = "no_answer"
    rows, grades = merge(last, other)
    scores = score_rows(rows, grades, last_rl="rl-600", chosen=["logit-1.5"], pass_k=(1, 2, 4))
    assert [s["model"] for s in scores] == ["rl-600", "logit-1.5"]
    rl, logit = scores
    assert (rl["avg@k"], rl["k"], rl["n_problems"]) == (0.25, 2, 2)
    assert rl["pass@k"] == {"1": pytest.approx(0.25), "2": pytest.approx(0.5)}
    assert rl["maj@k"] == pytest.approx(0.25)
    assert rl["diff_to_last_rl"] is None
    assert not rl["chosen"]
    assert "alpha" not in rl
    assert logit["diff_to_last_rl"]["diff"] == pytest.approx(0.5)
    assert (logit["alpha"], logit["step"], logit["chosen"]) == (1.5, 900, True)
    assert (logit["grading_timeouts"], logit["extraction_failures"]) == (1, 1)
    assert (logit["truncated_share"], logit["tokens_mean"]) == (0.5, 10.5)
    assert rl["ci95"][0] <= rl["avg@k"] <= rl["ci95"][1]
    assert "mcnemar" not in logit["diff_to_last_rl"]


def test_greedy_runs_get_mcnemar() -> None:
    """Catches its loss, and its use where samples are many."""
    rows, grades = merge(
        run("rl-1", {"a": [True], "b": [False]}), run("w", {"a": [False], "b": [False]})
    )
    (_, w) = score_rows(rows, grades, last_rl="rl-1")
    assert w["diff_to_last_rl"]["mcnemar"] == {"only_a": 0, "only_b": 1, "p": 1.0}


def test_unfinished_or_unequal_runs_are_errors() -> None:
    """Catches averages over half a run and pairs of different problems."""
    half = run("m", {"a": [True, True], "b": [True]})
    with pytest.raises(PipelineError, match="between 1 and 2 samples"):
        score_rows(*half)
    rows, grades = merge(run("rl-1", {"a": [True]}), run("m", {"b": [True]}))
    with pytest.raises(PipelineError, match="different problems"):
        score_rows(rows, grades, last_rl="rl-1")
