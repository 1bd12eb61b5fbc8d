"""Values of training that cannot work, refused before anything is loaded: by the plan of a run, of
its configuration, and by a training process, of its spec. Both have the same sections.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.config import DTYPES
from pipeline.errors import PipelineError
from pipeline.limits import check_values
from pipeline.training.check_algorithm import (
    SCHEDULES,
    check_adapters,
    check_advantages,
    check_names,
    check_supervised,
    one_of,
)
from pipeline.training.schema import AlgorithmConfig, ComputeConfig, RlConfig
from pipeline.training.spec import Architecture, RlSpec, SftSpec, Spec, build

if TYPE_CHECKING:
    from pipeline.config import PipelineConfig

SNAPSHOT_DTYPES = (*DTYPES, "delta_bfloat16", "delta_float32")
REGROUND_OPTIMIZERS = ("keep", "reset")
ATTENTION = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")
FAMILIES = ("qwen2", "llama")  # of models made from scratch
_SFT_MICRO_BATCH = 1024  # the models are small


def check(spec: Spec) -> None:
    """Refuse a spec that cannot work, naming the key and the remedy.

    Raises:
        PipelineError: at the first bad value.
    """
    check_values(spec)
    if isinstance(spec, SftSpec):
        check_sft(spec)
    else:
        check_rl(spec)


def check_sft(values: SftSpec | PipelineConfig) -> None:
    """The same for supervised training.

    Raises:
        PipelineError: at the first bad value.
    """
    architecture = build(Architecture, values.model.architecture, "model.architecture")
    for key, divisor in (("hidden", architecture.heads), ("heads", architecture.kv_heads)):
        value = getattr(architecture, key)
        if min(value, divisor) < 1 or value % divisor:
            raise PipelineError(f"model.architecture.{key}: {value} is no multiple of {divisor}")
    for key in ("layers", "intermediate", "max_positions"):
        if getattr(architecture, key) < 1:
            raise PipelineError(f"model.architecture.{key}: must be at least 1")
    one_of("model.architecture.family", architecture.family, FAMILIES)
    one_of("sft_train.lr_schedule", values.sft_train.lr_schedule, SCHEDULES)


def check_rl(values: RlSpec | PipelineConfig) -> None:
    """The same for RL.

    Raises:
        PipelineError: at the first bad value.
    """
    algorithm, compute, rl = values.algorithm, values.compute, values.rl_train
    check_names(algorithm)
    one_of("model.attention", values.model.attention, ATTENTION)
    one_of("rl_train.snapshot_dtype", rl.snapshot_dtype, SNAPSHOT_DTYPES)
    if rl.snapshot_every > rl.steps:
        raise PipelineError(
            f"rl_train.snapshot_every={rl.snapshot_every} is more than "
            f"rl_train.steps={rl.steps}: there would be no snapshot"
        )
    if rl.validation.every is not None and rl.validation.every > rl.steps:
        raise PipelineError(
            f"rl_train.validation.every={rl.validation.every} is more than "
            f"rl_train.steps={rl.steps}: accuracy would never be measured; lower it, or set null"
        )
    supervised = algorithm.trainer == "sft"
    if supervised:
        check_supervised(values)
    elif algorithm.rollouts_per_prompt < 2:
        raise PipelineError(
            "algorithm.rollouts_per_prompt: must be at least 2, "
            "since advantages compare the rollouts of one prompt"
        )
    check_advantages(algorithm)
    _check_processes(compute)
    check_adapters(algorithm, rl)
    _check_reground(rl, compute)
    _check_split(algorithm, compute)
    _check_engine(compute)
    room = values.task.max_prompt_tokens + algorithm.max_response_tokens
    if compute.vllm_max_model_len is not None and compute.vllm_max_model_len < room:
        raise PipelineError(
            f"compute.vllm_max_model_len={compute.vllm_max_model_len} has no room for "
            f"task.max_prompt_tokens + algorithm.max_response_tokens = {room}"
        )


def _check_processes(compute: ComputeConfig) -> None:
    one_of("compute.launcher", compute.launcher, ("none", "deepspeed", "torchrun", "srun"))
    if compute.launcher == "none" and compute.world_size > 1:
        raise PipelineError(
            "compute.launcher=none runs one process; "
            "use compute.launcher=deepspeed, torchrun or srun for more"
        )
    if compute.launcher == "none" and compute.zero_stage > 0:
        raise PipelineError(
            f"compute.zero_stage={compute.zero_stage} needs another compute.launcher"
        )
    for key, least in (("offload", 1), ("offload_parameters", 3)):
        if getattr(compute, key) and compute.zero_stage < least:
            raise PipelineError(f"compute.{key}=true needs compute.zero_stage={least} or more")
    for key in ("grad_accum_dtype", "communication_dtype"):
        one_of(f"compute.{key}", getattr(compute, key), ("float32", "bfloat16"))
        if not compute.bf16 and getattr(compute, key) != "float32":
            raise PipelineError(
                f"compute.{key}={getattr(compute, key)} needs compute.bf16=true: gradients of fp32 "
                "passes are fp32"
            )
    for launcher, key in (("torchrun", "master_address"), ("deepspeed", "hostfile")):
        if compute.launcher == launcher and compute.nodes > 1 and getattr(compute, key) is None:
            raise PipelineError(f"compute.{key}: {launcher} over several nodes needs it")


def _check_engine(compute: ComputeConfig) -> None:
    """Values of vLLM's rollouts."""
    ranks = compute.vllm_tensor_parallel
    if compute.world_size % ranks:
        raise PipelineError(
            f"compute.vllm_tensor_parallel={ranks} does not divide the {compute.world_size} "
            "processes, which share engines; choose a divisor"
        )
    if compute.vllm_host is None:
        return
    for key, given in (("vllm_sleep", compute.vllm_sleep), ("vllm_tensor_parallel", ranks > 1)):
        if given:
            raise PipelineError(
                f"compute.{key} is of an engine inside the trainer, and compute.vllm_host takes "
                "rollouts from a server; leave one out"
            )


