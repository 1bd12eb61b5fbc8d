"""What rounding takes of a movement: would catch a warning where bf16 checkpoints lose nothing, and
silence where most of a prediction is gone."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.stages.weight_extrap import _warn_of_rounding
from pipeline.trajectory import rounding
from pipeline.trajectory.combine import write
from pipeline.trajectory.plan import Plan, make_plan
from pipeline.trajectory.rounding import lost_shares
from pipeline.trajectory.rule import make_rule
from pipeline.trajectory.sources import discover
from tests.trajectory.pico import load_model, run_tensors, write_run

STEPS = [0, 20, 40, 60]


def plan_of(root: Path, dtype: str, scale: float, stored: torch.dtype, method: str) -> Plan:
    """A run whose movements are `scale` times those of `run_tensors`."""
    run = run_tensors(STEPS)
    moved = {
        step: {
            name: run[0][name] + scale * (value - run[0][name])
            if value.is_floating_point()
            else value
            for name, value in tensors.items()
        }
        for step, tensors in run.items()
    }
    trajectory = discover(write_run(root, moved, stored), None)
    return make_plan(trajectory, make_rule(method), 0, 60, [60, 120], ["*norm*"], dtype)


@pytest.mark.parametrize("method", ["two_point", "rank1", "gated"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_share_is_that_of_the_written_model(tmp_path: Path, dtype: str, method: str) -> None:
    """All tensors and scalars of a small model are in the sample, so it is exact."""
    plan = plan_of(tmp_path / "run", dtype, 0.01, torch.float32, method)
    exact = plan_of(tmp_path / "same", "float32", 0.01, torch.float32, method)
    write(plan, {t: tmp_path / f"rounded/{t}" for t in plan.targets})
    write(exact, {t: tmp_path / f"exact/{t}" for t in plan.targets})
    first = load_model(tmp_path / "run/global_step_0")
    found = lost_shares(plan)
    for target in (60, 120):
        rounded, wide = (load_model(tmp_path / f"{kind}/{target}") for kind in ("rounded", "exact"))
        lost = moved = 0.0
        for name in filter(plan.predicts, first):
            lost += float(((rounded[name].double() - wide[name].double()) ** 2).sum())
            moved += float(((wide[name].double() - first[name].double()) ** 2).sum())
        assert found[target] == pytest.approx(np.sqrt(lost / moved), rel=1e-4)
    assert found[120] < found[60]


def test_a_sample_is_near_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(tmp_path / "run", "bfloat16", 0.01, torch.float32, "least_squares")
    whole = lost_shares(plan)
    monkeypatch.setattr(rounding, "TENSORS", 6)
    monkeypatch.setattr(rounding, "SIZE", 16)
    assert lost_shares(plan) == pytest.approx(whole, rel=0.3)


def said(plan: Plan, caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        _warn_of_rounding([("mine", plan)])
    return [record.getMessage() for record in caplog.records]


def test_the_stage_says_so_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    small = plan_of(tmp_path / "small", "bfloat16", 0.002, torch.float32, "two_point")
    (line,) = said(small, caplog)
    assert line.startswith("weight_extrap.dtype=bfloat16: rounding to it is ")
    assert "of the predicted movement (mine to step 60)" in line
    assert "float32" in line
    large = plan_of(tmp_path / "large", "bfloat16", 1.0, torch.float32, "two_point")
    wide = plan_of(tmp_path / "wide", "float32", 0.002, torch.float32, "two_point")
    assert said(large, caplog) == said(wide, caplog) == []


def test_a_bf16_base_keeps_its_place(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Movements in fp32 from a base on bf16's numbers: nearly all of them are rounded back to it,
    which never costs more than the movement."""
    run = run_tensors([0, 60])
    base = {n: v.bfloat16().float() if v.is_floating_point() else v for n, v in run[0].items()}
    run = {0: base, 60: {n: base[n] + 0.002 * (v - run[0][n]) for n, v in run[60].items()}}
    trajectory = discover(write_run(tmp_path / "run", run, torch.float32), None)
    plan = make_plan(trajectory, make_rule("two_point"), 0, 60, [80], ["*norm*"], "bfloat16")
    assert 0.7 < lost_shares(plan)[80] <= 1.0
    assert len(said(plan, caplog)) == 1


def test_bf16_checkpoints_lose_little(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Their movements are whole spacings, however small against the norm."""
    plan = plan_of(tmp_path / "run", "bfloat16", 0.002, torch.bfloat16, "two_point")
    assert max(lost_shares(plan).values()) < 0.5
    assert said(plan, caplog) == []


def test_a_run_that_stands_still_says_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan = plan_of(tmp_path / "run", "bfloat16", 0.0, torch.float32, "two_point")
    assert lost_shares(plan) == {}
    assert said(plan, caplog) == []
