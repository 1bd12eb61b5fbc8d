"""Several checkpoints in lockstep inside vLLM, their logits mixed at every token.

Logit extrapolation l = l0 + α (l1 - l0) (arXiv 2601.04537) as a vLLM model.
The checkpoints' own architecture is built once for each under a prefix of its own, so every layer
registers its own KV cache with the scheduler; `forward` puts the hidden states side by side, and
`compute_logits` takes them apart and adds the logits in fp32. Everything else (paged caches,
chunked prefill, prefix caching, sampling) is vLLM's own and sees one model.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from vllm.compilation.backends import set_model_tag
from vllm.config import CUDAGraphMode, VllmConfig
from vllm.model_executor.models.utils import init_vllm_registered_model, maybe_prefix
from vllm.platforms import current_platform

from pipeline.errors import PipelineError
from pipeline.inference.vllm.sharing import part, share
from pipeline.trajectory.recipe_weights import checkpoint_tensors

CPU_ROWS = 16  # of logits that are mixed at once
NAMES = "abcdefgh"  # prefixes hold no digits: vLLM reads the layer number off the prefix


def mix(logits: Sequence[torch.Tensor], coefficients: Sequence[float]) -> torch.Tensor:
    """Σ c_i l_i in fp32: models of [tokens, vocabulary] -> [tokens, vocabulary].

    On the CPU a few rows at a time, so that partial sums stay in the cache: a quarter of the time.
    """
    total = torch.empty_like(logits[0], dtype=torch.float32)
    rows = CPU_ROWS if total.device.type == "cpu" else max(1, len(total))
    for start in range(0, len(total), rows):
        chunk = total[start : start + rows]
        chunk.copy_(logits[0][start : start + rows]).mul_(coefficients[0])
        for one, coefficient in zip(logits[1:], coefficients[1:], strict=True):
            chunk.add_(one[start : start + rows].float(), alpha=coefficient)
    return total


class LogitExtrapolatedForCausalLM(nn.Module):
    """vLLM model whose logits are Σ c_i l_i.

    Reads `mixture` of the model's config (see `vllm.plugin.mixture_overrides`).
    """

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        mixture = vllm_config.model_config.hf_config.mixture
        self.folders: list[str] = list(mixture["folders"])
        self.coefficients: list[float] = list(mixture["coefficients"])
        self.others: list[Iterable[tuple[str, torch.Tensor]]] = []
        self.names = [f"model_{NAMES[i]}" for i in range(len(self.folders))]
        self.may_share = bool(mixture["share"]) and vllm_config.quant_config is None
        # a captured graph keeps reading the memory that it was captured with
        self.captured = (
            current_platform.is_cuda_alike()
            and vllm_config.compilation_config.cudagraph_mode != CUDAGraphMode.NONE
        )
        self.shared: dict[str, nn.Parameter | None] = {}
        # vLLM stores whole compiled graphs by configuration and class: the second member would run
        # the first one's, with the first one's KV caches where layers are known by name
        os.environ["VLLM_USE_AOT_COMPILE"] = "0"
        for name in self.names:
            # a tag of its own keeps vLLM from giving one member the other's compiled graph
            with set_model_tag(name):
                member = init_vllm_registered_model(
                    vllm_config,
                    prefix=maybe_prefix(prefix, name),
                    architectures=list(mixture["architectures"]),
                )
            self.add_module(name, member)

    @property
    def members(self) -> list[Any]:
        """The checkpoints' models, in the order of the coefficients."""
        return [getattr(self, name) for name in self.names]

    def embed_input_ids(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Embeddings of all members side by side: [tokens] -> [tokens, members × hidden]."""
        return torch.cat([member.embed_input_ids(input_ids) for member in self.members], dim=-1)

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: None = None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Hidden states of all members side by side: [tokens, members × hidden].

        Each is copied before the next member runs: vLLM gives the memory of the output of a
        piecewise CUDA graph back to the pool that all graphs share (`weak_ref_output` in its
        `compilation.cuda_graph`), so the next member's graphs write over it.
        """
        count = len(self.names)
        embeds = [None] * count if inputs_embeds is None else inputs_embeds.chunk(count, dim=-1)
        states: torch.Tensor | None = None
        for number, (member, own) in enumerate(zip(self.members, embeds, strict=True)):
            made: torch.Tensor = member(input_ids, positions, intermediate_tensors, own)
            tokens, width = made.shape
            if states is None:
                states = made.new_empty(tokens, count * width)
            states[:, number * width : (number + 1) * width] = made
        assert states is not None
        return states

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor | None:
        """Σ c_i l_i in fp32: [tokens, members × hidden] -> [tokens, vocabulary].

        None on tensor-parallel ranks that do not gather the logits.
        """
        parts = hidden_states.chunk(len(self.names), dim=-1)
        logits = [
            member.compute_logits(part.contiguous())
            for member, part in zip(self.members, parts, strict=True)
        ]
        if any(one is None for one in logits):
            return None
        return mix(logits, self.coefficients)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """First member from `weights`, the others from `self.others` (once), else their folders."""
        self.part()
        others = self.others or [checkpoint_tensors(Path(folder)) for folder in self.folders[1:]]
        self.others = []
        loaded: set[str] = set()
        for name, member, source in zip(self.names, self.members, [weights, *others], strict=True):
            loaded |= {f"{name}.{parameter}" for parameter in member.load_weights(source)}
        return loaded

    def process_weights_after_loading(self) -> None:
        """vLLM's hook after the first load: the members' own hooks, then what they share."""
        for member in self.members:
            if hasattr(member, "process_weights_after_loading"):
                member.process_weights_after_loading()
        self.share()

    def share(self) -> None:
        """Hold weights that are equal in several members once."""
        if not self.may_share:
            return
        for number, member in enumerate(self.members):
            for earlier in self.members[:number]:
                found = share(earlier, member)
                self.shared |= {f"{self.names[number]}.{name}": p for name, p in found.items()}

    def part(self) -> None:
        """Give each member weights of its own, before new ones are loaded.

        Raises:
            PipelineError: CUDA graphs read the shared memory.
        """
        if self.shared and self.captured:
            raise PipelineError(
                "the two models share weights inside CUDA graphs, so new ones cannot be loaded; "
                "open the engine with share_weights=False, or a new one for these models"
            )
        part(self.shared)
