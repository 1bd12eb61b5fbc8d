"""Faults caught: a re-grounded run that is measured over its real steps (its line would look bent
at each jump), a jump counted at its own snapshot, an extrapolation over a jump."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.artifacts import append_jsonl, write_json
from pipeline.errors import PipelineError
from pipeline.trajectory.linearity import probe_weights
from pipeline.trajectory.segments import check_straight, virtual_steps
from pipeline.trajectory.sources import Trajectory, discover


@pytest.fixture
def jumped(tmp_path: Path) -> Path:
    """A run straight in its virtual steps: jumps of 30 behind the steps 4 and 8."""
    append_jsonl(
        tmp_path / "regrounds.jsonl",
        [{"step": 4, "virtual_step": 34.0}, {"step": 8, "virtual_step": 68.0}],
    )
    generator = torch.Generator().manual_seed(0)
    start, slope = (torch.randn(64, generator=generator) for _ in range(2))
    for step, virtual in ((0, 0), (4, 4), (6, 36), (8, 38), (10, 70)):
        folder = tmp_path / "snapshots" / f"step_{step}"
        folder.mkdir(parents=True)
        save_file({"w.weight": start + slope * virtual}, folder / "model.safetensors")
        write_json(folder / "config.json", {"model_type": "llama"})
    return tmp_path / "snapshots"


def test_a_snapshot_lies_before_the_jump_of_its_step(jumped: Path) -> None:
    trajectory = discover(jumped, None)
    assert trajectory.times == [0, 4, 36, 38, 70]
    assert Trajectory.from_json(trajectory.to_json()).times == trajectory.times


def test_the_line_is_that_of_virtual_steps(jumped: Path) -> None:
    found = probe_weights(discover(jumped, None))
    assert found["r2_median"] > 0.9999
    assert found["linear_r2"] > 0.9999
    assert found["steps"] == [0, 4, 36, 38, 70]
    (jumped.parent / "regrounds.jsonl").unlink()
    assert probe_weights(discover(jumped, None))["r2_median"] < 0.95


def test_other_runs_have_their_own_steps(tmp_path: Path) -> None:
    assert virtual_steps({3: tmp_path / "snapshots" / "step_3"}) == {}


def test_no_extrapolation_over_a_jump(jumped: Path) -> None:
    virtual = discover(jumped, None).virtual
    check_straight(6, 8, virtual)
    with pytest.raises(PipelineError, match=r"between steps 4 and 8 .* 34 virtual steps apart"):
        check_straight(4, 8, virtual)
