"""The configuration as the plain specs that training processes read."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.stages.base import Context

if TYPE_CHECKING:
    from pipeline.training.spec import Compute, RlSpec, SftSpec, TaskSpec


def sft_spec(context: Context, output: Path) -> SftSpec:
    """Supervised training of a model made from scratch. Always one process: it is small."""
    from pipeline.training.spec import Architecture, Compute, Optimizer, SftSpec, build

    config = context.config
    sft = config.sft_train
    return SftSpec(
        output=str(output),
        task=_task(context, sft.split, sft.problems),
        architecture=build(Architecture, config.model.architecture, "model.architecture"),
        optimizer=Optimizer(
            learning_rate=sft.learning_rate,
            schedule=sft.lr_schedule,
            warmup_steps=sft.warmup_steps,
        ),
        wrong_answers=sft.wrong_answers,
        wrong_from=sft.wrong_from,
        steps=sft.steps,
        batch_size=sft.batch_size,
        checkpoint_every=max(1, sft.steps // 4),
        compute=Compute(threads=config.compute.threads),
        seed=config.seed,
    )


def rl_spec(context: Context, output: Path, model: Path) -> RlSpec:
    """The RL run."""
    from pipeline.training.spec import Optimizer, RlSpec

    config = context.config
    algorithm, rl = config.algorithm, config.rl_train
    return RlSpec(
        output=str(output),
        model=str(model),
        task=_task(context, "train", rl.problems),
        optimizer=Optimizer(
            learning_rate=algorithm.learning_rate,
            name=algorithm.optimizer,
            schedule=algorithm.lr_schedule,
            warmup_steps=algorithm.warmup_steps,
            weight_decay=algorithm.weight_decay,
            beta1=algorithm.adam_beta1,
            beta2=algorithm.adam_beta2,
            max_grad_norm=algorithm.max_grad_norm,
        ),
        steps=rl.steps,
        snapshot_every=rl.snapshot_every,
        snapshot_dtype=rl.snapshot_dtype,
        checkpoint_every=rl.checkpoint_every,
        reground=rl.reground,
        prompts_per_step=algorithm.prompts_per_step,
        rollouts_per_prompt=algorithm.rollouts_per_prompt,
        max_response_tokens=algorithm.max_response_tokens,
        trainer=algorithm.trainer,
        loss_type=algorithm.loss_type,
        updates_per_step=algorithm.updates_per_step,
        epsilon=algorithm.epsilon,
        epsilon_high=algorithm.epsilon_high,
        kl_beta=algorithm.kl_beta,
        importance_sampling_level=algorithm.importance_sampling_level,
        scale_rewards=algorithm.scale_rewards,
        temperature=algorithm.temperature,
        top_p=algorithm.top_p,
        micro_batch=algorithm.micro_batch,
        rollouts="vllm_colocate" if config.compute.vllm_rollouts else "transformers",
        vllm_memory=config.compute.vllm_memory,
        compute=_compute(context),
        trust_remote_code=config.model.trust_remote_code,
        seed=config.seed,
    )


def _task(context: Context, split: str, problems: int | None) -> TaskSpec:
    from pipeline.training.spec import TaskSpec

    task = context.config.task
    return TaskSpec(
        name=task.name,
        kind=task.kind,
        dataset=asdict(task.dataset) if task.dataset is not None else None,
        prompt_template=task.prompt_template,
        system_prompt=task.system_prompt,
        grade_after=task.grade_after,
        options=task.options,
        split=split,
        problems=problems,
        seed=context.config.seed,
        max_prompt_tokens=task.max_prompt_tokens,
    )


def _compute(context: Context) -> Compute:
    from pipeline.training.spec import Compute

    compute = context.config.compute
    return Compute(
        launcher=compute.launcher,
        processes=compute.processes,
        nodes=compute.nodes,
        zero_stage=compute.zero_stage,
        offload_optimizer=compute.offload,
        bf16=compute.bf16,
        attention=context.config.model.attention,
        gradient_checkpointing=compute.gradient_checkpointing,
        threads=compute.threads,
    )
