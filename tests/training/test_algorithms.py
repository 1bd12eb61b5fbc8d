"""What the files in conf/algorithm mean. Faults caught: a value that does not reach TRL, or means
something else there; an advantage of the wrong mean or scale; one algorithm that is another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.artifacts import read_jsonl
from pipeline.training import check_algorithm
from pipeline.training.advantages import OWN, own_advantages
from pipeline.training.worker import run
from tests.training.algorithms import (
    LENGTHS,
    REWARDS,
    gradient,
    log_probs,
    named,
    older,
    responses,
    trainer_of,
)
from tests.training.pico import changed, rl_spec, weights

GROUPS = REWARDS.view(2, 4)
ALGORITHMS = (
    *("grpo", "dr_grpo", "dapo", "gspo", "cispo", "reinforce_pp", "reinforce_pp_baseline"),
    *("rloo", "sft", "sft_noise"),
)


def group_scaled() -> torch.Tensor:
    spread = GROUPS.std(1, keepdim=True) + 1e-4
    return ((GROUPS - GROUPS.mean(1, keepdim=True)) / spread).view(-1)


def whitened(values: torch.Tensor) -> torch.Tensor:
    """By mean and deviation over tokens: every value as often as its response has tokens."""
    tokens = values.repeat_interleave(LENGTHS)
    return (values - tokens.mean()) / tokens.std(correction=0)


def advantages_by_hand(name: str) -> torch.Tensor:
    centred = (GROUPS - GROUPS.mean(1, keepdim=True)).view(-1)
    if name == "dr_grpo":
        return centred
    if name == "reinforce_pp":
        return whitened(REWARDS)
    if name == "reinforce_pp_baseline":
        return whitened(centred)
    if name == "rloo":
        others = (GROUPS.sum(1, keepdim=True) - GROUPS) / 3
        return (GROUPS - others).view(-1)
    return group_scaled()


def loss_by_hand(name: str, now: torch.Tensor, old: torch.Tensor, mask: Any) -> torch.Tensor:
    advantage = advantages_by_hand(name)[:, None]
    log_ratio, lengths = (now - old) * mask, mask.sum(1)

    def clipped(ratio: torch.Tensor, low: float, high: float) -> torch.Tensor:
        return -torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)

    if name == "grpo":
        return ((clipped(log_ratio.exp(), 0.2, 0.28) * mask).sum(1) / lengths).mean()
    if name == "gspo":
        mean = (log_ratio.sum(1) / lengths)[:, None]
        return clipped(mean.exp(), 3e-4, 4e-4).mean()
    if name == "rloo":
        return clipped(log_ratio.sum(1, keepdim=True).exp(), 0.2, 0.28).mean()
    if name == "dr_grpo":  # responses x the longest there may be
        return (clipped(log_ratio.exp(), 0.2, 0.2) * mask).sum() / (8 * 4)
    if name == "cispo":
        return -(log_ratio.exp().clamp(max=5.0).detach() * advantage * now * mask).sum() / 21
    high = 0.28 if name == "dapo" else 0.2
    return (clipped(log_ratio.exp(), 0.2, high) * mask).sum() / 21


def through_trl(name: str, base: Path, output: Path) -> tuple[Any, Any, torch.Tensor]:
    """(trainer, batch with the advantages that it computes, their loss's gradient)."""
    trainer = trainer_of(named(name, output, base))
    batch = responses(trainer)
    old = older(trainer, batch)
    rlooed = {"old_logps": (old * batch["completion_mask"]).sum(1)}
    batch |= rlooed if name == "rloo" else {"old_per_token_logps": old}
    batch["advantages"] = advantages_by_hand(name).to(old)
    return trainer, batch, gradient(trainer.model, trainer._compute_loss(trainer.model, batch))


@pytest.mark.parametrize("name", ALGORITHMS[:-2])
def test_losses_by_hand(name: str, base: Path, tmp_path: Path) -> None:
    """Value and gradient: of CISPO's stopped gradient the value says nothing."""
    trainer, batch, found = through_trl(name, base, tmp_path)
    loss = trainer._compute_loss(trainer.model, batch)
    now, old = log_probs(trainer.model, batch).cpu(), older(trainer, batch).cpu()
    wanted = loss_by_hand(name, now, old, batch["completion_mask"].cpu())
    torch.testing.assert_close(loss.cpu(), wanted, rtol=1e-5, atol=1e-6)
    by_hand = gradient(trainer.model, wanted)
    torch.testing.assert_close(found, by_hand, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ALGORITHMS[:-2])
def test_advantages_by_hand(name: str, base: Path, tmp_path: Path) -> None:
    """Of responses that the trainer generates; their rewards are given."""
    trainer = trainer_of(named(name, tmp_path, base, dynamic_sampling=0))
    rows = [trainer.train_dataset[at // 4] for at in range(8)]
    batch = trainer._generate_and_score_completions(rows)
    if name in OWN:
        lengths = batch["completion_mask"].sum(1).cpu()
        values = REWARDS
        if name == "reinforce_pp_baseline":
            values = (GROUPS - GROUPS.mean(1, keepdim=True)).view(-1)
        tokens = values.repeat_interleave(lengths)
        wanted = (values - tokens.mean()) / tokens.std(correction=0)
    else:
        wanted = advantages_by_hand(name)
    torch.testing.assert_close(batch["advantages"].cpu(), wanted, rtol=1e-5, atol=1e-6)


PAIRS = [
    *[("gspo", "grpo"), ("dr_grpo", "grpo"), ("dapo", "grpo"), ("cispo", "dapo")],
    *[("reinforce_pp", "reinforce_pp_baseline"), ("rloo", "grpo"), ("reinforce_pp", "grpo")],
]


@pytest.mark.parametrize(("one", "two"), PAIRS)
def test_pairs_are_told_apart(one: str, two: str, base: Path, tmp_path: Path) -> None:
    """Another direction of the step, not only another length of it."""
    first, second = (through_trl(name, base, tmp_path / name)[2] for name in (one, two))
    assert torch.cosine_similarity(first, second, dim=0) < 0.99


def test_equal_rewards_have_no_advantage() -> None:
    """Catches a division by zero, or noise that is blown up."""
    for kind in OWN:
        found = own_advantages(kind, torch.full((8,), 0.3), LENGTHS, 4)
        assert torch.allclose(found, torch.zeros(8), atol=1e-6)
        nothing = own_advantages(kind, REWARDS, torch.zeros(8, dtype=torch.long), 4)
        assert bool(nothing.isfinite().all())
    assert set(OWN) == set(check_algorithm.ADVANTAGES) - {"trl"}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_one_batch_equals_its_parts_accumulated(name: str, base: Path, tmp_path: Path) -> None:
    """Catches a loss averaged by parts where it is not a mean of parts, or signs of noise that
    depend on them. SGD: with Adam two gradients of another length would give the same step.
    """
    found = []
    for size in (32, 8):
        prompts = 32 if name.startswith("sft") else 8
        sizes = {"prompts_per_step": prompts, "micro_batch": size, "optimizer": "sgd"}
        spec = named(name, tmp_path / str(size), base, **sizes)
        spec = changed(spec, steps=1, snapshot_every=1, learning_rate=0.1, max_grad_norm=0.0)
        run(spec)
        found.append((tmp_path / str(size), read_jsonl(tmp_path / str(size) / "metrics.jsonl")))
    (whole, (row,)), (part, (other,)) = found
    before, after = weights(base), weights(whole / "snapshots/step_1")
    moved = max(float((after[name] - before[name]).abs().max()) for name in after)
    assert moved > 1e-3
    assert other["loss"] == pytest.approx(row["loss"], abs=2e-6)
    assert other["grad_norm"] == pytest.approx(row["grad_norm"], rel=1e-4)
    for key, value in weights(part / "snapshots/step_1").items():
        torch.testing.assert_close(value, after[key], rtol=0, atol=1e-4 * moved)


@pytest.mark.parametrize(("optimizer", "rate"), [("sgd", 0.02), ("adamw_torch", 1e-3)])
def test_the_first_step_of_an_optimizer(
    optimizer: str, rate: float, base: Path, tmp_path: Path
) -> None:
    """SGD's is the clipped gradient times the rate, Adam's is the rate for each weight."""
    values = {"optimizer": optimizer, "learning_rate": rate, "max_grad_norm": 0.5}
    spec = rl_spec(tmp_path, base, steps=1, snapshot_every=1, updates_per_step=1, **values)
    run(spec)
    (row,) = read_jsonl(tmp_path / "metrics.jsonl")
    before, after = weights(base), weights(tmp_path / "snapshots/step_1")
    moves = torch.cat([(after[n].double() - before[n].double()).flatten() for n in after])
    if optimizer == "sgd":
        wanted = rate * min(row["grad_norm"], 0.5)
        assert float(moves.norm()) == pytest.approx(wanted, rel=1e-3)
    else:
        moved = moves[moves != 0].abs()
        assert float(moved.median()) == pytest.approx(rate, rel=0.01)
        assert float(moved.max()) <= rate * 1.001
