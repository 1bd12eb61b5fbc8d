"""One model, or several whose logits are added: the part that the single-model and the
extrapolation engine share.

A mixture of M models with coefficients c has the logits Σ c_i l_i in fp32, then come temperature,
top-k, top-p and the draw; all models read the token that was drawn. One model is the mixture [1];
logit extrapolation l0 + α (l1 - l0) (arXiv 2601.04537) is [1 - α, α], and written so it gives
exactly l0 at α = 0 and l1 at α = 1, with no rounding. The models need one vocabulary, not one size.
The published loop does one prompt at a time; here the rows of all prompts are decoded together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from pipeline.errors import PipelineError
from pipeline.inference.interface import Source
from pipeline.inference.loading import load_source

WASTE = 1.25  # width of a cache over its longest row at which masked columns are closed up


class Mixture:
    """Models of one vocabulary and the coefficients of their logits."""

    def __init__(
        self,
        sources: Sequence[Source],
        coefficients: Sequence[float],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.dtype = dtype
        self.device = device
        self.coefficients = list(coefficients)
        self.models: list[Any] = []
        self.load(sources)

    def load(self, sources: Sequence[Source]) -> None:
        """Replace every model; the old ones are freed first."""
        self.models.clear()
        self.models.extend(load_source(one, self.dtype, self.device) for one in sources)
        sizes = {model.config.vocab_size for model in self.models}
        if len(sizes) > 1:
            raise PipelineError(
                f"{sources[-1]}: vocabularies of {sorted(sizes)} tokens differ; logits can be "
                "mixed only between models of one vocabulary"
            )

    def new_caches(self) -> list[DynamicCache]:
        """An empty KV cache for each model."""
        return [DynamicCache(config=model.config) for model in self.models]

    def combine(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """Σ c_i l_i in fp32 of logits [..., vocabulary]; one part with coefficient 1 as it is."""
        if len(parts) == 1:
            return parts[0].float()
        total = parts[0].float() * self.coefficients[0]
        for part, coefficient in zip(parts[1:], self.coefficients[1:], strict=True):
            total.add_(part.float(), alpha=coefficient)
        return total

    @torch.inference_mode()
    def logits(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor | None,
        caches: Sequence[DynamicCache],
        keep: int | torch.Tensor = 1,
    ) -> torch.Tensor:
        """Mixed logits of new tokens, which are added to the caches.

        Args:
            ids: int64 [rows, new].
            positions: int64 [rows, new].
            mask: int64 [rows, cached + new], 0 at padding; None where nothing is padded.
            caches: one for each model.
            keep: number of last positions, or indices into `new`, whose logits are wanted.

        Returns:
            fp32 [rows, kept, vocabulary].
        """
        parts = [
            self.model_logits(index, ids, positions, mask, cache, keep)
            for index, cache in enumerate(caches)
        ]
        return self.combine(parts)

    @torch.inference_mode()
    def model_logits(
        self,
        index: int,
        ids: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor | None,
        cache: DynamicCache,
        keep: int | torch.Tensor = 1,
    ) -> torch.Tensor:
        """Logits of one of the models as it gives them, arguments as of `logits`."""
        output = self.models[index](
            input_ids=ids,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=keep,
        )
        return cast(torch.Tensor, output.logits)


@dataclass
class Rows:
    """The model-side state of sequences that are decoded together, padded on the left.

    Attributes:
        caches: a KV cache for each model, all of width `mask.shape[1]`.
        mask: int64 [rows, width], 0 at padding and at columns taken back (`rollback`).
        positions: int64 [rows], position of the next token.
    """

    caches: list[DynamicCache]
    mask: torch.Tensor
    positions: torch.Tensor

    def __len__(self) -> int:
        return self.mask.shape[0]

    @property
    def mergeable(self) -> bool:
        """Whether other rows can join: plain caches only (no sliding windows, no linear state)."""
        layers = [layer for cache in self.caches for layer in cache.layers]
        return all(type(layer) is DynamicLayer for layer in layers)

    @property
    def seen(self) -> torch.Tensor | None:
        """The mask, or None where nothing is masked."""
        return self.mask if bool((self.mask == 0).any()) else None

    @torch.inference_mode()
    def select(self, indices: torch.Tensor) -> None:
        """Keep (or repeat) the rows `indices`, int64 [new rows], in that order."""
        for cache in self.caches:
            cache.batch_select_indices(indices)
        self.mask = self.mask[indices]
        self.positions = self.positions[indices]

    @torch.inference_mode()
    def step(self, mixture: Mixture, tokens: torch.Tensor) -> torch.Tensor:
        """Append one token to each row (int64 [rows]); logits fp32 [rows, vocabulary] after it."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self), 1)], dim=1)
        logits = mixture.logits(tokens[:, None], self.positions[:, None], self.seen, self.caches)
        self.positions = self.positions + 1
        return logits[:, -1]

    @torch.inference_mode()
    def rollback(self, new: int, kept: torch.Tensor) -> None:
        """Take back what the caches hold of the newest tokens beyond the first `kept` of each row.

        Columns that no row keeps are cut off, others masked: moving a row's cache costs more
        than to attend past a few masked columns. `compact` closes the gaps.

        Args:
            new: newest columns, which `mask` has already and `positions` do not count yet.
            kept: int64 [rows], 1 to `new`.
        """
        unused = new - int(kept.max())
        if unused:
            for cache in self.caches:
                cache.crop(-unused)
            self.mask = self.mask[:, :-unused]
        columns = torch.arange(new - unused, device=kept.device)
        self.mask[:, self.mask.shape[1] - len(columns) :] = (columns < kept[:, None]).long()
        self.positions = self.positions + kept
        if self.mask.shape[1] > WASTE * int(self.positions.max()):
            self.compact()

    @torch.inference_mode()
    def compact(self) -> None:
        """Move every row to the right over columns taken back: padding on the left alone."""
        width = int(self.positions.max())
        if bool((self.mask[:, -width:].sum(dim=1) == self.positions).all()):
            return
        order = self.mask.argsort(dim=1, stable=True)[:, -width:]
        self.mask = self.mask.gather(1, order)
        index = order[:, None, :, None]
        for cache in self.caches:
            for layer in cast(list[Any], cache.layers):
                shape = (-1, layer.keys.shape[1], -1, layer.keys.shape[3])
                layer.keys = layer.keys.gather(2, index.expand(shape))
                layer.values = layer.values.gather(2, index.expand(shape))


