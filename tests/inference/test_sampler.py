"""The draw: right distribution, right truncation, reproducible streams."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.inference.hf.sampler import HEAD, pick_tokens, stream_states, uniforms
from pipeline.inference.interface import Sampling


def _chi_square(counts: torch.Tensor, probabilities: torch.Tensor) -> float:
    expected = probabilities * counts.sum()
    kept = expected > 0
    assert counts[~kept].sum() == 0
    return float(((counts - expected)[kept] ** 2 / expected[kept]).sum())


def _draw_many(logits: torch.Tensor, sampling: Sampling, rows: int) -> torch.Tensor:
    """Counts [vocabulary] of `rows` draws with uniforms of different streams."""
    streams = stream_states(3, np.arange(rows, dtype=np.uint64), np.zeros(rows, dtype=np.uint64))
    uniform = torch.from_numpy(uniforms(streams, np.zeros(rows, dtype=np.int64)))
    tokens, _ = pick_tokens(logits.expand(rows, -1), uniform, sampling)
    return torch.bincount(tokens, minlength=logits.shape[-1]).double()


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=0.6, top_p=0.95),
        Sampling(top_k=3),
        Sampling(top_k=6, top_p=0.8),
    ],
)
def test_draws_follow_the_truncated_softmax(sampling: Sampling) -> None:
    """A wrong temperature, an off-by-one in top-k or top-p, or a biased random number."""
    logits = torch.randn(12, generator=torch.Generator().manual_seed(0)) * 2
    probabilities = (logits.double() / sampling.temperature).softmax(0)
    order = probabilities.argsort(descending=True).tolist()
    kept = order[: sampling.top_k or None]
    mass = sum(float(probabilities[i]) for i in kept)
    held, nucleus = 0.0, []
    for index in kept:
        if held >= sampling.top_p:
            break
        nucleus.append(index)
        held += float(probabilities[index]) / mass
    wanted = torch.zeros(12, dtype=torch.float64)
    wanted[nucleus] = probabilities[nucleus] / probabilities[nucleus].sum()
    counts = _draw_many(logits, sampling, 40_000)
    assert _chi_square(counts, wanted) < 31.3  # chi-square of 11 degrees, p = 0.001


def test_top_p_of_a_flat_vocabulary_looks_past_the_head() -> None:
    """A nucleus cut at the tokens that the fast path sorts."""
    vocabulary = 2 * HEAD
    counts = _draw_many(torch.zeros(vocabulary), Sampling(top_p=0.9), 60_000)
    assert int((counts > 0).sum()) == pytest.approx(0.9 * vocabulary, abs=1)


def test_greedy_takes_the_largest() -> None:
    """Temperature 0 divided by."""
    logits = torch.tensor([[0.0, 3.0, 2.0], [5.0, 3.0, 2.0]])
    uniform = torch.tensor([0.99, 0.99], dtype=torch.float64)
    assert pick_tokens(logits, uniform, Sampling(temperature=0))[0].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(temperature=0.5), [0, 1, 2, 3]),
        (Sampling(top_k=2), [1, 3]),
        (Sampling(top_p=0.8), [1, 3]),
    ],
)
def test_logprobs_are_of_what_was_drawn_from(sampling: Sampling, kept: list[int]) -> None:
    """Log-probs before the temperature, or with the tail that was cut off: a wrong entropy."""
    logits = torch.tensor([0.5, 2.0, -1.0, 1.5])
    uniform = torch.from_numpy(np.linspace(0, 1, 50, endpoint=False))
    tokens, logprobs = pick_tokens(logits.expand(50, -1), uniform, sampling)
    left = torch.full((4,), -torch.inf).double()
    left[kept] = logits.double()[kept] / sampling.temperature
    torch.testing.assert_close(logprobs, left.log_softmax(0)[tokens])
    greedy = pick_tokens(logits.expand(50, -1), uniform, Sampling(temperature=0))[1]
    assert greedy.tolist() == [0.0] * 50


def test_impossible_tokens_are_never_drawn() -> None:
    """u = 0 or the largest u that lands on a token of probability zero."""
    logits = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]]).expand(2, -1)
    uniform = torch.tensor([0.0, 1 - 2.0**-52], dtype=torch.float64)
    assert pick_tokens(logits, uniform, Sampling())[0].tolist() == [1, 2]


def test_streams_differ_by_seed_key_sample_and_position() -> None:
    """Two responses that share their random numbers, or numbers that are not uniform."""
    rows = 4000
    keys = np.arange(rows, dtype=np.uint64)
    zeros = np.zeros(rows, dtype=np.uint64)
    start = np.zeros(rows, dtype=np.int64)
    base = uniforms(stream_states(1, keys, zeros), start)
    others = [
        uniforms(stream_states(2, keys, zeros), start),
        uniforms(stream_states(1, keys, zeros + np.uint64(1)), start),
        uniforms(stream_states(1, keys, zeros), start + 1),
    ]
    assert base.min() >= 0
    assert base.max() < 1
    assert len(np.unique(np.concatenate([base, *others]))) == 4 * rows
    assert abs(base.mean() - 0.5) < 4 / np.sqrt(12 * rows)
    for other in others:
        assert abs(np.corrcoef(base, other)[0, 1]) < 4 / np.sqrt(rows)
