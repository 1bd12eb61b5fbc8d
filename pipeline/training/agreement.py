"""What all ranks of a run have to know alike: small collectives, none where there is one rank."""

from __future__ import annotations

import torch
from accelerate import PartialState


def summed(values: torch.Tensor) -> torch.Tensor:
    """The sum of `values` over all ranks, on the CPU."""
    state = PartialState()
    if state.num_processes == 1:
        return values
    on_device = values.to(state.device)
    torch.distributed.all_reduce(on_device)
    return on_device.cpu()


def any_rank(flag: bool) -> bool:
    """Whether the flag is set on some rank."""
    return bool(summed(torch.tensor(float(flag))) > 0)


def every_rank(flag: bool) -> bool:
    """Whether the flag is set on all ranks."""
    return not any_rank(not flag)
