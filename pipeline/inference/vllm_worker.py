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

from pipeline.errors import PipelineError
from pipeline.inference.recipe import Recipe, checkpoint_tensors, recipe_tensors
from pipeline.inference.vllm_checksum import Pieces, Sums, counted, read_back
from pipeline.trajectory.tying import EMBEDDING, head_name, is_head


def source_tensors(source: str | dict[str, Any], tied: bool) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a checkpoint folder, or of a recipe as plain values, as the model takes them.

    Args:
        tied: whether the model's head is its embedding, which the engine was started with.
    """
    if isinstance(source, str):
        return with_head(checkpoint_tensors(Path(source)), tied, source)
    return with_head(recipe_tensors(Recipe.from_plain(source)), tied, source)


def with_head(
    tensors: Iterator[tuple[str, torch.Tensor]], tied: bool, source: object
) -> Iterator[tuple[str, torch.Tensor]]:
    """Pass tensors on; at the end a model with a head of its own is given one.

    A source without a head has its embedding for one. vLLM ties by its configuration: a model that
    was started tied takes no notice of a head, so one that differs is refused.

    Raises:
        PipelineError: the source has a head of its own, and the model none.
    """
    embedding: tuple[str, torch.Tensor] | None = None
    head: torch.Tensor | None = None
    for name, tensor in tensors:
        if is_head(name):
            head = tensor
        elif EMBEDDING.fullmatch(name) and (
            embedding is None or tensor.numel() > embedding[1].numel()
        ):
            embedding = name, tensor
        yield name, tensor
    if embedding is None:
        return
    if head is None and not tied:
        yield head_name(embedding[0]), embedding[1]
    elif head is not None and tied and not torch.equal(head, embedding[1]):
        raise PipelineError(
            f"{source}: its head differs from its embedding, and the engine was started on a model "
            "whose head is its embedding; start it on a model with tie_word_embeddings=false"
        )


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
            with, for `vllm_checksum.compare`; None for a quantised model, which rounds.
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
        self.model_runner.reload_weights(weights_iterator=streams[0])
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
