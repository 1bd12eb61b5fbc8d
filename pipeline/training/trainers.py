"""TRL's trainers, wired: SFT for the base model, GRPO (or RLOO) for the run to extrapolate.

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

from transformers import AutoTokenizer, PreTrainedTokenizerBase, Trainer
from transformers.trainer_callback import PrinterCallback
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.rloo_config import RLOOConfig
from trl.trainer.rloo_trainer import RLOOTrainer
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from pipeline.config import AlgorithmConfig
from pipeline.errors import PipelineError
from pipeline.tasks import Problem, grade_many, reward_function
from pipeline.training.accuracy import Accuracy, ValidationCallback
from pipeline.training.callbacks import Log, MetricsCallback, SnapshotCallback, WholeCheckpoints
from pipeline.training.check import micro_batches
from pipeline.training.data import load_split, rl_rows, sft_rows, training_problems
from pipeline.training.devices import rollout_arguments, trainer_arguments
from pipeline.training.reground import RegroundCallback
from pipeline.training.spec import RlSpec, SftSpec, Spec


class Sft(WholeCheckpoints, SFTTrainer):
    """SFTTrainer with whole checkpoints."""


class Grpo(WholeCheckpoints, GRPOTrainer):
    """GRPOTrainer with whole checkpoints."""


class Rloo(WholeCheckpoints, RLOOTrainer):
    """RLOOTrainer with whole checkpoints."""


def sft_arguments(spec: SftSpec) -> SFTConfig:
    """TRL's configuration for `spec`. Building it joins the process group."""
    return SFTConfig(
        output_dir=str(Path(spec.output) / "checkpoints"),
        max_steps=spec.steps,
        save_steps=spec.checkpoint_every,
        logging_steps=1,
        shuffle_dataset=False,
        train_sampling_strategy="sequential",
        dataset_kwargs={"skip_prepare_dataset": True},
        model_init_kwargs=_model_arguments(spec),
        **trainer_arguments(spec),
    )


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


def rl_arguments(spec: RlSpec) -> GRPOConfig | RLOOConfig:
    """TRL's configuration for `spec`. Building it joins the process group."""
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
        **rollout_arguments(spec),
        **shared,
    }
    if algorithm.trainer == "rloo":
        return RLOOConfig(**common)
    return GRPOConfig(
        loss_type=algorithm.loss_type,
        importance_sampling_level=algorithm.importance_sampling_level,
        scale_rewards=algorithm.scale_rewards,
        **_correction(algorithm),
        **common,
    )


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


def build_rl(spec: RlSpec, args: GRPOConfig | RLOOConfig, log: Log | None) -> Trainer:
    """The trainer for `spec`, with snapshots."""
    task, algorithm, model = spec.task, spec.algorithm, str(spec.model.path)
    tokenizer = load_tokenizer(model, spec.model.trust_remote_code)
    problems = training_problems(spec, tokenizer)
    snapshots = SnapshotCallback(
        Path(spec.output) / "snapshots",
        spec.rl_train.snapshot_every,
        algorithm.updates_per_step,
        spec.rl_train.snapshot_dtype,
        tokenizer,
        Path(model),
    )
    updates = algorithm.updates_per_step
    metrics = _metrics(spec, updates, log)
    trainer_class: Any = Rloo if algorithm.trainer == "rloo" else Grpo
    trainer: WholeCheckpoints = trainer_class(
        model=model,
        reward_funcs=reward_function(task),
        args=args,
        train_dataset=rl_rows(problems, spec.steps * algorithm.prompts_per_step, spec.seed),
        processing_class=tokenizer,
        callbacks=[snapshots, metrics],
    )
    trainer.updates = updates
    trainer.remove_callback(PrinterCallback)
    reground, validation = spec.rl_train.reground, spec.rl_train.validation
    if reground.every is not None:
        judged, samples = reground.guard.problems, reground.guard.samples
        guard = _accuracy(spec, trainer, judged, samples) if judged else None
        jumps = RegroundCallback(reground, Path(spec.output), updates, guard)
        trainer.add_callback(jumps)  # behind the snapshots: they hold what real steps made
    if validation.every is not None:
        accuracy = _accuracy(spec, trainer, validation.problems, validation.samples)
        seen = ValidationCallback(validation.every, updates, accuracy, metrics, spec.seed)
        trainer.add_callback(seen)
    return trainer


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
        reason = str(error).splitlines()[0]
        raise PipelineError(f"{model}: no tokenizer can be loaded from there ({reason})") from None


def _metrics(spec: Spec, updates: int, log: Log | None) -> MetricsCallback:
    path = Path(spec.output) / "metrics.jsonl"
    return MetricsCallback(spec.kind, path, spec.steps, updates, log)


def _model_arguments(spec: Spec) -> dict[str, Any]:
    return {
        "dtype": "float32",  # master weights; bf16 is what the forward pass is cast to
        "attn_implementation": spec.model.attention,
        "trust_remote_code": spec.model.trust_remote_code,
        "device_map": None,
    }
