"""The GPUs of this machine, for plans."""

from __future__ import annotations


def gpus() -> int:
    """How many GPUs this process may use (CUDA_VISIBLE_DEVICES may hide some); 0 on a CPU."""
    import torch

    return torch.cuda.device_count()
