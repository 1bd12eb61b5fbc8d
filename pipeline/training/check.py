"""Values of training that cannot work, refused before anything is loaded: by the plan of a run, of
its configuration, and by a training process, of its spec. Both have the same sections.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from pipeline.config import (
    DTYPES,
    AlgorithmConfig,
    ComputeConfig,
    RlConfig,
)
from pipeline.errors import PipelineError
from pipeline.limits import check_values
from pipeline.training.spec import DELTA, Architecture, RlSpec, SftSpec, Spec, build

if TYPE_CHECKING:
    from pipeline.config import PipelineConfig

SNAPSHOT_DTYPES = (*DTYPES, "delta_bfloat16", "delta_float32")
REGROUND_OPTIMIZERS = ("keep", "reset")
# What the installed TRL and transformers know (tests/training/test_names.py asks them).
LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "luspo", "sapo", "vespo")
LEVELS = ("token", "sequence")
ADVANTAGES = ("trl", "reinforce_pp", "reinforce_pp_baseline")
SCALES = ("group", "batch", "none")
SCHEDULES = (  # the others need arguments of their own, or an evaluation loss
    *("constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts"),
    *("polynomial", "inverse_sqrt"),
)
OPTIMIZERS = (  # those of torch and transformers themselves
    *("adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop"),
)
ATTENTION = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")
FAMILIES = ("qwen2", "llama")  # of models made from scratch
_NEEDS_LEVEL = {"luspo": "sequence", "vespo": "token"}
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
    _check_names(algorithm)
    one_of("model.attention", values.model.attention, ATTENTION)
    one_of("rl_train.snapshot_dtype", rl.snapshot_dtype, SNAPSHOT_DTYPES)
    if rl.snapshot_every > rl.steps:
        raise PipelineError(
            f"rl_train.snapshot_every={rl.snapshot_every} is more than "
            f"rl_train.steps={rl.steps}: there would be no snapshot"
        )
    supervised = algorithm.trainer == "sft"
    if supervised:
        _check_supervised(values)
    elif algorithm.rollouts_per_prompt < 2:
        raise PipelineError(
            "algorithm.rollouts_per_prompt: must be at least 2, "
            "since advantages compare the rollouts of one prompt"
        )
    _check_advantages(algorithm)
    _check_processes(compute)
    _check_adapters(algorithm, rl)
    _check_reground(rl, compute)
    _check_split(algorithm, compute)
    room = values.task.max_prompt_tokens + algorithm.max_response_tokens
    if compute.vllm_max_model_len is not None and compute.vllm_max_model_len < room:
        raise PipelineError(
            f"compute.vllm_max_model_len={compute.vllm_max_model_len} has no room for "
            f"task.max_prompt_tokens + algorithm.max_response_tokens = {room}"
        )


def _check_names(algorithm: AlgorithmConfig) -> None:
    one_of("algorithm.trainer", algorithm.trainer, ("grpo", "rloo", "sft"))
    one_of("algorithm.advantage", algorithm.advantage, ADVANTAGES)
    one_of("algorithm.loss_type", algorithm.loss_type, LOSSES)
    one_of("algorithm.importance_sampling_level", algorithm.importance_sampling_level, LEVELS)
    one_of("algorithm.scale_rewards", algorithm.scale_rewards, SCALES)
    one_of("algorithm.rollout_correction", algorithm.rollout_correction, ("off", *LEVELS))
    one_of("algorithm.optimizer", algorithm.optimizer, OPTIMIZERS)
    one_of("algorithm.lr_schedule", algorithm.lr_schedule, SCHEDULES)
    level = _NEEDS_LEVEL.get(algorithm.loss_type, algorithm.importance_sampling_level)
    if algorithm.trainer == "grpo" and algorithm.importance_sampling_level != level:
        raise PipelineError(
            f"algorithm.importance_sampling_level: loss_type={algorithm.loss_type} needs {level}"
        )
    if algorithm.loss_type == "cispo" and algorithm.epsilon_high <= 1.0:
        raise PipelineError(
            f"algorithm.epsilon_high={algorithm.epsilon_high}: loss_type=cispo takes it as the "
            "largest ratio, not as its distance from 1; set it above 1, e.g. 5.0"
        )


def _check_advantages(algorithm: AlgorithmConfig) -> None:
    if algorithm.sft_noise_db is not None and algorithm.trainer != "sft":
        raise PipelineError(
            f"algorithm.sft_noise_db={algorithm.sft_noise_db} is for algorithm.trainer=sft alone"
        )
    if algorithm.advantage != "trl" and algorithm.trainer != "grpo":
        raise PipelineError(
            f"algorithm.advantage={algorithm.advantage} needs algorithm.trainer=grpo, not "
            f"{algorithm.trainer}"
        )
    by_batch = algorithm.advantage != "trl" or algorithm.scale_rewards == "batch"
    if algorithm.dynamic_sampling and (algorithm.trainer == "sft" or by_batch):
        raise PipelineError(
            f"algorithm.dynamic_sampling={algorithm.dynamic_sampling} needs advantages within "
            "groups: algorithm.advantage=trl, algorithm.scale_rewards=group or none, and a trainer "
            "with rollouts"
        )


def _check_supervised(values: RlSpec | PipelineConfig) -> None:
    """trainer=sft: a step is a batch of `prompts_per_step` right answers, without rollouts."""
    if values.algorithm.rollouts_per_prompt != 1:
        raise PipelineError(
            f"algorithm.rollouts_per_prompt={values.algorithm.rollouts_per_prompt}: "
            "algorithm.trainer=sft has no rollouts; set it to 1"
        )
    rl = values.rl_train
    for key, wanted in (
        ("compute.vllm_rollouts", values.compute.vllm_rollouts),
        ("rl_train.reground.guard.problems", rl.reground.guard.problems > 0),
        ("rl_train.validation.every", rl.validation.every is not None),
    ):
        if wanted:
            raise PipelineError(f"{key}: algorithm.trainer=sft generates nothing; leave it out")


def _check_adapters(algorithm: AlgorithmConfig, rl: RlConfig) -> None:
    if not algorithm.lora.rank:
        return
    if not algorithm.lora.targets:
        raise PipelineError("algorithm.lora.targets: names no module; give [all-linear], say")
    if rl.snapshot_dtype.startswith(DELTA):
        raise PipelineError(
            f"rl_train.snapshot_dtype={rl.snapshot_dtype}: snapshots of adapters are adapters; set "
            f"it to {rl.snapshot_dtype.removeprefix(DELTA)}"
        )
    if rl.reground.every is not None:
        raise PipelineError(
            "rl_train.reground.every: a line through the factors of adapters is none through the "
            "weights; set algorithm.lora.rank=0 or leave the jumps out"
        )


def _check_processes(compute: ComputeConfig) -> None:
    one_of("compute.launcher", compute.launcher, ("none", "deepspeed", "torchrun"))
    if compute.launcher == "none" and compute.world_size > 1:
        raise PipelineError(
            "compute.launcher=none runs one process; "
            "use compute.launcher=deepspeed or torchrun for more"
        )
    if compute.launcher == "none" and compute.zero_stage > 0:
        raise PipelineError(
            f"compute.zero_stage={compute.zero_stage} needs compute.launcher=deepspeed or torchrun"
        )
    for key, least in (("offload", 1), ("offload_parameters", 3)):
        if getattr(compute, key) and compute.zero_stage < least:
            raise PipelineError(f"compute.{key}=true needs compute.zero_stage={least} or more")
    for launcher, key in (("torchrun", "master_address"), ("deepspeed", "hostfile")):
        if compute.launcher == launcher and compute.nodes > 1 and getattr(compute, key) is None:
            raise PipelineError(f"compute.{key}: {launcher} over several nodes needs it")


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
    if share % min(algorithm.micro_batch, share):
        raise PipelineError(
            f"algorithm.micro_batch={algorithm.micro_batch} does not divide the {share} rollouts "
            "that each process takes per update; choose a divisor"
        )


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


def one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is not among the allowed ones.

    Raises:
        PipelineError: names the key, and the nearest value that there is.
    """
    if value not in allowed:
        near = difflib.get_close_matches(value, allowed, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise PipelineError(f"{key}: {value!r} is not one of {', '.join(allowed)}{hint}")
