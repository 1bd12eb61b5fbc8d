"""The GPUs of this machine, for plans."""

from __future__ import annotations


def gpus() -> int:
    """How many GPUs this process may use (CUDA_VISIBLE_DEVICES may hide some); 0 on a CPU."""
    import torch

    return torch.cuda.device_count()


def gpu_name() -> str | None:
    """What the first of them is called; None on a CPU."""
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