@torch.inference_mode()
def prefill(
    mixture: Mixture, prompts: Sequence[Sequence[int]], repeats: Sequence[int]
) -> tuple[Rows, torch.Tensor]:
    """Read each prompt once and give it `repeats[i]` rows.

    Returns:
        The rows, in the order of the prompts, and their logits fp32 [Σ repeats, vocabulary].
    """
    device = mixture.device
    width = max(len(prompt) for prompt in prompts)
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    mask = (torch.arange(width) >= width - lengths[:, None]).long().to(device)
    positions = (mask.cumsum(dim=1) - 1).clamp_(min=0)
    padded = bool((lengths < width).any())
    caches = mixture.new_caches()
    logits = mixture.logits(ids.to(device), positions, mask if padded else None, caches)[:, -1]
    rows = Rows(caches, mask, lengths.to(device))
    if any(count != 1 for count in repeats):
        index = torch.arange(len(prompts)).repeat_interleave(torch.tensor(repeats)).to(device)
        rows.select(index)
        logits = logits[index]
    return rows, logits


def _fit(states: torch.Tensor, width: int) -> torch.Tensor:
    """Keys or values [rows, heads, length, dim] cut or padded on the left to `width`."""
    missing = width - states.shape[2]
    if missing <= 0:
        return states[:, :, -missing:]
    return torch.nn.functional.pad(states, (0, 0, missing, 0))


@torch.inference_mode()
def merge(first: Rows, second: Rows) -> Rows:
    """Both groups of rows as one (mergeable ones), as narrow as the longest row allows."""
    for rows in (first, second):
        rows.compact()
    positions = torch.cat([first.positions, second.positions])
    width = int(positions.max())
    masks = [
        torch.nn.functional.pad(rows.mask, (width - rows.mask.shape[1], 0))
        for rows in (first, second)
    ]
    for one, other in zip(first.caches, second.caches, strict=True):
        layers = cast(list[Any], one.layers)
        for layer, joining in zip(layers, cast(list[Any], other.layers), strict=True):
            layer.keys = torch.cat([_fit(layer.keys, width), _fit(joining.keys, width)])
            layer.values = torch.cat([_fit(layer.values, width), _fit(joining.values, width)])
    return Rows(first.caches, torch.cat(masks), positions)
