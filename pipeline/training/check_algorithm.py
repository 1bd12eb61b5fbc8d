"""Values of an algorithm that cannot work, or that would be another algorithm than their names say:
`pipeline.training.check` calls these before anything is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.errors import PipelineError
from pipeline.fields import nearest
from pipeline.training.schema import AlgorithmConfig, RlConfig
from pipeline.training.spec import DELTA, RlSpec

if TYPE_CHECKING:
    from pipeline.config import PipelineConfig

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
_NEEDS_LEVEL = {"luspo": "sequence", "vespo": "token"}


def check_names(algorithm: AlgorithmConfig) -> None:
    one_of("algorithm.trainer", algorithm.trainer, ("grpo", "rloo", "sft"))
    one_of("algorithm.advantage", algorithm.advantage, ADVANTAGES)
    one_of("algorithm.loss_type", algorithm.loss_type, LOSSES)
    one_of("algorithm.importance_sampling_level", algorithm.importance_sampling_level, LEVELS)
    one_of("algorithm.scale_rewards", algorithm.scale_rewards, SCALES)
    one_of("algorithm.rollout_correction", algorithm.rollout_correction, ("off", *LEVELS))
    one_of("algorithm.optimizer", algorithm.optimizer, OPTIMIZERS)
    one_of("algorithm.lr_schedule", algorithm.lr_schedule, SCHEDULES)
    if algorithm.trainer == "rloo" and algorithm.rollout_correction != "off":
        raise PipelineError(
            f"algorithm.rollout_correction={algorithm.rollout_correction}: trainer=rloo has none; "
            "set it to off"
        )
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


def check_advantages(algorithm: AlgorithmConfig) -> None:
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


def check_supervised(values: RlSpec | PipelineConfig) -> None:
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


def check_adapters(algorithm: AlgorithmConfig, rl: RlConfig) -> None:
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


def one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is not among the allowed ones.

    Raises:
        PipelineError: names the key, and the nearest value that there is.
    """
    if value not in allowed:
        hint = nearest(value, allowed)
        raise PipelineError(f"{key}: {value!r} is not one of {', '.join(allowed)}{hint}")
