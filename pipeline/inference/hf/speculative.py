"""Logit extrapolation below the cost of two models: speculative sampling, exact for the mixture.

l1, the later model, is needed at every token. Here it runs ahead on its own for k tokens; l0, the
earlier one, then reads those k tokens in one pass, which on hardware bound by reading weights costs
about as much as one token; and the drafted tokens are kept as far as the mixture
l0 + α (l1 - l0) agrees (rejection sampling: Leviathan, Kalman, Matias 2023; Chen et al. 2023).

Exactness. Let q be l1's distribution at a position and p the mixture's, both after temperature,
top-k and top-p. x ~ q is accepted with probability min(1, p(x) / q(x)), else replaced by a draw
from max(p - q, 0), scaled to 1: the outcome follows p. The three random numbers of a position
depend on (seed, key, sample, position) alone, so the token there is a function of the text before
it and of numbers that nothing before it has used, whatever the pass it was drafted in. Hence not
only is the distribution that of lockstep; the response itself does not depend on k, on the batch,
or on where a round begins. (It is another draw than lockstep's from the same seed, but for greedy
decoding and α = 1.)

Cost, in passes over one token: lockstep takes 2 a token; a round here takes k + c, c the cost of
l0's pass over k tokens, and yields the accepted tokens up to k, the replacement included. If each
is accepted with probability β, that is (1 - β^k) / (1 - β) tokens: at most 2k / (k + c) times
lockstep's speed, so below 2 for every k. `docs/logit_extrap.md` has the figures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import PipelineError
from pipeline.inference.hf.engine import Group, HFEngine
from pipeline.inference.hf.sampler import draw_tokens, kept_tokens, uniforms
from pipeline.inference.interface import Generation, Sampling

BRANCH = 1 << 40  # the random numbers of a position lie this far apart in a response's stream
DRAW, ACCEPT, REPLACE = range(3)
BUSY_ROWS = 16  # with more rows than this in decoding a pass over k tokens is no bargain


@dataclass
class Draft:
    """What the second model proposes in one round.

    Attributes:
        tokens: int64 [rows, k], the proposals.
        logits: the second model's at each of them, [rows, k, vocabulary].
        probabilities: fp32 of the same shape, what the proposals were drawn from; None if greedy.
    """

    tokens: torch.Tensor
    logits: torch.Tensor
    probabilities: torch.Tensor | None


def spread(weights: torch.Tensor, ids: torch.Tensor | None, vocabulary: int) -> torch.Tensor:
    """Weights of kept tokens (`sampler.kept_tokens`) as probabilities [rows, vocabulary]."""
    if ids is None:
        return weights  # a whole softmax
    weights = weights / weights.sum(dim=-1, keepdim=True)
    return weights.new_zeros(len(weights), vocabulary).scatter_(1, ids, weights)


def judge(
    draft: Draft, mixed: torch.Tensor, uniform: torch.Tensor, sampling: Sampling
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Which proposals stand, and what follows them.

    Args:
        draft: the proposals.
        mixed: the mixture's logits at each of them, fp32 [rows, k, vocabulary].
        uniform: float64 [2, rows, k], for the verdicts and for the replacements.
        sampling: as in lockstep.

    Returns:
        Tokens int64 [rows, k], where the first proposal that falls is replaced (what follows it
        means nothing); log p of each under what the mixture is drawn from, fp64 [rows, k]; and the
        number of proposals before the one that falls, int64 [rows], 0 to k.
    """
    rows, k = draft.tokens.shape
    if draft.probabilities is None:
        best = mixed.argmax(dim=-1)
        accepted = (best == draft.tokens).long().cumprod(dim=1).sum(dim=1)
        top = mixed.gather(2, best[..., None])[..., 0].double()
        return best, top - top, accepted  # 0, and NaN of what is not finite
    q = draft.probabilities
    vocabulary = mixed.shape[-1]
    p = spread(*kept_tokens(mixed.flatten(0, 1), sampling), vocabulary).view(rows, k, vocabulary)
    proposed = draft.tokens[..., None]
    stands = uniform[0] * q.gather(2, proposed)[..., 0] < p.gather(2, proposed)[..., 0]
    accepted = stands.long().cumprod(dim=1).sum(dim=1)
    tokens = draft.tokens.clone()
    fallen = (accepted < k).nonzero()[:, 0]
    if len(fallen):
        at = accepted[fallen]
        wanted, offered = p[fallen, at], q[fallen, at]
        missing = (wanted - offered).clamp_(min=0)
        # p = q but for rounding: nothing is missing, and any draw from p is right
        missing = torch.where(missing.sum(dim=-1, keepdim=True) > 0, missing, wanted)
        tokens[fallen, at], _ = draw_tokens(missing, None, uniform[1, fallen, at])
    return tokens, p.gather(2, tokens[..., None])[..., 0].double().log(), accepted