def _check_reground(rl: RlConfig, compute: ComputeConfig) -> None:
    jumps = rl.reground
    one_of("rl_train.reground.optimizer", jumps.optimizer, REGROUND_OPTIMIZERS)
    _check_shares("rl_train.validation", rl.validation.problems * rl.validation.samples, compute)
    if jumps.every is None:
        if jumps.jump:
            raise PipelineError(
                f"rl_train.reground.jump={jumps.jump} without rl_train.reground.every; give the "
                "real steps from jump to jump, too"
            )
        return
    if jumps.jump < 1:
        raise PipelineError(
            "rl_train.reground.jump: must be at least 1 where rl_train.reground.every is set"
        )
    if jumps.every > rl.steps:
        raise PipelineError(
            f"rl_train.reground.every={jumps.every} is more than rl_train.steps={rl.steps}: there "
            "would be no jump"
        )
    guard = jumps.guard
    _check_shares("rl_train.reground.guard", guard.problems * guard.samples, compute)


def _check_shares(key: str, responses: int, compute: ComputeConfig) -> None:
    if 0 < responses < compute.world_size:
        raise PipelineError(
            f"{key}: problems x samples = {responses} do not give each of {compute.world_size} "
            f"ranks a response; raise {key}.problems"
        )


def _check_split(algorithm: AlgorithmConfig, compute: ComputeConfig) -> None:
    """The rollouts of a step must divide over updates, processes and micro-batches."""
    rollouts = algorithm.prompts_per_step * algorithm.rollouts_per_prompt
    shares = compute.world_size * algorithm.updates_per_step
    if (
        algorithm.dynamic_sampling
        and rollouts // compute.world_size % algorithm.rollouts_per_prompt
    ):
        raise PipelineError(
            f"algorithm.dynamic_sampling: groups of {algorithm.rollouts_per_prompt} rollouts would "
            f"be split over {compute.world_size} ranks; change algorithm.prompts_per_step to a "
            "multiple of the ranks"
        )
    share, rest = divmod(rollouts, shares)
    if rest or share == 0:
        raise PipelineError(
            f"algorithm: {rollouts} rollouts a step do not divide over {shares} "
            "(processes x nodes x updates_per_step); change algorithm.prompts_per_step"
        )
    if algorithm.updates_per_step > 1 and share % algorithm.rollouts_per_prompt:
        raise PipelineError(
            f"algorithm.updates_per_step={algorithm.updates_per_step}: each process takes {share} "
            f"rollouts per update, which are no whole groups of {algorithm.rollouts_per_prompt} "
            "rollouts of a prompt; change algorithm.prompts_per_step or updates_per_step"
        )
    if share % min(algorithm.micro_batch, share):
        raise PipelineError(
            f"algorithm.micro_batch={algorithm.micro_batch} does not divide the {share} rollouts "
            "that each process takes per update; choose a divisor"
        )


def engine_tokens(spec: RlSpec) -> int:
    """The longest prompt and response together that vLLM's rollouts hold."""
    longest = spec.compute.vllm_max_model_len
    return longest or spec.task.max_prompt_tokens + spec.algorithm.max_response_tokens


def micro_batches(spec: Spec) -> tuple[int, int]:
    """(sequences per forward pass, forward passes per optimiser update) on each process."""
    if isinstance(spec, SftSpec):
        share, most = spec.sft_train.batch_size, _SFT_MICRO_BATCH
    else:
        algorithm, world = spec.algorithm, spec.compute.world_size
        rollouts = algorithm.prompts_per_step * algorithm.rollouts_per_prompt
        share, most = rollouts // (algorithm.updates_per_step * world), algorithm.micro_batch
    micro = min(most, share)
    while share % micro:
        micro -= 1  # of SFT, whose batches may be of any size
    return micro, share // micro
