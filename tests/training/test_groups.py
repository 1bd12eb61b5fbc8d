"""Faults caught: groups without signal that stay in the loss or are replaced by others of their
kind, tokens that are counted although they are left out, rows of another step or group, and rows
that stand twice after a kill."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.artifacts import read_jsonl
from pipeline.training.groups import flat, replaced
from pipeline.training.worker import run
from tests.training.algorithms import named, trainer_of
from tests.training.pico import assert_same, changed, rl_spec

LIVE, DEAD = [1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]


def scored(spec: Any, rewards: Iterator[list[float]]) -> tuple[Any, Any, list[Any]]:
    """(trainer, batch, texts by call) of a step whose calls of the reward get `rewards`."""
    trainer = trainer_of(spec)
    calls: list[Any] = []

    def reward(prompts: Any, completions: Any, **columns: Any) -> list[float]:
        calls.append((prompts, completions))
        return next(rewards)

    trainer.reward_funcs = [reward]
    rows = [trainer.train_dataset[at // 4] for at in range(8)]
    return trainer, trainer._generate_and_score_completions(rows), calls


def texts(trainer: Any, batch: Any) -> list[str]:
    found: list[str] = trainer.processing_class.batch_decode(
        batch["completion_ids"], skip_special_tokens=True
    )
    return found


def test_groups_without_signal_give_way(base: Path, tmp_path: Path) -> None:
    spec = named("dapo", tmp_path, base, mask_truncated=False)
    spec = changed(spec, rollouts_kept=1.0)
    rewards = iter([DEAD + LIVE, DEAD, [0.0, 1.0, 1.0, 1.0]])
    trainer, batch, calls = scored(spec, rewards)
    assert [len(prompts) for prompts, _ in calls] == [8, 4, 4]  # as many as are needed
    prompts = [group[0][0] for group in calls]
    assert len({*prompts[1:]} - {prompts[0]}) == 2
    said = calls[2][1] + calls[0][1][4:]
    assert texts(trainer, batch) == said
    mean, spread = 0.75, 0.5
    wanted = torch.tensor([(r - mean) / (spread + 1e-4) for r in (0.0, 1.0, 1.0, 1.0)])
    torch.testing.assert_close(batch["advantages"][:4].cpu(), wanted)
    assert int(batch["num_items_in_batch"]) == int(batch["completion_mask"].sum())
    metrics = trainer._metrics["train"]
    assert metrics["reward"] == [0.75]  # of the prompts that were asked for
    assert (metrics["dynamic/rounds"], metrics["dynamic/left_out"]) == ([2.0], [0.0])
    rows = read_jsonl(tmp_path / "rollouts.jsonl")
    assert [row["text"] for row in rows] == said
    assert [row["reward"] for row in rows] == [0.0, 1.0, 1.0, 1.0, *LIVE]
    assert [row["prompt"] for row in rows[:4]] == calls[2][0]


def test_what_stays_without_signal_is_left_out_of_the_loss(base: Path, tmp_path: Path) -> None:
    spec = named("dapo", tmp_path, base, mask_truncated=False, dynamic_sampling=2)
    trainer, batch, calls = scored(spec, iter([LIVE + DEAD, DEAD, DEAD]))
    assert len(calls) == 3
    assert not batch["completion_mask"][4:].any()
    assert bool(batch["completion_mask"][:4].any(1).all())
    assert int(batch["num_items_in_batch"]) == int(batch["completion_mask"][:4].sum())
    assert trainer._metrics["train"]["dynamic/left_out"] == [0.5]
    assert bool(trainer._compute_loss(trainer.model, batch).isfinite())


def test_a_step_with_signal_costs_no_round(base: Path, tmp_path: Path) -> None:
    _, _, calls = scored(named("dapo", tmp_path, base), iter([LIVE + LIVE]))
    assert len(calls) == 1


def test_rows_of_other_widths_keep_their_place() -> None:
    batch = {
        "prompt_ids": torch.tensor([[1, 2], [1, 2]]),
        "completion_mask": torch.ones(2, 3),
        "advantages": torch.tensor([1.0, 2.0]),
        "num_items_in_batch": torch.tensor(6),
    }
    other = {
        "prompt_ids": torch.tensor([[5, 6, 7]]),
        "completion_mask": torch.ones(1, 1),
        "advantages": torch.tensor([9.0]),
        "num_items_in_batch": torch.tensor(1),
    }
    merged = replaced(batch, other, 1, 0, 1, pad=0)
    assert merged["prompt_ids"].tolist() == [[0, 1, 2], [5, 6, 7]]
    assert merged["completion_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert merged["advantages"].tolist() == [1.0, 9.0]
    assert batch["advantages"].tolist() == [1.0, 2.0]
    assert flat(torch.tensor([1.0, 1.0, 0.0, 1.0]), share=1, group=2) == [[0], []]


@pytest.mark.parametrize("dynamic", [0, 2])
def test_rows_after_a_break_are_those_of_an_uninterrupted_run(
    dynamic: int, base: Path, tmp_path: Path
) -> None:
    """Catches rows that stand twice, and prompts of a resumed step that are others."""
    values: dict[str, Any] = {"steps": 4, "dynamic_sampling": dynamic, "rollouts_kept": 0.6}
    values |= {"mask_truncated": False, "problems": 8}

    def stop(row: dict[str, object]) -> None:
        if row["step"] == 3:
            raise KeyboardInterrupt

    broken, whole = rl_spec(tmp_path / "a", base, **values), rl_spec(tmp_path / "b", base, **values)
    with pytest.raises(KeyboardInterrupt):
        run(broken, stop)
    run(broken)
    run(whole)
    one, two = (read_jsonl(tmp_path / name / "rollouts.jsonl") for name in ("a", "b"))
    assert one == two
    assert_same(tmp_path / "a/snapshots/step_4", tmp_path / "b/snapshots/step_4")
    seen = {(row["step"], row["group"]) for row in one}
    assert 0 < len(seen) < 16
    assert len(one) == 4 * len(seen)
    assert {row["step"] for row in one} <= {1, 2, 3, 4}
    keys = {"step", "group", "prompt", "text", "reward", "advantage", "truncated"}
    assert all(set(row) == keys for row in one)


def test_the_share_decides_nothing_else(base: Path, tmp_path: Path) -> None:
    for share in (0.0, 1.0):
        run(rl_spec(tmp_path / str(share), base, steps=2, rollouts_kept=share))
    assert not (tmp_path / "0.0/rollouts.jsonl").exists()
    rows = read_jsonl(tmp_path / "1.0/rollouts.jsonl")
    assert [row["step"] for row in rows] == [1] * 16 + [2] * 16
    metrics = read_jsonl(tmp_path / "1.0/metrics.jsonl")
    for step, row in enumerate(metrics, 1):
        mine = [r for r in rows if r["step"] == step]
        assert sum(r["reward"] for r in mine) / 16 == pytest.approx(row["reward"])
        cut = sum(r["truncated"] for r in mine) / 16
        assert cut == pytest.approx(row["truncated_share"])
    assert_same(tmp_path / "0.0/snapshots/step_2", tmp_path / "1.0/snapshots/step_2")
