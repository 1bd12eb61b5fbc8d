"""What has to happen inside vLLM's worker processes, next to the model.

vLLM mixes this class into its worker (`worker_extension_cls`); the engine calls the methods on
all ranks through `collective_rpc`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from vllm.model_executor.layers.vocab_parallel_embedding import (
    ParallelLMHead,
    UnquantizedEmbeddingMethod,
)
from vllm.utils.torch_utils import set_random_seed

from pipeline.inference.vllm.checksum import Pieces, Sums, counted, read_back
from pipeline.trajectory.recipe import Recipe
from pipeline.trajectory.recipe_weights import checkpoint_tensors, recipe_tensors
from pipeline.trajectory.tying import EMBEDDING, head_name, is_head


def source_tensors(source: str | dict[str, Any], tied: bool) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a checkpoint folder, or of a recipe as plain values, as the model takes them.

    Args:
        tied: whether the model's head is its embedding; else a source that has no head of its own
            gives its embedding for one.
    """
    if isinstance(source, str):
        tensors = checkpoint_tensors(Path(source))
    else:
        tensors = recipe_tensors(Recipe.from_plain(source))
    return tensors if tied else with_head(tensors)


def with_head(tensors: Iterator[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
    """Pass tensors on, and the embedding as the head where none was among them."""
    embedding: tuple[str, torch.Tensor] | None = None
    headless = True
    for name, tensor in tensors:
        headless = headless and not is_head(name)
        if EMBEDDING.fullmatch(name) and (
            embedding is None or tensor.numel() > embedding[1].numel()
        ):
            embedding = name, tensor
        yield name, tensor
    if headless and embedding is not None:
        yield head_name(embedding[0]), embedding[1]


def refresh_heads(model: nn.Module) -> None:
    """Pack the output heads again, from the weights they hold now.

    A head tied to the embedding gets no tensor of its own in a reload, so vLLM leaves its packed
    copy (CPU backend) as it was: hidden states of the new model, logits of the old one.
    """
    for module in model.modules():
        if isinstance(module, ParallelLMHead) and isinstance(
            module.quant_method, UnquantizedEmbeddingMethod
        ):
            module.quant_method.process_weights_after_loading(module)


class WorkerExtension:
    """Methods added to vLLM's worker. Names must not clash with the worker's own."""

    model_runner: Any
    reload_weights: (
        Any  # the worker's: the runner's alone lacks what layers may ask of vLLM's config
    )

    def reseed(self, seed: int) -> None:
        """Seed the generators that sampling draws from, alike on all ranks."""
        set_random_seed(seed)

    def set_coefficients(self, coefficients: list[float]) -> None:
        """Change the coefficients of a mixture's logits."""
        self.model_runner.get_model().coefficients = coefficients

    def load_sources(
        self, sources: list[str | dict[str, Any]]
    ) -> list[tuple[Sums, Pieces | None]] | None:
        """Replace all weights in place.

        Args:
            sources: for each model of the engine a checkpoint folder, or a recipe's plain values.

        Returns:
            For each model the checksums of what was fed in and of what this rank's layers compute
            with, for `vllm.checksum.compare`; None for a quantised model, which rounds.
        """
        model = self.model_runner.get_model()
        config = self.model_runner.model_config
        dtype = config.dtype
        tied = bool(getattr(config.hf_text_config, "tie_word_embeddings", False))
        fed: list[Sums] = [Counter() for _ in sources]
        streams = [
            counted(source_tensors(source, tied), sums, dtype, tied)
            for source, sums in zip(sources, fed, strict=True)
        ]
        members = getattr(model, "members", [model])
        if len(streams) > 1:
            model.part()  # says that it cannot before anything is touched
            model.others = streams[1:]
        self.reload_weights(weights_iterator=streams[0])
        refresh_heads(model)
        if len(streams) > 1:
            model.share()
        if config.quantization is not None:
            return None
        ranks = self.model_runner.parallel_config.tensor_parallel_size
        return [
            (wanted, read_back(member, dtype, ranks))
            for member, wanted in zip(members, fed, strict=True)
        ]
