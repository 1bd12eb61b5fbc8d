"""Proof that the weights inside vLLM are those it was given.

A reload can leave a layer behind without a word: a packed copy (CPU backend), a head tied to the
embedding. So what the layers compute with is read back through the layers: a unit vector times a
packed matrix is one of its columns, to the bit. Bit patterns are summed as integers over a
decoder layer; sums do not mind that vLLM fuses q, k and v into one matrix, nor that tensor-parallel
ranks hold a part each: the sums of the parts are added, and copies (norms; key and value heads
where there are fewer than ranks) must be equal on all ranks that hold one. The same sums over the
tensors that were fed in must come out equal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from vllm.model_executor.layers.layernorm import GemmaRMSNorm, LayerNorm, RMSNorm
from vllm.model_executor.layers.linear import (
    ColumnParallelLinear,
    LinearBase,
    MergedColumnParallelLinear,
    QKVParallelLinear,
    ReplicatedLinear,
    RowParallelLinear,
)
from vllm.model_executor.layers.vocab_parallel_embedding import (
    ParallelLMHead,
    VocabParallelEmbedding,
)

from pipeline.errors import PipelineError

COLUMNS = 8  # of each matrix that are compared
UNCOUNTED = ("expert", "rotary_emb")  # fused into other shapes, or not weights
COPY = "copy"  # the piece that every rank holds

Sums = Counter[str]  # of each decoder layer
Pieces = Counter[tuple[str, str]]  # of each decoder layer and each piece that ranks hold of it

CUT = {  # layers of which it is known how they are cut over ranks
    ColumnParallelLinear,
    MergedColumnParallelLinear,
    QKVParallelLinear,
    RowParallelLinear,
    ReplicatedLinear,
    VocabParallelEmbedding,
    ParallelLMHead,
    RMSNorm,
    GemmaRMSNorm,
    LayerNorm,
}


def _bits(values: torch.Tensor, dtype: torch.dtype) -> int:
    """Sum of the bit patterns of `values`, as the fp32 numbers that `dtype` rounds them to."""
    exact = values.detach().to(dtype).float().cpu() + 0.0  # -0 becomes 0: a product has no -0
    return int(exact.contiguous().view(torch.int32).sum(dtype=torch.int64))


def _columns(width: int) -> torch.Tensor:
    return torch.linspace(0, width - 1, min(COLUMNS, width)).long()


def _group(name: str) -> str:
    """The decoder layer's number in a tensor's or module's name, else the module's own name."""
    parts = name.removesuffix(".weight").removesuffix(".bias").split(".")
    return next((part for part in parts if part.isdigit()), parts[-1])


def counted(
    tensors: Iterator[tuple[str, torch.Tensor]], sums: Sums, dtype: torch.dtype, tied: bool
) -> Iterator[tuple[str, torch.Tensor]]:
    """Pass tensors on while adding them to `sums` (`tied`: the embedding is the head, too)."""
    for name, tensor in tensors:
        if not any(word in name for word in UNCOUNTED) and not (tied and "lm_head" in name):
            part = tensor[:, _columns(tensor.shape[1])] if tensor.ndim == 2 else tensor
            sums[_group(name)] += _bits(part, dtype)
            if tied and "embed_tokens" in name:
                sums["lm_head"] += _bits(part, dtype)
        yield name, tensor


def _rows(module: LinearBase) -> list[tuple[int, str]]:
    """Outputs of a rank's part of a linear layer: how many of them are of which piece."""
    if module.tp_size == 1 or isinstance(module, ReplicatedLinear):
        return [(module.output_size, COPY)]
    mine = f"rank {module.tp_rank}"
    if isinstance(module, QKVParallelLinear):
        queries, *others = (size // module.tp_size for size in module.output_sizes)
        heads = f"heads {module.tp_rank // module.num_kv_head_replicas}"
        return [(queries, mine), (sum(others), heads)]
    if isinstance(module, RowParallelLinear):
        return [(module.output_size, mine)]
    return [(cast(ColumnParallelLinear, module).output_size_per_partition, mine)]


def _matrix(module: Any, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """The compared columns that this rank holds of a layer's matrix: [columns, its outputs]."""
    width = module.embedding_dim if isinstance(module, ParallelLMHead) else module.input_size
    index, held = _columns(width), width
    if isinstance(module, RowParallelLinear):
        held = module.input_size_per_partition
        index = index - module.tp_rank * held
        index = index[(index >= 0) & (index < held)]
    units = torch.zeros(len(index), held, dtype=dtype, device=device)
    units[torch.arange(len(index)), index] = 1
    return cast(torch.Tensor, module.quant_method.apply(module, units, None))


def _parts(
    module: Any, vectors: list[torch.Tensor], dtype: torch.dtype, device: torch.device
) -> Iterator[tuple[str, torch.Tensor]]:
    """What a layer computes with on this rank, each with the piece that it is a part of.

    `vectors` are its own parameters of one dimension: biases and the weights of norms.
    """
    if isinstance(module, LinearBase):
        matrix, start = _matrix(module, dtype, device), 0
        cut = not isinstance(module, RowParallelLinear)  # whose bias is whole on each rank
        for count, piece in _rows(module):
            yield piece, matrix[:, start : start + count]
            yield from ((piece, vector[start : start + count]) for vector in vectors if cut)
            start += count
        yield from ((COPY, vector) for vector in vectors if not cut)
    elif isinstance(module, VocabParallelEmbedding):  # a head is one, too
        piece = f"rank {module.tp_rank}"
        if isinstance(module, ParallelLMHead):
            yield piece, _matrix(module, dtype, device)
        else:
            yield piece, cast(torch.Tensor, module.weight)[:, _columns(module.embedding_dim)]
        yield from ((piece, vector) for vector in vectors)
    else:
        yield from ((COPY, vector) for vector in vectors)


@torch.inference_mode()
def read_back(model: Any, dtype: torch.dtype, ranks: int = 1) -> Pieces | None:
    """The sums of what a vLLM model (not quantised) computes with on this one of `ranks` ranks.

    None where the model has layers of which it is not known how they are cut.
    """
    sums: Pieces = Counter()
    device = next(iter(model.parameters())).device
    for name, module in model.named_modules():
        if any(word in name for word in UNCOUNTED):
            continue
        vectors = [p for p in module.parameters(recurse=False) if p.ndim == 1 and p.numel()]
        if ranks > 1 and type(module) not in CUT and (vectors or isinstance(module, LinearBase)):
            return None
        for piece, values in _parts(module, vectors, dtype, device):
            sums[_group(name), piece] += _bits(values, dtype)
    return sums


def compare(wanted: Sums, ranks: Sequence[Pieces], source: str) -> Sums:
    """The sums of all ranks' pieces together, if they are those that were fed in.

    Raises:
        PipelineError: a layer holds other weights than it was given.
    """
    pieces: Pieces = Counter()
    stale = set()
    for one in ranks:
        for key, value in one.items():
            if pieces.setdefault(key, value) != value:
                stale.add(key[0])
    found: Sums = Counter()
    for (group, _), value in pieces.items():
        found[group] += value
    stale |= {group for group in wanted.keys() | found.keys() if wanted[group] != found[group]}
    if stale:
        raise PipelineError(
            f"vLLM kept old weights in layer {', '.join(sorted(stale))} of {source} after a "
            "reload; start a new engine for this model"
        )
    return found