class HFSpeculativeEngine(HFEngine):
    """Engine (see `engine.Engine`) for l0 + α (l1 - l0) in which l1 drafts for both.

    Attributes:
        length: tokens drafted in a round. While more than `BUSY_ROWS` rows are in decoding it is
            one, which costs what lockstep costs and gives the same responses.
        statistics: since the start, proposals `drafted` (those past a response's end not
            counted) and of them `accepted`; `rejected`, those that were judged and replaced;
            `rounds`, summed over rows.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        coefficients: Sequence[float],
        *,
        length: int,
        **options: Any,
    ) -> None:
        if length < 1:
            raise PipelineError(f"speculative={length}: draft at least 1 token, or 0 for lockstep")
        super().__init__(folders, coefficients, **options)
        self.length = length
        self.statistics = {"drafted": 0, "accepted": 0, "rejected": 0, "rounds": 0}

    @torch.inference_mode()
    def _advance(self, group: Group, sampling: Sampling) -> Iterator[Generation]:
        """One round: draft, read, judge; every row moves on by one token or more."""
        rows = group.rows
        if not rows.mergeable:
            raise PipelineError(
                "speculative: this architecture's caches cannot be rolled back (sliding windows "
                "or linear state); set speculative to 0"
            )
        device = self.mixture.device
        length = self.length if len(rows) <= BUSY_ROWS else 1
        length = min(length, sampling.max_tokens - int(group.counts.min()))
        last = group.last().to(device)
        draft = self._draft(group, last, length, sampling)
        k = draft.tokens.shape[1]
        ids = torch.cat([last[:, None], draft.tokens[:, :-1]], dim=1)
        positions = rows.positions[:, None] + torch.arange(k, device=device)
        logits = self.mixture.model_logits(0, ids, positions, rows.seen, rows.caches[0], k)
        mixed = self.mixture.combine([logits, draft.logits])
        uniform = torch.stack(
            [self._uniform(group, branch, np.arange(k)) for branch in (ACCEPT, REPLACE)]
        )
        tokens, logprobs, accepted = judge(draft, mixed, uniform, sampling)
        rows.rollback(k, (accepted + 1).clamp(max=k))
        stopped = self._append(
            group,
            tokens.cpu().numpy(),
            logprobs.cpu().numpy(),
            accepted.cpu().numpy(),
            sampling,
        )
        yield from self._retire(group, stopped, sampling)

    def _draft(self, group: Group, last: torch.Tensor, length: int, sampling: Sampling) -> Draft:
        """Let the second model write `length` tokens, or fewer where every row's text ends."""
        rows = group.rows
        stops = torch.from_numpy(self.stops).to(last.device)
        ended = torch.zeros(len(rows), dtype=torch.bool, device=last.device)
        tokens, parts, probabilities = [], [], []
        for ahead in range(length):
            rows.mask = torch.cat([rows.mask, rows.mask.new_ones(len(rows), 1)], dim=1)
            positions = rows.positions[:, None] + ahead
            raw = self.mixture.model_logits(1, last[:, None], positions, rows.seen, rows.caches[1])[
                :, -1
            ]
            logits = raw.float()
            if sampling.temperature == 0:
                last = logits.argmax(dim=-1)
            else:
                weights, ids = kept_tokens(logits, sampling)
                places = self._uniform(group, DRAW, np.array([ahead]))[:, 0]
                last, _ = draw_tokens(weights, ids, places)
                probabilities.append(spread(weights, ids, logits.shape[-1]))
            tokens.append(last)
            parts.append(raw)
            ended |= torch.isin(last, stops)
            if bool(ended.all()):
                break
        return Draft(
            torch.stack(tokens, dim=1),
            torch.stack(parts, dim=1),
            torch.stack(probabilities, dim=1) if probabilities else None,
        )

    def _uniform(self, group: Group, branch: int, ahead: NDArray[np.int64]) -> torch.Tensor:
        """Random numbers of one branch at the positions `ahead` of each row: [rows, ahead]."""
        places = group.counts[:, None] + ahead + branch * BRANCH
        numbers = uniforms(group.streams[:, None], places)
        return torch.from_numpy(numbers).to(self.mixture.device)

    def _append(
        self,
        group: Group,
        tokens: NDArray[np.int64],
        logprobs: NDArray[np.float64],
        accepted: NDArray[np.int64],
        sampling: Sampling,
    ) -> NDArray[np.bool_]:
        """Write each row's new tokens up to its end and count them; which rows have stopped."""
        k = tokens.shape[1]
        stopped = np.zeros(len(tokens), dtype=bool)
        for row, (line, stand) in enumerate(zip(tokens, accepted.tolist(), strict=True)):
            start = int(group.counts[row])
            new = line[: min(stand + 1, k, sampling.max_tokens - start)]
            ends = np.flatnonzero(np.isin(new, self.stops))
            if len(ends):
                new, stopped[row] = new[: ends[0] + 1], True
            group.tokens[row, start : start + len(new)] = new
            group.counts[row] += len(new)
            group.logprobs[row] += logprobs[row, : len(new)].sum()
            rejected = int(len(new) > stand)
            finished = stopped[row] or group.counts[row] >= sampling.max_tokens
            self.statistics["drafted"] += len(new) if finished else k
            self.statistics["accepted"] += len(new) - rejected
            self.statistics["rejected"] += rejected
            self.statistics["rounds"] += 1
        return stopped
