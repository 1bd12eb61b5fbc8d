"""The HF transformers engine: batched decoding with finished rows leaving and waiting ones joining.

It runs wherever torch runs, takes any causal language model, and is the check on the vLLM engine.
A prompt is read once and its cache shared out to its samples; rows that finish leave the batch at
once, and waiting prompts join when half of it is free.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer

from pipeline.errors import PipelineError
from pipeline.hardware import give_back_memory
from pipeline.inference.device import parse_dtype, pick_device, set_threads
from pipeline.inference.hf.mixture import Mixture, Rows, merge, prefill
from pipeline.inference.hf.sampler import pick_tokens, stream_states, uniforms
from pipeline.inference.interface import (
    FinishReason,
    Generation,
    Sampling,
    Source,
    check_coefficients,
    check_prompts,
    check_source,
)

SCORE_ELEMENTS = 1 << 27  # logits held at once while scoring: 512 MiB in fp32
PER_ROW = ("prompts", "samples", "streams", "tokens", "counts", "logprobs")  # of a group


def stop_tokens(model: Any, tokenizer: Any) -> list[int]:
    """End-of-text ids: the generation config's, and the tokenizer's where that has none."""
    ids = model.generation_config.eos_token_id
    if ids is None:
        ids = tokenizer.eos_token_id
    if ids is None:
        return []
    return list(ids) if isinstance(ids, (list, tuple)) else [int(ids)]


@dataclass
class Group:
    """Rows in decoding with what the responses look like so far.

    Attributes:
        rows: model-side state.
        prompts, samples: int64 [rows], which response each row is.
        streams: uint64 [rows], random stream of each.
        tokens: int64 [rows, max_tokens].
        counts: int64 [rows], tokens drawn so far.
        logprobs: float64 [rows], Σ log q of those tokens (see `Generation.logprob`).
    """

    rows: Rows
    prompts: NDArray[np.int64]
    samples: NDArray[np.int64]
    streams: NDArray[np.uint64]
    tokens: NDArray[np.int64]
    counts: NDArray[np.int64]
    logprobs: NDArray[np.float64]

    def keep(self, index: NDArray[np.int64]) -> None:
        """Drop all rows but `index`."""
        self.rows.select(torch.from_numpy(index).to(self.rows.mask.device))
        for name in PER_ROW:
            setattr(self, name, getattr(self, name)[index])

    def join(self, other: Group) -> Group:
        """Both groups as one."""
        pairs = {name: (getattr(self, name), getattr(other, name)) for name in PER_ROW}
        arrays = {name: np.concatenate(pair) for name, pair in pairs.items()}
        return Group(merge(self.rows, other.rows), **arrays)

    def last(self) -> torch.Tensor:
        """The newest token of each row: int64 [rows]."""
        return torch.from_numpy(self.tokens[np.arange(len(self.counts)), self.counts - 1])


class HFEngine:
    """Engine (see `engine.Engine`) over transformers models whose logits are mixed."""

    def __init__(
        self,
        folders: Sequence[Path],
        coefficients: Sequence[float],
        *,
        dtype: str = "float32",
        batch_size: int = 256,
        device: str | None = None,
        threads: int | None = None,
        tokenizer: Path | None = None,
        ends: Sequence[int] | None = None,
    ) -> None:
        set_threads(threads)
        self.batch_size = batch_size
        self.mixture = Mixture(folders, coefficients, parse_dtype(dtype), pick_device(device))
        place = folders[-1] if tokenizer is None else tokenizer
        self.tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=True)
        if ends is None:
            ends = stop_tokens(self.mixture.models[-1], self.tokenizer)
        self.stops = np.array(ends, dtype=np.int64)
        self._texts: dict[tuple[int, ...], str] = {}

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        keys: Sequence[int] | None = None,
        samples: Sequence[Sequence[int]] | None = None,
    ) -> Iterator[Generation]:
        """See `Engine.generate`. Draws depend on (seed, key, sample, position) alone."""
        check_prompts(prompts)
        keys = range(len(prompts)) if keys is None else keys
        waiting = deque(
            (index, sample)
            for index in range(len(prompts))
            for sample in (range(sampling.n) if samples is None else samples[index])
        )
        group: Group | None = None
        while waiting or group is not None:
            running = 0 if group is None else len(group.rows)
            room = group is None or (running <= self.batch_size // 2 and group.rows.mergeable)
            if waiting and room:
                taken = [
                    waiting.popleft() for _ in range(min(len(waiting), self.batch_size - running))
                ]
                fresh, logits = self._admit(prompts, keys, taken, sampling)
                yield from self._accept(fresh, logits, sampling)
                if len(fresh.rows):
                    group = fresh if group is None else group.join(fresh)
            elif group is not None:
                yield from self._advance(group, sampling)
                if not len(group.rows):
                    group = None

    def _admit(
        self,
        prompts: Sequence[Sequence[int]],
        keys: Sequence[int],
        taken: Sequence[tuple[int, int]],
        sampling: Sampling,
    ) -> tuple[Group, torch.Tensor]:
        """Prefill the (prompt, sample) pairs `taken`, each prompt once; logits [rows, vocab]."""
        pairs = np.array(taken, dtype=np.int64)
        unique, counts = np.unique(pairs[:, 0], return_counts=True)  # pairs come in prompt order
        rows, logits = prefill(self.mixture, [prompts[i] for i in unique], counts.tolist())
        row_keys = np.array([keys[i] % (1 << 64) for i in pairs[:, 0]], dtype=np.uint64)
        streams = stream_states(sampling.seed, row_keys, pairs[:, 1].astype(np.uint64))
        tokens = np.zeros((len(pairs), sampling.max_tokens), dtype=np.int64)
        counts, logprobs = np.zeros(len(pairs), dtype=np.int64), np.zeros(len(pairs))
        group = Group(rows, pairs[:, 0], pairs[:, 1], streams, tokens, counts, logprobs)
        return group, logits

    def _advance(self, group: Group, sampling: Sampling) -> Iterator[Generation]:
        """Decode the next token of every row."""
        logits = group.rows.step(self.mixture, group.last().to(self.mixture.device))
        yield from self._accept(group, logits, sampling)

    def _accept(
        self, group: Group, logits: torch.Tensor, sampling: Sampling
    ) -> Iterator[Generation]:
        """Draw each row's next token and yield the rows that it finishes."""
        uniform = torch.from_numpy(uniforms(group.streams, group.counts)).to(logits.device)
        tokens, logprobs = pick_tokens(logits, uniform, sampling)
        drawn = tokens.cpu().numpy()
        group.logprobs += logprobs.cpu().numpy()
        group.tokens[np.arange(len(drawn)), group.counts] = drawn
        group.counts += 1
        yield from self._retire(group, np.isin(drawn, self.stops), sampling)

    def _retire(
        self, group: Group, stopped: NDArray[np.bool_], sampling: Sampling
    ) -> Iterator[Generation]:
        """Let rows that have stopped or are full leave the group, and yield them."""
        finished = stopped | (group.counts >= sampling.max_tokens)
        if not finished.any():
            return
        done = np.flatnonzero(finished)
        found = list(
            zip(
                group.prompts[done].tolist(),
                group.samples[done].tolist(),
                (tuple(group.tokens[i, : group.counts[i]].tolist()) for i in done),
                stopped[done].tolist(),
                group.logprobs[done].tolist(),
                strict=True,
            )
        )
        group.keep(np.flatnonzero(~finished))
        for prompt, sample, ids, stop, logprob in found:
            reason: FinishReason = "stop" if stop else "length"
            text = self._text(ids[:-1] if stop else ids)
            yield Generation(prompt, sample, ids, text, reason, logprob)

    def _text(self, ids: tuple[int, ...]) -> str:
        """Decoded tokens; short responses are remembered, since small tasks repeat them often."""
        text = self._texts.get(ids)
        if text is None:
            text = str(self.tokenizer.decode(list(ids), skip_special_tokens=True))
            if len(ids) <= 8:
                self._texts[ids] = text
        return text

    def score(
        self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """See `Engine.score`: teacher-forced, padded on the right, fp32 log-softmax."""
        check_prompts(prompts)
        order = sorted(
            range(len(prompts)), key=lambda i: len(prompts[i]) + len(responses[i]), reverse=True
        )
        scores: list[list[float]] = [[] for _ in prompts]
        for start in range(0, len(order), self.batch_size):
            part = order[start : start + self.batch_size]
            rows = self._score_batch([prompts[i] for i in part], [responses[i] for i in part])
            for index, row in zip(part, rows, strict=True):
                scores[index] = row
        return scores

    @torch.inference_mode()
    def _score_batch(
        self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """Scores of rows that go through the model together, in chunks that bound the logits.

        Padding on the right needs no mask: with causal attention no real token sees it.
        """
        device = self.mixture.device
        texts = [[*p, *r] for p, r in zip(prompts, responses, strict=True)]
        width = max(len(text) for text in texts)
        ids = torch.tensor([text + [0] * (width - len(text)) for text in texts], device=device)
        first = min(len(prompt) for prompt in prompts) - 1  # no logits are wanted before it
        vocabulary = self.mixture.models[0].config.vocab_size
        size = max(1, SCORE_ELEMENTS // (len(texts) * vocabulary))
        caches = self.mixture.new_caches()
        found = torch.zeros(len(texts), width - 1, device=device)
        start = 0
        while start < width - 1:
            # nothing but the cache is wanted of the prompt, so that part goes in one piece
            end = first if start < first else min(start + size, width - 1)
            positions = torch.arange(start, end, device=device).expand(len(texts), -1)
            keep = 1 if start < first else end - start
            logits = self.mixture.logits(ids[:, start:end], positions, None, caches, keep)
            if start >= first:
                chosen = logits.gather(2, ids[:, start + 1 : end + 1, None])[..., 0]
                found[:, start:end] = chosen - logits.logsumexp(dim=-1)
            start = end
        return [
            row[len(prompt) - 1 : len(prompt) - 1 + len(response)]
            for row, prompt, response in zip(found.tolist(), prompts, responses, strict=True)
        ]

    def load_weights(self, *sources: Source) -> None:
        """See `Engine.load_weights`."""
        given = [check_source(one) for one in sources]
        if len(given) != len(self.mixture.models):
            raise PipelineError(
                f"{', '.join(map(str, given))}: this engine mixes {len(self.mixture.models)} "
                f"model(s), {len(given)} given; give one source for each"
            )
        self.mixture.load(given)

    def set_coefficients(self, coefficients: Sequence[float]) -> None:
        """See `Engine.set_coefficients`; takes effect with the next `generate` or `score`."""
        self.mixture.coefficients = check_coefficients(coefficients, len(self.mixture.models))

    def close(self) -> None:
        """See `Engine.close`."""
        self.mixture.models.clear()
        self._texts.clear()
        give_back_memory()
