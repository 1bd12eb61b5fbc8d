"""Values of a spec that cannot work, refused before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.training.spec import DELTA, SNAPSHOT_DTYPES, RlSpec, SftSpec, Spec

LAUNCHERS = ("none", "deepspeed", "torchrun")
ROLLOUTS = ("transformers", "vllm_colocate", "vllm_server")
TRAINERS = ("grpo", "rloo")
SIZES = ("layers", "hidden", "intermediate", "heads", "kv_heads", "max_positions")


def check(spec: Spec) -> None:
    """Refuse values that cannot work, naming the key and the fix.

    Raises:
        PipelineError: at the first bad value.
    """
    _check_common(spec)
    if isinstance(spec, SftSpec):
        if (spec.model is None) == (spec.architecture is None):
            raise PipelineError("sft spec: give exactly one of model and architecture")
        for key in SIZES if spec.architecture is not None else ():
            _positive(f"architecture.{key}", getattr(spec.architecture, key))
        if not 0 <= spec.wrong_answers < 1:
            raise PipelineError(f"wrong_answers is {spec.wrong_answers}; it is a share, below 1")
        _check_split("batch_size", spec.batch_size, spec)
        return
    _one_of("trainer", spec.trainer, TRAINERS)
    _one_of("rollouts", spec.rollouts, ROLLOUTS)
    _one_of("importance_sampling_level", spec.importance_sampling_level, ("token", "sequence"))
    _one_of("scale_rewards", spec.scale_rewards, ("group", "batch", "none"))
    _one_of("snapshot_dtype", spec.snapshot_dtype, SNAPSHOT_DTYPES)
    if spec.snapshot_dtype.startswith(DELTA) and not Path(spec.model).is_dir():
        raise PipelineError(
            f"snapshot_dtype is {spec.snapshot_dtype!r}, but model {spec.model!r} is no folder "
            "whose files the deltas could refer to; give the folder of a download"
        )
    if spec.rollouts_per_prompt < 2:
        raise PipelineError("rollouts_per_prompt must be at least 2: the group is the baseline")
    if spec.temperature <= 0:
        raise PipelineError(f"temperature is {spec.temperature}; rollouts need it above 0")
    for key in ("snapshot_every", "updates_per_step", "prompts_per_step", "max_response_tokens"):
        _positive(key, getattr(spec, key))
    _check_split("prompts_per_step x rollouts_per_prompt", spec.rollouts_per_step, spec)


def _check_common(spec: Spec) -> None:
    compute = spec.compute
    _one_of("compute.launcher", compute.launcher, LAUNCHERS)
    _one_of("compute.zero_stage", compute.zero_stage, (0, 1, 2, 3))
    for key in ("steps", "checkpoint_every", "micro_batch"):
        _positive(key, getattr(spec, key))
    for key in ("processes", "nodes"):
        _positive(f"compute.{key}", getattr(compute, key))
    if compute.launcher == "none" and compute.world_size > 1:
        raise PipelineError(
            f"compute asks for {compute.world_size} processes without a launcher; "
            "set compute.launcher to deepspeed or torchrun"
        )
    if compute.zero_stage > 0 and compute.launcher == "none":
        raise PipelineError(
            f"compute.zero_stage is {compute.zero_stage} without a launcher; "
            "set compute.launcher to deepspeed or torchrun, or zero_stage to 0"
        )
    if spec.optimizer.learning_rate <= 0:
        raise PipelineError(f"learning_rate is {spec.optimizer.learning_rate}; set it above 0")


def _check_split(what: str, total: int, spec: Spec) -> None:
    """`total` sequences must divide over updates, processes and micro-batches."""
    count = spec.updates_per_step if isinstance(spec, RlSpec) else 1
    share, rest = divmod(total, count * spec.compute.world_size)
    if rest or share == 0:
        raise PipelineError(
            f"{what} = {total} does not divide into {count} update(s) on "
            f"{spec.compute.world_size} process(es); choose a multiple of their product"
        )
    micro = min(spec.micro_batch, share)
    if share % micro:
        raise PipelineError(
            f"micro_batch = {spec.micro_batch} does not divide the {share} sequences that each "
            "process takes per update; choose a divisor"
        )


def micro_batches(spec: Spec) -> tuple[int, int]:
    """(sequences per forward pass, forward passes per optimiser update) on each process."""
    if isinstance(spec, RlSpec):
        share = spec.rollouts_per_step // (spec.updates_per_step * spec.compute.world_size)
    else:
        share = spec.batch_size // spec.compute.world_size
    micro = min(spec.micro_batch, share)
    return micro, share // micro


def _one_of(key: str, value: Any, known: tuple[Any, ...]) -> None:
    if value not in known:
        raise PipelineError(f"{key} is {value!r}; it must be one of {list(known)}")


def _positive(key: str, value: int) -> None:
    if value < 1:
        raise PipelineError(f"{key} is {value}; it must be at least 1")
