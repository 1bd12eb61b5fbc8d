"""The GPUs of this machine, for plans, and their memory between stages."""

from __future__ import annotations

import gc
import itertools
import os
import sys


def gpus() -> int:
    """How many GPUs this process may use (CUDA_VISIBLE_DEVICES may hide some); 0 on a CPU."""
    import torch

    return torch.cuda.device_count()


def device_names(found: int) -> list[str]:
    """The GPUs that processes started from here can be given, as CUDA_VISIBLE_DEVICES names them.

    CUDA stops reading at the first entry that is no device, so it sees the first `found` (`gpus`).
    Of MIG instances it shows each process one alone, but another to each that is given another.
    """
    if not found:
        return []
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return [str(number) for number in range(found)]
    names = [name.strip() for name in given.split(",")]
    instances = list(itertools.takewhile(lambda name: name.startswith("MIG-"), names))
    return instances or names[:found]


def gpu_name() -> str | None:
    """What the first of them is called; None on a CPU."""
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None


def gpu_memory() -> int:
    """Bytes that the first of them has, used or not; 0 on a CPU."""
    import torch

    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else 0


def give_back_memory() -> None:
    """Give GPU memory that this process has no use for any more back to the machine.

    torch keeps what it has freed for itself, and Python what hangs on a cycle (a trainer with its
    model). A vLLM engine, in a process of its own, refuses to start where less is free than the
    share that it is to have (`request_memory` in its `v1/worker/utils.py`).
    """
    torch = sys.modules.get("torch")
    if torch is None:
        return
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
