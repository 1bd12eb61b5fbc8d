"""One fixed batch of responses, and what the files in conf/algorithm make of it through TRL's
trainers; nothing is generated here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pipeline.training.spec import RlSpec
from pipeline.training.trainers import build_rl, rl_arguments
from tests.test_configs import composed
from tests.training.pico import rl_spec

SIZES = {
    "prompts_per_step": 2,
    "rollouts_per_prompt": 4,
    "updates_per_step": 1,
    "micro_batch": 1024,
    "max_response_tokens": 4,
}
LENGTHS = torch.tensor([1, 4, 2, 3, 4, 4, 1, 2])
REWARDS = torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0])


def named(name: str, output: Path, base: Path, **changes: Any) -> RlSpec:
    """A run of conf/algorithm/`name`.yaml, of the least size."""
    algorithm = composed(f"algorithm={name}").algorithm
    supervised = {"prompts_per_step": 8, "rollouts_per_prompt": 1}
    sizes = SIZES | (supervised if algorithm.trainer == "sft" else {})
    return rl_spec(output, base, algorithm=replace(algorithm, **(sizes | changes)))


def trainer_of(spec: RlSpec, rewards: torch.Tensor = REWARDS) -> Any:
    """TRL's trainer, in training mode, whose responses get `rewards`, whatever they say."""
    trainer: Any = build_rl(spec, rl_arguments(spec), None)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    trainer.reward_funcs = [lambda prompts, **columns: rewards[: len(prompts)].tolist()]
    return trainer


def placed(trainer: Any, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The batch on the trainer's device."""
    return {name: values.to(trainer.accelerator.device) for name, values in batch.items()}


def responses(trainer: Any) -> dict[str, torch.Tensor]:
    """8 responses to 2 prompts of different lengths; ids are those of digits."""
    rng = torch.Generator().manual_seed(0)
    mask = (torch.arange(4) < LENGTHS[:, None]).long()
    prompt_mask = torch.ones(8, 4, dtype=torch.long)
    prompt_mask[4:, 0] = 0
    batch = {
        "prompt_ids": torch.randint(2, 12, (8, 4), generator=rng),
        "prompt_mask": prompt_mask,
        "completion_ids": torch.randint(2, 12, (8, 4), generator=rng) * mask,
        "completion_mask": mask,
        "num_items_in_batch": mask.sum(),
    }
    return placed(trainer, batch)


def log_probs(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """log p of every token of the responses [8, 4], in plain torch."""
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    seen = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    logits = model(input_ids=ids, attention_mask=seen).logits[:, 3:-1]
    found: torch.Tensor = logits.log_softmax(-1).gather(2, ids[:, 4:, None]).squeeze(2)
    return found


def older(trainer: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """log p under the policy that sampled: ratios from e^-0.6 to e^0.6 and one of e^2, of some
    responses all within the bounds of tokens and, on average, beyond those of sequences."""
    now = log_probs(trainer.model, batch).detach()
    moves = torch.linspace(-0.2, 0.2, 8)[:, None] + torch.tensor([0.0, 0.1, -0.4, 0.4])
    moves[1, 2] = -2.0
    return now + moves.to(now)


def gradient(model: Any, loss: torch.Tensor) -> torch.Tensor:
    """Of all parameters, as one vector."""
    parts = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
    return torch.cat([part.flatten() for part in parts])
