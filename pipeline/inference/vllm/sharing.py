"""Weights that two models inside vLLM have in common, held once.

The checkpoints of a LoRA run share the embedding, the head, the norms and every matrix without an
adapter. Whatever is equal to the bit after loading is given one storage: parameters themselves, and
on the CPU, where vLLM keeps matrices in packed copies only, the copies. A packed matrix is compared
by multiplying all unit vectors through it, which gives its columns back.

A reload writes into the parameters that are there, so `part` gives each model its own again first.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, cast

import torch
from torch import nn
from vllm.model_executor.layers.linear import LinearBase

CHUNK = 256  # columns of a packed matrix that are compared at once
FIRST = 8  # columns that tell most matrices apart


def share(first: nn.Module, second: nn.Module) -> dict[str, nn.Parameter | None]:
    """Give `second` the storage of `first` wherever the two are equal.

    Returns:
        by the name in `second`: its parameters that now share, and None for each packed matrix.
    """
    shared: dict[str, nn.Parameter | None] = {}
    modules = dict(first.named_modules())
    for name, module in second.named_modules():
        other = modules[name]
        for key, parameter in module.named_parameters(recurse=False):
            if _share_storage(cast(nn.Parameter, getattr(other, key)), parameter):
                shared[f"{name}.{key}"] = parameter
        if hasattr(module, "cpu_linear") and _equal_product(other, module):
            module.cpu_linear = other.cpu_linear
            shared[f"{name} (packed)"] = None
    return shared


def part(shared: dict[str, nn.Parameter | None]) -> None:
    """Undo `share` for parameters. (A reload packs matrices anew, so those part by themselves.)"""
    for parameter in {id(one): one for one in shared.values() if one is not None}.values():
        parameter.data = parameter.data.clone()
    shared.clear()


def _share_storage(first: nn.Parameter, second: nn.Parameter) -> bool:
    """Whether the two have one storage now; empty ones (packed elsewhere) have none to share."""
    if not second.numel() or first.shape != second.shape or first.dtype != second.dtype:
        return False
    if first.data_ptr() != second.data_ptr():  # equal already: tied to one that was shared
        if not torch.equal(_bits(first), _bits(second)):
            return False
        second.data = first.data
    return True


def _bits(parameter: nn.Parameter) -> torch.Tensor:
    return parameter.data.contiguous().view(torch.uint8)


@torch.inference_mode()
def _equal_product(first: Any, second: Any) -> bool:
    """Whether two packed matrices are equal (of zeros, the sign does not count)."""
    if second.weight.numel():  # an output head, which keeps its weight beside the packed copy
        return bool(first.weight.data_ptr() == second.weight.data_ptr())
    if not isinstance(second, LinearBase):
        return False
    width = int(getattr(second, "input_size_per_partition", second.input_size))
    bounds = [0, *range(min(FIRST, width), width, CHUNK), width]
    for start, end in pairwise(bounds):
        units = torch.zeros(end - start, width, dtype=second.params_dtype)
        units[torch.arange(end - start), torch.arange(start, end)] = 1
        found = [one.quant_method.apply(one, units, None) for one in (first, second)]
        if not torch.equal(*found):
            return False
    return True
