"""CPU or GPU: the one place where the two differ.

The engines ask here for their device, their number format and vLLM's settings, and are otherwise
the same code on both.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from pipeline.errors import PipelineError
from pipeline.hardware import device_names, gpus

# environment variable: our engines ask for `vllm.cpu.adapt` by "1", unless the user has said "0"
ADAPT = "RL_EXTRAPOLATION_CPU"
OURS = "RL_EXTRAPOLATION_ENGINE"  # environment variable: vLLM's processes are our engines'
KEEP = str(1 << 32)  # bytes: freed memory that stays with vLLM's processes on the CPU
# tokens of a KV-cache block on the CPU, the least that its fast attention takes: samples of a
# prompt share its whole blocks, and vLLM's 128 are longer than many a prompt
CPU_BLOCK = 32
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(name: str | None = None) -> torch.device:
    """The named device, or CUDA where there is one, else the CPU."""
    device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise PipelineError("engine.device=cuda: torch sees no CUDA device; use device=cpu")
    return device


def parse_dtype(name: str) -> torch.dtype:
    """torch dtype of a config name."""
    if name not in DTYPES:
        raise PipelineError(f"engine.dtype={name}: one of {', '.join(DTYPES)}")
    return DTYPES[name]


def set_threads(threads: int | None) -> None:
    """Limit torch's CPU threads; None leaves torch's own choice."""
    if threads is not None:
        torch.set_num_threads(threads)


def worker_environments(size: int, tensor_parallel: int) -> list[dict[str, str]]:
    """What each of `size` workers on this machine has in its environment: on GPUs, its own
    `tensor_parallel` devices.

    A process must not choose them for itself: to ask whether there is a GPU starts CUDA, and from
    then on it sees the devices that it saw then.

    Raises:
        PipelineError: fewer GPUs than the workers need.
    """
    found = gpus()
    if not found:
        return [{} for _ in range(size)]
    devices = device_names(found)
    if len(devices) < size * tensor_parallel:
        raise PipelineError(
            f"{size} engines of {tensor_parallel} GPUs need {size * tensor_parallel}, there "
            f"are {len(devices)}; lower the number of engines"
        )
    return [
        {"CUDA_VISIBLE_DEVICES": ",".join(devices[at : at + tensor_parallel])}
        for at in range(0, size * tensor_parallel, tensor_parallel)
    ]


def claim_cores(rank: int, size: int) -> None:
    """Bind this process, worker `rank` of `size` on a machine without GPUs, to its share of the
    cores. (Tasks that srun starts have cores of their own already.)"""
    if torch.cuda.is_available():
        return
    cores = sorted(os.sched_getaffinity(0))
    mine_cores = cores[rank::size] or [cores[rank % len(cores)]]
    os.sched_setaffinity(0, mine_cores)
    torch.set_num_threads(len(mine_cores))


@dataclass(frozen=True)
class VLLMSettings:
    """What vLLM is told because of the device it runs on.

    Attributes:
        environment: variables to set before vLLM is imported.
        arguments: for `vllm.LLM`.
    """

    environment: dict[str, str]
    arguments: dict[str, object]


def vllm_settings(
    device: torch.device,
    *,
    threads: int | None,
    tensor_parallel: int,
    kv_cache_gib: float,
    gpu_memory_utilization: float,
    enforce_eager: bool,
) -> VLLMSettings:
    """vLLM's device-dependent settings.

    On the CPU vLLM binds one core of two by default, which costs nearly half the speed: it is
    given every core that this process may use (or the first `threads` of them), dealt out to the
    tensor-parallel ranks.
    """
    if device.type == "cuda":
        return VLLMSettings(
            environment={
                OURS: "1",
                # a fork of this process, which has asked for its devices, could not use CUDA
                "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
                # fp32 attention is Triton's, which by itself multiplies fp32 as TF32: ten bits
                "TRITON_F32_DEFAULT": "ieee",
            },
            arguments={
                "gpu_memory_utilization": gpu_memory_utilization,
                "enforce_eager": enforce_eager,
            },
        )
    cores = sorted(os.sched_getaffinity(0))[:threads]
    if len(cores) < tensor_parallel:
        raise PipelineError(
            f"engine.tensor_parallel={tensor_parallel}: a rank needs a core of its own, "
            f"{len(cores)} given"
        )
    ranks = [cores[rank::tensor_parallel] for rank in range(tensor_parallel)]
    bound = "|".join(",".join(map(str, rank)) for rank in ranks)
    settings = VLLMSettings(
        environment={OURS: "1", "VLLM_CPU_OMP_THREADS_BIND": bound},
        arguments={
            # torch.compile on the CPU costs minutes for little
            "enforce_eager": True,
            "kv_cache_memory_bytes": int(kv_cache_gib * 2**30),
        },
    )
    if os.environ.get(ADAPT) != "0":
        settings.environment.update(
            {ADAPT: "1", "MALLOC_MMAP_THRESHOLD_": KEEP, "MALLOC_TRIM_THRESHOLD_": KEEP}
        )
        settings.arguments["block_size"] = CPU_BLOCK
    return settings
