"""What all ranks of a run have to know alike: small collectives, none where there is one rank."""

from __future__ import annotations

import torch
from accelerate import PartialState


def reduced(values: torch.Tensor, how: torch.distributed.RedOpType | None = None) -> torch.Tensor:
    """`values` over all ranks, on the CPU; their sum if not told `how`."""
    state = PartialState()
    if state.num_processes == 1:
        return values
    on_device = values.to(state.device)
    torch.distributed.all_reduce(on_device, how or torch.distributed.ReduceOp.SUM)
    return on_device.cpu()


def any_rank(flag: bool) -> bool:
    """Whether the flag is set on some rank."""
    return bool(reduced(torch.tensor(float(flag)), torch.distributed.ReduceOp.MAX))


def every_rank(flag: bool) -> bool:
    """Whether the flag is set on all ranks."""
    return not any_rank(not flag)
