"""Faults caught: a jump that differs from the formula on gathered weights, that reaches only the
masters or only the copies that the forward pass reads, that forgets the optimiser or the order of
data, is lost by a kill, or is made although the guard says no."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.artifacts import read_jsonl
from pipeline.training.launch import launch
from pipeline.training.reground import jumped, measure
from pipeline.training.schema import GuardConfig, RegroundConfig, ValidationConfig
from pipeline.training.spec import RlSpec, write_spec
from pipeline.training.worker import run
from tests.conftest import ROOT
from tests.training.pico import assert_same, compute, rl_spec, weights
from tests.training.test_resume import KILLED

JUMPS = RegroundConfig(every=2, jump=3)


def spec(output: Path, base: Path, **changes: Any) -> RlSpec:
    values: dict[str, Any] = {"steps": 4, "snapshot_every": 1, "checkpoint_every": 1}
    values |= {"updates_per_step": 1, "reground": JUMPS, "seed": 3}
    return rl_spec(output, base, **(values | changes))


def checkpoint(output: Path, step: int) -> dict[str, torch.Tensor]:
    """The model at the end of a step, behind its jump."""
    return weights(output / f"checkpoints/checkpoint-{step}")


def snapshot(output: Path, step: int) -> dict[str, torch.Tensor]:
    """The model that real steps made, before a jump of the same step."""
    return weights(output / f"snapshots/step_{step}")


def offline(start: dict[str, torch.Tensor], end: dict[str, torch.Tensor], beta: float) -> Any:
    """The formula on whole weights, tensors that are held as they ended."""
    return {
        name: end[name] if "norm" in name else start[name] + (end[name] - start[name]) * beta
        for name in end
    }


def assert_equal(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert wanted.keys() <= found.keys()  # DeepSpeed's checkpoints hold a tied head, too
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), name


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """A finished run of 2 steps with a jump behind them; read-only."""
    output = tmp_path_factory.mktemp("two")
    run(spec(output, base, steps=2))
    return output


@pytest.fixture(scope="module")
def run_(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """A finished run of 4 steps with a jump after 2 and 4; read-only."""
    output = tmp_path_factory.mktemp("reground")
    run(spec(output, base))
    return output


def test_a_jump_is_the_formula_to_the_bit(two: Path, run_: Path, base: Path) -> None:
    rows = read_jsonl(run_ / "regrounds.jsonl")
    assert [(r["step"], r["virtual_step"], r["beta"]) for r in rows] == [(2, 5, 2.5), (4, 10, 2.5)]
    assert all(row["accepted"] and row["guard_before"] is None for row in rows)
    first = offline(weights(base), snapshot(run_, 2), 2.5)
    assert_equal(checkpoint(two, 2), first)
    moved = [name for name in first if not torch.equal(first[name], snapshot(run_, 2)[name])]
    assert moved
    assert not any("norm" in name for name in moved)
    assert_equal(checkpoint(run_, 4), offline(first, snapshot(run_, 4), 2.5))


@pytest.mark.parametrize("stage", [0, 2, 3])  # 1 keeps its masters as 2 does
def test_two_ranks_jump_as_the_formula_says(stage: int, base: Path, tmp_path: Path) -> None:
    """Snapshots are gathered masters; the next step's start shows what the forward pass reads."""
    pytest.importorskip("deepspeed")
    launcher = "torchrun" if stage == 0 else "deepspeed"
    ranks = compute(launcher=launcher, processes=2, zero_stage=stage, threads=1)
    jumping = spec(tmp_path / "jump", base, steps=3, compute=ranks)
    launch(jumping)
    row = read_jsonl(tmp_path / "jump" / "regrounds.jsonl")[0]
    assert row["movement"] > 0
    real = snapshot(tmp_path / "jump", 2)
    after = offline(weights(base), real, 2.5)
    assert_equal(checkpoint(tmp_path / "jump", 2), after)  # what the forward pass reads
    found = snapshot(tmp_path / "jump", 3)  # masters, one step of at most 1e-3 later
    assert max(float((found[name] - after[name]).abs().max()) for name in after) < 1.5e-3
    assert max(float((after[name] - real[name]).abs().max()) for name in after) > 2e-3


