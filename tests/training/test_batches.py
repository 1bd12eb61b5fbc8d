"""Faults caught: a loss that padding changes, padding that goes through the model, updates that see
parts of groups, a mismatch of engine and trainer that is not what its name says, ranks or runs that
draw the same numbers, and a process that takes every GPU it sees for its own."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainingArguments

from pipeline.errors import PipelineError
from pipeline.training.batches import RolloutBatches, mismatch
from pipeline.training.check import check
from pipeline.training.devices import deepspeed_config, one_device
from pipeline.training.rollouts import seed_rank
from pipeline.training.trainers import build_rl, rl_arguments
from tests.training.algorithms import placed
from tests.training.pico import compute, rl_spec


def trainer_of(tmp_path: Path, base: Path, **changes: object) -> Any:
    spec = rl_spec(tmp_path, base, updates_per_step=1, **changes)
    trainer: Any = build_rl(spec, rl_arguments(spec), None)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 2  # as in the middle of a run
    return trainer


def padded() -> dict[str, torch.Tensor]:
    """Four rollouts, far more room than the longest prompt (4) and response (3) need."""
    generator = torch.Generator().manual_seed(0)
    prompt_mask, mask = torch.zeros(4, 9, dtype=torch.long), torch.zeros(4, 12, dtype=torch.long)
    for row, (prompt, response) in enumerate(((4, 3), (2, 1), (3, 2), (4, 0))):  # one truncated
        prompt_mask[row, 9 - prompt :] = 1
        mask[row, :response] = 1
    return {
        "prompt_ids": torch.randint(3, 12, (4, 9), generator=generator) * prompt_mask,
        "prompt_mask": prompt_mask,
        "completion_ids": torch.randint(3, 12, (4, 12), generator=generator),
        "completion_mask": mask,
        "advantages": torch.tensor([1.0, -0.5, 0.25, 2.0]),
        "old_per_token_logps": torch.randn(4, 12, generator=generator) - 2,
        "old_logps": torch.randn(4, generator=generator) - 4,
        "num_items_in_batch": torch.tensor(6),
    }


@pytest.mark.parametrize(
    "changes",
    [{"loss_type": "grpo"}, {"loss_type": "dr_grpo"}, {"loss_type": "dapo"}, {"trainer": "rloo"}],
)
def test_padding_changes_neither_loss_nor_gradient(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object]
) -> None:
    trainer = trainer_of(tmp_path, base, **changes)
    widths: list[int] = []
    trainer.model.register_forward_pre_hook(
        lambda module, args, given: widths.append(given["input_ids"].shape[1]), with_kwargs=True
    )

    def loss_and_gradient() -> tuple[torch.Tensor, torch.Tensor]:
        trainer.model.zero_grad()
        loss = trainer._compute_loss(trainer.model, placed(trainer, padded()))
        loss.backward()
        parts = [p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None]
        return loss.detach(), torch.cat(parts)

    short = loss_and_gradient()
    monkeypatch.delattr(RolloutBatches, "_get_per_token_logps_and_entropies")
    whole = loss_and_gradient()  # TRL's own
    assert widths == [4 + 3, 9 + 12]
    torch.testing.assert_close(short[0], whole[0], rtol=1e-6, atol=0)
    assert (short[1] - whole[1]).norm() < 1e-5 * whole[1].norm()  # fp32 rounding


def test_chunks_are_cut_each_to_its_own_width(base: Path, tmp_path: Path) -> None:
    """Old and reference log-probs are made for a whole batch, a micro-batch at a time."""
    trainer = trainer_of(tmp_path, base)
    rows = placed(trainer, padded())
    ids = torch.cat([rows["prompt_ids"], rows["completion_ids"]], dim=1)
    mask = torch.cat([rows["prompt_mask"], rows["completion_mask"]], dim=1)
    arguments = (trainer.model, ids, mask, 12)
    with torch.no_grad():
        one, two = (
            trainer._get_per_token_logps_and_entropies(*arguments, batch_size=size)[0]
            for size in (4, 1)
        )
    assert one.shape == (4, 12)
    torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)
    assert bool((one[0, :3] < 0).all())
    assert not one[:, 3:].any()


def test_updates_see_whole_groups(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Advantages of a part of a group do not sum to zero."""
    seen: list[list[tuple[int, ...]]] = []
    spec = rl_spec(tmp_path, base, steps=1, snapshot_every=1, micro_batch=2)
    compute_loss = RolloutBatches._compute_loss

    def look(self: Any, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        seen.append([tuple(row) for row in inputs["prompt_ids"].tolist()])
        return compute_loss(self, model, inputs)

    monkeypatch.setattr(RolloutBatches, "_compute_loss", look)
    build_rl(spec, rl_arguments(spec), None).train()
    assert len(seen) == 8  # 16 rollouts by 2
    groups = [Counter(row for batch in half for row in batch) for half in (seen[:4], seen[4:])]
    assert [sorted(group.values()) for group in groups] == [[4, 4], [4, 4]]
    assert not groups[0].keys() & groups[1].keys()


def test_updates_that_would_cut_groups_are_refused(tmp_path: Path) -> None:
    spec = rl_spec(tmp_path, tmp_path, prompts_per_step=3, updates_per_step=2)
    with pytest.raises(
        PipelineError, match="6 rollouts per update, which are no whole groups of 4"
    ):
        check(spec)


def test_the_mismatch_by_hand() -> None:
    """q drew; p learns. Ratios p / q: 1, 2, 1/2 in the first row, 4 in the second."""
    drawn = torch.tensor([[-1.0, -1.0, -1.0, -9.0], [-2.0, math.nan, -9.0, -9.0]])
    ratios = torch.tensor([[1.0, 2.0, 0.5, 99.0], [4.0, 99.0, 99.0, 99.0]])
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    trained = drawn.nan_to_num() + ratios.log()
    log2 = math.log(2)
    kl = (1 - log2) + (-0.5 + log2) + (3 - 2 * log2)
    wanted = {"token": [4, 2, 4 * log2, kl, 1], "sequence": [4, 2, 4 * log2, kl, 1]}
    for level, sums in wanted.items():
        found = mismatch(trained, drawn, mask, level, cap=3.0)
        torch.testing.assert_close(
            found, torch.tensor(sums, dtype=torch.float64), atol=1e-6, rtol=0
        )
    assert mismatch(trained, drawn, mask, "token", cap=1.5)[4] == 2
    assert mismatch(trained, drawn, mask, "sequence", cap=1.5)[4] == 1  # 1 x 2 x 1/2 = 1


def test_each_rank_of_each_run_draws_its_own_numbers() -> None:
    class Trainer:
        def __init__(self, rank: int) -> None:
            self.accelerator = type("Accelerator", (), {"process_index": rank})

    drawn = set()
    for seed in range(4):
        for rank in range(4):
            seed_rank(Trainer(rank), seed)
            drawn.add(float(torch.rand(())))
    assert len(drawn) == 16
    seed_rank(Trainer(3), 3)
    assert float(torch.rand(())) in drawn


def test_one_process_trains_on_one_of_many_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers would copy the model onto all of them, and count four batches for one."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    args = TrainingArguments(str(tmp_path), per_device_train_batch_size=3)
    assert args.n_gpu == 4
    assert args.train_batch_size == 12
    one_device(args)
    assert args.n_gpu == 1
    assert args.train_batch_size == 3


def test_gradients_are_added_in_fp32_unless_told_otherwise(tmp_path: Path) -> None:
    """DeepSpeed takes the model's bf16: of 8 bits per summand, small movements lose the most."""
    from deepspeed.runtime.config import DeepSpeedConfig

    ranks = {"launcher": "torchrun", "processes": 2, "zero_stage": 2, "bf16": True}
    lower = {"grad_accum_dtype": "bfloat16", "communication_dtype": "bfloat16"}
    for more, names in (({}, ("fp32", torch.float32)), (lower, ("bf16", torch.bfloat16))):
        spec = rl_spec(tmp_path, tmp_path, compute=compute(**ranks, **more))
        check(spec)
        told = {**deepspeed_config(spec), "train_batch_size": None}
        read = DeepSpeedConfig({key: value for key, value in told.items() if value is not None})
        assert (read.grad_accum_dtype, read.communication_data_type) == names
    with pytest.raises(PipelineError, match="grad_accum_dtype=bfloat16 needs compute"):
        check(rl_spec(tmp_path, tmp_path, compute=compute(**{**ranks, "bf16": False}, **lower)))
