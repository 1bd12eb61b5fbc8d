"""From logits to the next token, reproducibly.

The random number behind a token depends on (seed, prompt key, sample number, position) alone, by
a counter-based hash, not on a generator's state. So a response does not depend on which others
share its batch, an interrupted run resumes with the responses it would have made, and two models
that are compared see the same random numbers (common random numbers: a paired difference with
less noise). One uniform number is turned into a token by the inverse of the cumulative
distribution, so the cost does not grow with the vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.inference.interface import Sampling

HEAD = 256  # tokens looked at before a full sort for top-p

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MASK = (1 << 64) - 1


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Finaliser of splitmix64 (Steele, Lea, Flood 2014): each input bit reaches each output bit."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def stream_states(
    seed: int, keys: NDArray[np.uint64], samples: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    """Start state of each response's random stream, uint64 [rows], from its key and sample."""
    state = _mix(np.full(len(keys), seed & _MASK, dtype=np.uint64) + _GOLDEN)
    state = _mix((state ^ keys) + _GOLDEN)
    return _mix((state ^ samples) + _GOLDEN)


def uniforms(states: NDArray[np.uint64], positions: NDArray[np.int64]) -> NDArray[np.float64]:
    """The `positions`-th number of each stream: float64 [rows] in [0, 1), 52 random bits."""
    bits = _mix(states + (positions.astype(np.uint64) + np.uint64(1)) * _GOLDEN)
    return (bits >> np.uint64(12)).astype(np.float64) * 2.0**-52


def _draw(weights: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Index drawn from each row of non-negative weights [rows, k] by uniform [rows] -> [rows].

    The index is the first whose cumulative weight exceeds u × total; such an index has a positive
    weight, since u has 52 bits and u × total is below the total.
    """
    cumulative = weights.double().cumsum(dim=-1)
    target = uniform[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True)[:, 0].clamp_(max=weights.shape[1] - 1)


def _most_probable(scaled: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities (descending, fp32 [rows, k]) and token ids that top-k and top-p can keep."""
    vocabulary = scaled.shape[-1]
    if sampling.top_k:
        values, ids = scaled.topk(min(sampling.top_k, vocabulary), dim=-1)
        return values.softmax(dim=-1), ids
    # Sorting a whole vocabulary costs more than a small model: mostly the head holds top_p.
    log_total = scaled.logsumexp(dim=-1, keepdim=True)
    values, ids = scaled.topk(min(HEAD, vocabulary), dim=-1)
    probabilities = (values - log_total).exp()
    if ids.shape[-1] < vocabulary and bool((probabilities.sum(dim=-1) <= sampling.top_p).any()):
        values, ids = scaled.sort(dim=-1, descending=True)
        probabilities = (values - log_total).exp()
    return probabilities, ids


def kept_tokens(
    logits: torch.Tensor, sampling: Sampling
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What temperature, top-k and top-p, in this order as in vLLM and HF, leave of a distribution.

    Args:
        logits: fp32 [rows, vocabulary].
        sampling: with a temperature above 0.

    Returns:
        Weights fp32 [rows, kept], zero where a token is cut off, their sum not always 1; and the
        tokens' ids int64 [rows, kept], None where all are there in order.
    """
    scaled = logits / sampling.temperature
    if sampling.top_k == 0 and sampling.top_p == 1:
        return scaled.softmax(dim=-1), None
    probabilities, ids = _most_probable(scaled, sampling)
    if sampling.top_p < 1:
        # a token stays if those before it hold less than top_p: the first always stays
        before = probabilities.cumsum(dim=-1) - probabilities
        probabilities = probabilities.where(before < sampling.top_p, 0)
    return probabilities, ids


def draw_tokens(
    weights: torch.Tensor, ids: torch.Tensor | None, uniform: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token of each row drawn from what `kept_tokens` left by uniform [rows].

    Returns:
        Tokens int64 [rows], and the logarithms of their probabilities there, fp64 [rows].
    """
    index = _draw(weights, uniform)[:, None]
    logprobs = (weights.gather(1, index)[:, 0].double() / weights.double().sum(dim=-1)).log()
    return (index if ids is None else ids.gather(1, index))[:, 0], logprobs


def pick_tokens(
    logits: torch.Tensor, uniform: torch.Tensor, sampling: Sampling
) -> tuple[torch.Tensor, torch.Tensor]:
    """Next token of each row.

    Args:
        logits: fp32 [rows, vocabulary].
        uniform: float64 [rows] in [0, 1).
        sampling: greedy, or see `kept_tokens`.

    Returns:
        Tokens int64 [rows], and log q of each, fp64 [rows]: q is what was drawn from (greedy: 0);
        NaN where the logits are NaN or infinite.
    """
    if sampling.temperature == 0:
        tokens = logits.argmax(dim=-1)
        best = logits.gather(1, tokens[:, None])[:, 0].double()
        return tokens, best - best  # 0, and NaN of what is not finite
    return draw_tokens(*kept_tokens(logits, sampling), uniform)
