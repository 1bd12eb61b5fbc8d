"""TRL's trainers, wired: SFT for the base model, GRPO (or RLOO, or SFT again) for the run to
extrapolate.

Resuming. TRL refills its buffer of rollouts at every multiple of `steps_per_generation` of a
counter that starts at 0 in each process, and reshuffles its data with a generator that it does
not save. Both are exact here because a checkpoint is only written between steps, when the buffer
is used up, and because the whole run is one unshuffled pass over rows in their final order. The
rest (weights, optimiser, schedule, random states of every rank) is in the checkpoint.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Trainer
from transformers.trainer_callback import PrinterCallback

from pipeline.errors import PipelineError, first_line
from pipeline.tasks import Problem, grade_many, reward_function, training_rows
from pipeline.training.accuracy import Accuracy, ValidationCallback
from pipeline.training.batches import RolloutBatches
from pipeline.training.callbacks import SnapshotCallback, WholeCheckpoints
from pipeline.training.check import micro_batches
from pipeline.training.data import load_split, rl_rows, sft_rows, training_problems
from pipeline.training.devices import one_device, trainer_arguments
from pipeline.training.groups import Plan, RolloutGroups
from pipeline.training.live_probe import LinearityCallback
from pipeline.training.metrics import Log, MetricsCallback
from pipeline.training.reground import RegroundCallback
from pipeline.training.rollouts import seed_rank, serve_by_vllm
from pipeline.training.schema import AlgorithmConfig, LoraConfig
from pipeline.training.sft_noise import Sft
from pipeline.training.spec import RlSpec, SftSpec, Spec
from pipeline.training.trl_trainers import (
    GRPOConfig,
    GRPOTrainer,
    RLOOConfig,
    RLOOTrainer,
    SFTConfig,
)

RlArguments = GRPOConfig | RLOOConfig | SFTConfig


class Grpo(RolloutGroups, RolloutBatches, GRPOTrainer):
    """GRPOTrainer with whole checkpoints, whole groups, short batches and a say in its rollouts."""


class Rloo(RolloutGroups, RolloutBatches, RLOOTrainer):
    """RLOOTrainer with the same."""


def sft_arguments(spec: Spec) -> SFTConfig:
    """TRL's configuration for supervised training. Building it joins the process group."""
    updates = spec.algorithm.updates_per_step if isinstance(spec, RlSpec) else 1
    args = SFTConfig(
        output_dir=str(Path(spec.output) / "checkpoints"),
        max_steps=spec.steps * updates,
        save_steps=spec.checkpoint_every * updates,
        logging_steps=updates,
        max_length=None,  # no row is cut: task.max_prompt_tokens leaves long ones out
        shuffle_dataset=False,
        train_sampling_strategy="sequential",
        dataset_kwargs={"skip_prepare_dataset": True},
        model_init_kwargs=_model_arguments(spec),
        **trainer_arguments(spec),
    )
    one_device(args)
    return args