def test_a_kill_at_the_jump_changes_nothing(run_: Path, base: Path, tmp_path: Path) -> None:
    cut = spec(tmp_path, base)
    write_spec(cut, tmp_path / "spec.json")
    dead = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "spec.json"), "4"],
        cwd=ROOT,
        env=os.environ,
        check=False,
    )
    assert dead.returncode == -signal.SIGKILL
    launch(cut)
    for step in (1, 2, 3, 4):
        assert_same(tmp_path / f"snapshots/step_{step}", run_ / f"snapshots/step_{step}")
    assert_equal(checkpoint(tmp_path, 4), checkpoint(run_, 4))
    rows = [read_jsonl(folder / "regrounds.jsonl") for folder in (tmp_path, run_)]
    for row in rows[0] + rows[1]:
        del row["seconds"]
    assert rows[0] == rows[1]


def test_a_guard_that_agrees_changes_no_bit(run_: Path, base: Path, tmp_path: Path) -> None:
    """Its problems are answered with random numbers of their own."""
    lenient = RegroundConfig(every=2, jump=3, guard=GuardConfig(problems=4, threshold=1.0))
    run(spec(tmp_path, base, reground=lenient))
    assert_equal(checkpoint(tmp_path, 4), checkpoint(run_, 4))
    rows = read_jsonl(tmp_path / "regrounds.jsonl")
    assert all(0 <= row["guard_before"] <= 1 and row["tries"] == 1 for row in rows)


def test_validation_follows_jumps_and_changes_no_bit(
    run_: Path, base: Path, tmp_path: Path
) -> None:
    """Its accuracy is that of the model behind the jump; its seconds are not the step's."""
    validation = ValidationConfig(every=2, problems=6, samples=40)
    run(spec(tmp_path, base, validation=validation))
    assert_equal(checkpoint(tmp_path, 4), checkpoint(run_, 4))
    rows = read_jsonl(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows if "validation_accuracy" in row] == [2, 4]
    assert all(row["validation_seconds"] > 0 < row["seconds"] for row in rows if row["step"] == 2)
    # the guard's figure at step 3 has the random numbers of seed 3, as this run's validation
    lenient = GuardConfig(problems=6, samples=40, threshold=1.0)
    far = RegroundConfig(every=3, jump=12, hold=[], guard=lenient)
    run(spec(tmp_path / "far", base, reground=far, validation=replace(validation, every=3)))
    (jump,) = read_jsonl(tmp_path / "far" / "regrounds.jsonl")
    told = read_jsonl(tmp_path / "far" / "metrics.jsonl")[2]["validation_accuracy"]
    assert told == jump["guard_after"] != jump["guard_before"]


def test_rloo_jumps_under_a_guard_too(base: Path, tmp_path: Path) -> None:
    """Catches the other trainer's generation, which returns other things."""
    lenient = RegroundConfig(every=2, jump=3, guard=GuardConfig(problems=4, threshold=1.0))
    run(spec(tmp_path, base, steps=2, trainer="rloo", reground=lenient))
    (row,) = read_jsonl(tmp_path / "regrounds.jsonl")
    assert row["accepted"]
    assert 0 <= row["guard_before"] <= 1
    assert_equal(checkpoint(tmp_path, 2), offline(weights(base), snapshot(tmp_path, 2), 2.5))


