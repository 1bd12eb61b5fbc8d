"""What differs between CPU and CUDA, and what DeepSpeed is told: here and nowhere else."""

from __future__ import annotations

import os
import sys
from typing import Any

import torch
from accelerate import DistributedType, PartialState
from transformers import TrainingArguments

from pipeline.errors import PipelineError
from pipeline.training.check import micro_batches
from pipeline.training.schema import AlgorithmConfig, ComputeConfig
from pipeline.training.spec import SftSpec, Spec

# seconds that a rank may wait for the others: for one that has drawn the longest responses, or that
# writes a large checkpoint to a slow disk. Where one dies, the launcher ends the others at once.
PATIENCE = 2 * 3600
_DEEPSPEED_NAMES = {"float32": "fp32", "bfloat16": "bf16"}

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed warns that it had to look


def cores() -> int:
    """CPU cores this process may use (an affinity mask or a cgroup may hide some)."""
    return len(os.sched_getaffinity(0))


def child_environment(compute: ComputeConfig) -> dict[str, str]:
    """Environment for a launched rank: cores shared out, libraries quiet."""
    threads = compute.threads or max(1, cores() // compute.processes)
    environment = {
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "TRL_EXPERIMENTAL_SILENCE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    if not torch.cuda.is_available():
        environment["DS_ACCELERATOR"] = "cpu"
        environment["CUDA_VISIBLE_DEVICES"] = ""
        if compute.nodes == 1 and sys.platform == "linux":
            environment["GLOO_SOCKET_IFNAME"] = "lo"  # the host's name may not resolve
    return environment


def _deepspeed_on_cpu(compute: ComputeConfig) -> bool:
    return compute.zero_stage > 0 and not torch.cuda.is_available()


def join_processes(compute: ComputeConfig) -> None:
    """Join the process group where transformers cannot do it: DeepSpeed over CPU ranks.

    Told to use the CPU, accelerate forgets DeepSpeed; not told, it joins the group but believes
    that it is alone. So the state it needs is made here, and TrainingArguments takes it as it is.
    DeepSpeed's shared-memory reduction, which would be compiled on first use, is left out: gloo
    does that work, and no compiler is needed.
    """
    if not _deepspeed_on_cpu(compute):
        return
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    PartialState(cpu=True, backend="gloo").distributed_type = DistributedType.DEEPSPEED


def trainer_arguments(spec: Spec) -> dict[str, Any]:
    """Arguments of transformers' TrainingArguments that hold for SFT and RL alike."""
    compute = spec.compute
    rates = spec.sft_train if isinstance(spec, SftSpec) else spec.algorithm
    algorithm = _optimizer(spec)
    cuda = torch.cuda.is_available()
    if compute.threads is not None and compute.launcher == "none":
        torch.set_num_threads(compute.threads)
    if compute.bf16 and cuda and not torch.cuda.is_bf16_supported():
        raise PipelineError("compute.bf16 is on but this GPU has no bf16; set it to false")
    micro, accumulation = micro_batches(spec)
    name = algorithm.optimizer
    if name == "adamw_torch" and cuda and compute.zero_stage == 0:
        name = "adamw_torch_fused"
    schedule = rates.lr_schedule
    if schedule == "constant" and rates.warmup_steps:
        schedule = "constant_with_warmup"  # plain "constant" ignores the warm-up
    return {
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": accumulation,
        "learning_rate": rates.learning_rate,
        "optim": name,
        "lr_scheduler_type": schedule,
        "warmup_steps": rates.warmup_steps,
        "weight_decay": algorithm.weight_decay,
        "adam_beta1": algorithm.adam_beta1,
        "adam_beta2": algorithm.adam_beta2,
        "max_grad_norm": algorithm.max_grad_norm,
        "seed": spec.seed,
        "bf16": compute.bf16,
        "gradient_checkpointing": compute.gradient_checkpointing,
        "use_cpu": not cuda,
        "accelerator_config": {"use_configured_state": _deepspeed_on_cpu(compute)},
        "ddp_backend": None if compute.launcher == "none" else ("nccl" if cuda else "gloo"),
        "ddp_timeout": PATIENCE,
        "dataloader_pin_memory": cuda,
        "deepspeed": deepspeed_config(spec) if compute.zero_stage else None,
        "report_to": "none",
        "disable_tqdm": True,
        "logging_nan_inf_filter": False,  # a NaN must stop the run, not vanish in an average
        "save_total_limit": 2,
    }


def one_device(args: TrainingArguments) -> None:
    """Let this process train on one device: transformers counts all GPUs that it sees as its own,
    and TRL refuses to be copied onto them. Call it before anything reads a batch size.
    """
    args._n_gpu = min(args.n_gpu, 1)


def _optimizer(spec: Spec) -> AlgorithmConfig:
    """Where the optimiser's values stand; SFT takes the defaults."""
    return AlgorithmConfig() if isinstance(spec, SftSpec) else spec.algorithm


def deepspeed_config(spec: Spec) -> dict[str, Any]:
    """The DeepSpeed configuration for `spec.compute`, every value explicit.

    Any optimiser of torch may be sharded, and offloaded state is stepped by that same optimiser,
    so no compiled extension is needed.
    """
    compute = spec.compute
    micro, accumulation = micro_batches(spec)
    zero: dict[str, Any] = {
        "stage": compute.zero_stage,
        "contiguous_gradients": True,
        "overlap_comm": torch.cuda.is_available(),
    }
    if compute.offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if compute.zero_stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
        if compute.offload_parameters:
            zero["offload_param"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    return {
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": _optimizer(spec).max_grad_norm,
        "bf16": {"enabled": compute.bf16},
        "data_types": {"grad_accum_dtype": _DEEPSPEED_NAMES[compute.grad_accum_dtype]},
        "communication_data_type": _DEEPSPEED_NAMES[compute.communication_dtype],
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31 - 1,  # progress is ours to print
    }
