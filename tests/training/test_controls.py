"""Supervised training in place of RL, and its noise. Faults caught: noise without a gradient, of
another power than asked for, or that changes with padding, micro-batches or ranks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.artifacts import read_jsonl
from pipeline.training.launch import launch
from pipeline.training.sft_noise import token_signs
from pipeline.training.worker import run
from tests.training.algorithms import gradient, named, placed, trainer_of
from tests.training.pico import assert_same, changed, compute, weights


def rows() -> dict[str, torch.Tensor]:
    ids = torch.tensor([[3, 4, 5, 6, 7], [3, 4, 5, 8, 0]])
    labels = torch.tensor([[-100, -100, 5, 6, 7], [-100, -100, -100, 8, -100]])
    return {"input_ids": ids, "labels": labels, "attention_mask": (ids > 0).long()}


def test_noise_by_hand(base: Path, tmp_path: Path) -> None:
    """Every token's loss times 1 ± 10^(10/20), the mean over the trained tokens of the batch."""
    trainer = trainer_of(named("sft_noise", tmp_path, base))
    batch = placed(trainer, rows())
    signs = token_signs(batch, seed=0, step=0)
    assert signs.abs().tolist() == [[0, 1, 1, 1], [0, 0, 1, 0]]
    signs = signs.to(trainer.model.device)
    loss = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=torch.tensor(4))
    logits = trainer.model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    targets = batch["labels"][:, 1:].clamp(min=0)[..., None]
    tokens = -logits[:, :-1].log_softmax(-1).gather(2, targets).squeeze(2)
    wanted = (tokens * signs.abs() * (1 + 10**0.5 * signs)).sum() / 4
    torch.testing.assert_close(loss, wanted)
    found, by_hand = (gradient(trainer.model, value) for value in (loss, wanted))
    torch.testing.assert_close(found, by_hand, rtol=1e-4, atol=1e-6)
    plain = gradient(trainer.model, (tokens * signs.abs()).sum() / 4)
    assert torch.cosine_similarity(found, plain, dim=0) < 0.99  # not plain SFT


def test_signs_are_those_of_the_rows() -> None:
    batch = rows()
    padded = {
        key: torch.nn.functional.pad(value, (0, 2), value=-100 if key == "labels" else 0).flip(0)
        for key, value in batch.items()
    }
    assert torch.equal(token_signs(padded, 0, 3).flip(0)[:, :4], token_signs(batch, 0, 3))
    draws = [token_signs(batch, seed, step) for seed in range(20) for step in range(50)]
    assert abs(float(torch.stack(draws)[:, 0, 1:].mean())) < 0.08  # 3,000 signs: 4.4 deviations
    assert len({str(draw.tolist()) for draw in draws}) > 8


@pytest.mark.parametrize("name", ["sft", "sft_noise"])
def test_supervised_training_makes_a_path_and_resumes(
    name: str, base: Path, tmp_path: Path
) -> None:
    specs = [changed(named(name, tmp_path / part, base), steps=4) for part in ("a", "b")]

    def stop(row: dict[str, object]) -> None:
        if row["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(specs[0], stop)
    for spec in specs:
        run(spec)
    for step in (2, 4):
        one, two = (tmp_path / part / f"snapshots/step_{step}" for part in ("a", "b"))
        assert_same(one, two)
    assert [row["step"] for row in read_jsonl(tmp_path / "a/metrics.jsonl")] == [1, 2, 3, 4]


def test_two_ranks_train_as_one(base: Path, tmp_path: Path) -> None:
    """The same batches, dealt to one process and to two; noise is that of the tokens."""
    values = {"optimizer": "sgd", "learning_rate": 0.1, "prompts_per_step": 16, "micro_batch": 4}
    spec = changed(named("sft_noise", tmp_path / "one", base, **values), steps=2)
    run(spec)
    ranks = compute(launcher="torchrun", processes=2)
    launch(changed(spec, output=str(tmp_path / "two"), compute=ranks))
    one, two = (weights(tmp_path / name / "snapshots/step_2") for name in ("one", "two"))
    start = weights(base)
    moved = max(float((one[name] - start[name]).abs().max()) for name in one)
    assert moved > 1e-3
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=0, atol=2e-4 * moved)
    losses = [
        [row["loss"] for row in read_jsonl(tmp_path / part / "metrics.jsonl")]
        for part in ("one", "two")
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