def test_a_guard_that_refuses_costs_no_real_step(two: Path, base: Path, tmp_path: Path) -> None:
    """No jump is good enough: β falls half the way to 1 twice, then the weights are as before."""
    strict = RegroundConfig(every=2, jump=3, guard=GuardConfig(problems=4, threshold=-1.0))
    run(spec(tmp_path, base, steps=2, reground=strict))
    assert_equal(checkpoint(tmp_path, 2), snapshot(two, 2))
    (row,) = read_jsonl(tmp_path / "regrounds.jsonl")
    found = (row["accepted"], row["tries"], row["beta"], row["refused_beta"], row["virtual_step"])
    assert found == (False, 3, 1.0, 1.375, 2)


def test_reset_forgets_the_moments_and_keep_does_not(
    two: Path, run_: Path, base: Path, tmp_path: Path
) -> None:
    reset = RegroundConfig(every=2, jump=3, optimizer="reset")
    run(spec(tmp_path, base, steps=3, reground=reset))
    assert_equal(checkpoint(tmp_path, 2), checkpoint(two, 2))
    states = [
        torch.load(folder / "checkpoints/checkpoint-2/optimizer.pt")["state"]
        for folder in (tmp_path, two)
    ]
    assert all(not state["exp_avg"].any() and state["step"] == 0 for state in states[0].values())
    assert all(state["step"] == 2 for state in states[1].values())
    assert any(
        not torch.equal(snapshot(tmp_path, 3)[name], snapshot(run_, 3)[name])
        for name in snapshot(run_, 3)
    )


def test_momentum_and_caps_by_hand(base: Path, tmp_path: Path) -> None:
    config = RegroundConfig(every=1, jump=1, momentum=0.5, hold=[])
    run(spec(tmp_path, base, steps=2, reground=config))
    start, end = weights(base), snapshot(tmp_path, 1)
    first = {n: end[n] - start[n] for n in end}
    jump = {n: start[n] + (first[n] + 0.5 * first[n]) * 2.0 for n in end}
    assert_equal(checkpoint(tmp_path, 1), jump)
    second = {n: snapshot(tmp_path, 2)[n] - jump[n] for n in end}
    velocity = {n: 0.5 * first[n] + second[n] for n in end}
    wanted = {n: jump[n] + (second[n] + 0.5 * velocity[n]) * 2.0 for n in end}
    assert_equal(checkpoint(tmp_path, 2), wanted)
    capped = RegroundConfig(every=2, jump=300, max_movement=1e-3)
    run(spec(tmp_path / "capped", base, steps=2, reground=capped))
    (row,) = read_jsonl(tmp_path / "capped" / "regrounds.jsonl")
    assert (row["beta"] - 1) * row["movement"] == pytest.approx(1e-3)
    assert row["virtual_step"] == pytest.approx(2 * row["beta"])


def test_straightness_is_the_cosine_of_the_halves() -> None:
    start = {"w": torch.tensor([3.0, 4.0])}
    middle = {"w": torch.tensor([4.0, 4.0])}
    line = measure(start, middle, {"w": torch.tensor([4.0, 6.0])}, ["w"])
    assert line.straightness == pytest.approx(0.0)
    assert line.movement == pytest.approx(5**0.5 / 5)
    assert measure(start, middle, {"w": torch.tensor([5.0, 4.0])}, ["w"]).straightness == 1.0
    assert measure(start, {}, start, ["w"]).straightness is None


def test_adaptive_jumps_shrink_with_straightness(base: Path, tmp_path: Path) -> None:
    adaptive = RegroundConfig(every=2, jump=3, adaptive=True)
    run(spec(tmp_path, base, steps=2, reground=adaptive))
    (row,) = read_jsonl(tmp_path / "regrounds.jsonl")
    assert row["beta"] == pytest.approx(1 + 1.5 * max(0.0, row["straightness"]))


def test_jumped_rounds_the_product_then_the_sum() -> None:
    start, delta = torch.tensor([1.0]), torch.tensor([2.0**-24])
    assert jumped({"w": start}, {"w": delta}, 1.5)["w"].item() == 1.0 + 2.0**-23