def build_sft(spec: SftSpec, args: SFTConfig, model: str, log: Log | None) -> Trainer:
    """The trainer for `spec`, starting from the folder or hub id `model`."""
    tokenizer = load_tokenizer(model, spec.model.trust_remote_code)
    problems = training_problems(spec, tokenizer)
    trainer = Sft(
        model=model,
        args=args,
        train_dataset=sft_rows(problems, spec, tokenizer),
        processing_class=tokenizer,
        callbacks=[_metrics(spec, 1, log)],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def rl_arguments(spec: RlSpec) -> RlArguments:
    """TRL's configuration for `spec`. Building it joins the process group."""
    if spec.algorithm.trainer == "sft":
        return sft_arguments(spec)
    shared, algorithm = trainer_arguments(spec), spec.algorithm
    updates = algorithm.updates_per_step
    common: dict[str, Any] = {
        "output_dir": str(Path(spec.output) / "checkpoints"),
        "max_steps": spec.steps * updates,
        "save_steps": spec.checkpoint_every * updates,
        "logging_steps": updates,
        "steps_per_generation": shared["gradient_accumulation_steps"] * updates,
        "num_generations": algorithm.rollouts_per_prompt,
        "max_completion_length": algorithm.max_response_tokens,
        "temperature": algorithm.temperature,
        "top_p": algorithm.top_p,
        "top_k": algorithm.top_k,
        "beta": algorithm.kl_beta,
        "epsilon": algorithm.epsilon,
        "epsilon_high": algorithm.epsilon_high,
        "mask_truncated_completions": algorithm.mask_truncated,
        "shuffle_dataset": False,
        "model_init_kwargs": _model_arguments(spec),
        **shared,
    }
    args: GRPOConfig | RLOOConfig
    if algorithm.trainer == "rloo":
        args = RLOOConfig(**common)
    else:
        args = GRPOConfig(
            loss_type=algorithm.loss_type,
            importance_sampling_level=algorithm.importance_sampling_level,
            scale_rewards=algorithm.scale_rewards,
            **_correction(algorithm),
            **common,
        )
    one_device(args)
    return args


def _correction(algorithm: AlgorithmConfig) -> dict[str, Any]:
    """What is done about log-probs of vLLM's rollouts that differ from the trainer's.

    TRL by itself leaves out whole responses by the ratio of their probabilities, which grows with
    their length: of long ones few are left. "off" is the published recipe.
    """
    level = algorithm.rollout_correction
    return {
        "vllm_importance_sampling_correction": level != "off",
        "vllm_importance_sampling_mode": "token_truncate"
        if level == "off"
        else f"{level}_truncate",
        "vllm_importance_sampling_clip_max": algorithm.rollout_correction_cap,
    }


def build_rl(spec: RlSpec, args: RlArguments, log: Log | None) -> Trainer:
    """The trainer for `spec`, with snapshots."""
    algorithm, model = spec.algorithm, str(spec.model.path)
    tokenizer = load_tokenizer(model, spec.model.trust_remote_code)
    problems = training_problems(spec, tokenizer)
    updates = algorithm.updates_per_step
    metrics = _metrics(spec, updates, log)
    snapshots = SnapshotCallback(
        Path(spec.output) / "snapshots",
        spec.rl_train.snapshot_every,
        updates,
        spec.rl_train.snapshot_dtype,
        tokenizer,
        Path(model),
        metrics,
        spec.rl_train.snapshot_background,
    )
    callbacks: list[Any] = [snapshots]
    if spec.rl_train.linearity_scalars and not algorithm.lora.rank:
        callbacks.append(_linearity(spec, metrics))
    torch.manual_seed(spec.seed)  # TRL makes adapters before it seeds
    shared: dict[str, Any] = {
        "model": model,
        "processing_class": tokenizer,
        "callbacks": [*callbacks, metrics],
        "peft_config": _adapters(algorithm.lora, model),
    }
    trainer: Any
    rows = spec.steps * algorithm.prompts_per_step
    if isinstance(args, SFTConfig):
        answers = sft_rows(problems, spec, tokenizer)
        trainer = Sft(args=args, train_dataset=answers, **shared)
        trainer.noise_db = algorithm.sft_noise_db
    else:
        trainer_class: Any = Rloo if isinstance(args, RLOOConfig) else Grpo
        posed = rl_rows(problems, rows, spec.seed)
        reward = reward_function(spec.task)
        trainer = trainer_class(reward_funcs=reward, args=args, train_dataset=posed, **shared)
        trainer.plan = _plan(spec, problems)
        trainer.level = "sequence" if algorithm.rollout_correction == "sequence" else "token"
        trainer.cap = algorithm.rollout_correction_cap
    trainer.updates = updates
    seed_rank(trainer, spec.seed)
    if spec.compute.vllm_rollouts:
        serve_by_vllm(trainer, spec)
    trainer.remove_callback(PrinterCallback)
    _add_jumps_and_curve(spec, trainer, metrics)
    return trainer


def _linearity(spec: RlSpec, metrics: MetricsCallback) -> LinearityCallback:
    rl, sharded = spec.rl_train, spec.compute.zero_stage > 0
    updates, scalars = spec.algorithm.updates_per_step, rl.linearity_scalars
    folder = Path(spec.output)
    return LinearityCallback(folder, rl.snapshot_every, updates, scalars, sharded, metrics)


def _plan(spec: RlSpec, problems: list[Problem]) -> Plan:
    algorithm = spec.algorithm
    return Plan(
        folder=Path(spec.output),
        pool=training_rows(problems),
        advantage=algorithm.advantage,
        rounds=algorithm.dynamic_sampling,
        kept=spec.rl_train.rollouts_kept,
        group=algorithm.rollouts_per_prompt,
        seed=spec.seed,
    )


def _adapters(lora: LoraConfig, model: str) -> Any:
    """PEFT's configuration; None where all weights are trained."""
    if not lora.rank:
        return None
    from peft import LoraConfig as PeftLora

    alone = lora.targets == ["all-linear"]
    return PeftLora(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules="all-linear" if alone else lora.targets,
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
        base_model_name_or_path=str(Path(model).resolve()),
    )


def _add_jumps_and_curve(spec: RlSpec, trainer: WholeCheckpoints, metrics: MetricsCallback) -> None:
    """Re-grounding and validation, behind the snapshots: those hold what real steps made."""
    reground, validation = spec.rl_train.reground, spec.rl_train.validation
    updates = spec.algorithm.updates_per_step
    if reground.every is not None:
        judged, samples = reground.guard.problems, reground.guard.samples
        guard = _accuracy(spec, trainer, judged, samples) if judged else None
        trainer.add_callback(RegroundCallback(reground, Path(spec.output), updates, guard))
    if validation.every is not None:
        accuracy = _accuracy(spec, trainer, validation.problems, validation.samples)
        seen = ValidationCallback(validation.every, updates, accuracy, metrics, spec.seed)
        trainer.add_callback(seen)


def _accuracy(spec: RlSpec, trainer: Trainer, count: int, samples: int) -> Accuracy:
    """What measures the model by the task's grader on `count` problems of its validation split."""
    task, problems = spec.task, load_split(spec, "validation", count)

    def right(pairs: list[tuple[Problem, str]]) -> list[bool]:
        return [grade.correct for grade in grade_many(task, pairs)]

    return Accuracy(trainer, problems, right, samples, math.prod(micro_batches(spec)))


def load_tokenizer(model: str, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """The tokenizer of `model`, padding on the left.

    Raises:
        PipelineError: there is none at that path.
    """
    try:
        return AutoTokenizer.from_pretrained(
            model, padding_side="left", trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError) as error:
        reason = first_line(error)
        raise PipelineError(f"{model}: no tokenizer can be loaded from there ({reason})") from None


def _metrics(spec: Spec, updates: int, log: Log | None) -> MetricsCallback:
    path = Path(spec.output) / "metrics.jsonl"
    supervised = isinstance(spec, SftSpec) or spec.algorithm.trainer == "sft"
    names = ("sft_train" if isinstance(spec, SftSpec) else "rl_train", supervised)
    return MetricsCallback(*names, path, spec.steps, updates, log)


def _model_arguments(spec: Spec) -> dict[str, Any]:
    return {
        "dtype": "float32",  # master weights; bf16 is what the forward pass is cast to
        "attn_implementation": spec.model.attention,
        "trust_remote_code": spec.model.trust_remote_code,
        "device_map": None,
    }
