"""The fp32 master weights that a rank owns, wherever DeepSpeed keeps them, to read and to write.

Without ZeRO a rank owns every parameter; ZeRO 1 and 2 give it pieces of a flat buffer, ZeRO 3 a
shard of each parameter. Nothing is gathered: what is done to the pieces of all ranks is done to
the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn


def owned(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, values [n] fp32) of this rank's part of every trained parameter; to be read only.

    Args:
        model: the unwrapped model; under DeepSpeed its parameters know their shards. Tied
            parameters come once.
    """
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and (part := _part(parameter)) is not None:
            yield name, part


def placed(model: nn.Module) -> Iterator[tuple[str, int, torch.Tensor]]:
    """(name, first element, values [n] fp32) of this rank's part of every trained parameter.

    The part is elements [first, first + n) of the parameter, flattened: without the padding at the
    end of ZeRO 3's shards, and without parameters of which this rank has nothing.
    """
    named = dict(model.named_parameters())
    for name, part in owned(model):
        parameter = named[name]
        start = _first(parameter)
        part = part[: max(0, getattr(parameter, "ds_numel", parameter.numel()) - start)]
        if len(part):
            yield name, start, part


def replace_owned(model: nn.Module, optimizer: Any, values: Mapping[str, torch.Tensor]) -> None:
    """Set this rank's master weights, and what the forward pass reads, to `values`.

    A collective under ZeRO: every rank calls it, each with the names that `owned` gave it.

    Args:
        optimizer: the trainer's, in whatever wrappers.
    """
    for name, parameter in model.named_parameters():
        if name not in values:
            continue
        if hasattr(parameter, "ds_id"):
            from deepspeed.utils import safe_set_local_fp32_param

            safe_set_local_fp32_param(parameter, values[name])
            shard: torch.Tensor = getattr(parameter, "ds_tensor")  # noqa: B009
            shard.data.copy_(values[name])  # DeepSpeed does so after its own steps only
        else:
            part = _part(parameter)
            assert part is not None
            part.copy_(values[name])
    _publish(optimizer)


def forget(optimizer: Any) -> None:
    """Set the optimiser's state (moments, step counts) to zero, in place."""
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    for state in optimizer.state.values():
        for value in state.values():
            if isinstance(value, torch.Tensor):
                value.zero_()


def _part(parameter: nn.Parameter) -> torch.Tensor | None:
    """This rank's part [n] of a parameter's master weights, None if it has none."""
    if hasattr(parameter, "ds_id"):  # ZeRO 3
        from deepspeed.utils import safe_get_local_fp32_param

        shard: torch.Tensor = safe_get_local_fp32_param(parameter)
        return shard.detach().view(-1)
    if hasattr(parameter, "_hp_mapping"):  # ZeRO 1 and 2
        mapping: Any = parameter._hp_mapping
        return None if mapping is None else mapping.get_hp_fragment().detach().view(-1)
    return parameter.detach().view(-1)


def _first(parameter: nn.Parameter) -> int:
    """The element of a parameter at which this rank's part begins."""
    if hasattr(parameter, "ds_id"):
        shard: Any = getattr(parameter, "ds_tensor")  # noqa: B009
        rank: int = torch.distributed.get_rank(getattr(parameter, "ds_process_group"))  # noqa: B009
        return rank * int(shard.ds_numel)
    mapping: Any = getattr(parameter, "_hp_mapping", None)
    return 0 if mapping is None else int(mapping.lp_fragment_address.start)


def _publish(optimizer: Any) -> None:
    """Under ZeRO: hand the new masters on to the copies that the forward pass reads."""
    while optimizer is not None:
        if hasattr(optimizer, "update_lp_params"):
            optimizer.update_lp_params()
            return
        if hasattr(optimizer, "persistent_parameters"):
            kept = optimizer.persistent_parameters  # small ones, which ZeRO 3 holds whole
            if kept:
                kept[0].partition(kept, has_been_updated=False)
                kept[0].all_gather(kept)
            return
        optimizer = getattr(optimizer, "optimizer", None)
