"""What is said before evaluation. Faults caught: norms or halves of other checkpoints than those
that extrapolation sees, a path followed over a jump, thresholds that are no longer the study's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.trajectory import stream
from pipeline.trajectory.linearity import probe_weights
from pipeline.trajectory.prospects import STUDY, asked, prospects
from pipeline.trajectory.sources import discover
from studies.rule import SHOWN
from studies.thresholds import Rule, Threshold
from tests.conftest import ROOT
from tests.trajectory.pico import load_model, run_tensors, write_run

STEPS = [0, 10, 40, 50, 90, 100]


def flat(folder: Path) -> np.ndarray:
    """All weights of a model, [n] fp64."""
    tensors = load_model(folder)
    return np.concatenate([tensors[name].double().flatten().numpy() for name in sorted(tensors)])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_figures_are_those_of_the_weights(
    tmp_path: Path, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the start, and from a later checkpoint whose norm is another."""
    run = run_tensors(STEPS)
    for step in STEPS[1:]:
        run[step] = {name: value * (1 + step / 500) for name, value in run[step].items()}
    root = write_run(tmp_path, run, dtype)
    monkeypatch.setattr(stream, "PIECE", 31)
    probe = probe_weights(discover(root, None))
    theta = {step: flat(root / f"global_step_{step}") for step in STEPS}
    for first, middle, last in ((0, 50, 100), (10, 50, 90), (40, 50, 90)):
        found = prospects(probe, STEPS, first, last, [last + 25, 30, 3 * last])
        moved = np.linalg.norm(theta[last] - theta[first]) / np.linalg.norm(theta[first])
        assert found.relative_movement == pytest.approx(moved, rel=1e-5)
        one, other = theta[middle] - theta[first], theta[last] - theta[middle]
        cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
        assert found.middle == middle
        assert found.straightness == pytest.approx(cosine, abs=1e-5)
        assert list(found.reach) == [last + 25, 3 * last]
        for target, reach in found.reach.items():
            line = theta[first] + (target - first) / (last - first) * (theta[last] - theta[first])
            beyond = np.linalg.norm(line - theta[last]) / np.linalg.norm(theta[first])
            assert reach == pytest.approx(beyond, rel=1e-5)
    assert probe["straightness"] == prospects(probe, STEPS, 0, 100, []).straightness


def of_path(*theta: list[float]) -> dict[str, Any]:
    """The probe of a model of a few weights, at the steps 0, 1, ..."""
    points = np.array(theta)
    deltas = points - points[0]
    squared = (points**2).sum(1).tolist()
    return {
        "steps": [float(i) for i in range(len(points))],
        "gram": (deltas @ deltas.T).tolist(),
        "squared_norms": squared,
    }


def test_what_is_not_defined_is_said_and_not_made_up() -> None:
    two = prospects(of_path([3.0, 4.0], [3.0, 5.0]), [0, 1], 0, 1, [2])
    assert (two.straightness, two.middle) == (None, None)
    assert two.reach == {2: pytest.approx(0.2)}
    assert "straightness unknown (no checkpoint between)" in two.path
    still = prospects(of_path([1.0, 0.0], [1.0, 0.0], [2.0, 0.0]), [0, 1, 2], 0, 2, [3])
    assert still.straightness is None
    assert "parted at step 1, does not move" in still.path
    zero = prospects(of_path([0.0, 0.0], [0.0, 1.0], [0.0, 2.0]), [0, 1, 2], 0, 2, [3])
    assert (zero.relative_movement, zero.reach, zero.far, zero.beyond) == (None, {}, "", "")
    assert "are all 0" in zero.path
    back = prospects(of_path([1.0, 0.0], [1.0, 1.0], [1.0, 0.5]), [0, 1, 2], 0, 2, [1, 2])
    assert (back.straightness, back.reach) == (-1.0, {})


def test_what_was_never_measured_is_said() -> None:
    probe = of_path([1.0, 0.0], [1.0, 0.1], [1.0, 0.2])
    assert prospects(probe, [0, 1, 2], 0, 2, [6]).beyond == ""
    found = prospects(probe, [0, 1, 2], 0, 2, [6, 7, 12])
    assert found.beyond.startswith("target 7, 12: a reach of 1 norms")


def test_no_reach_over_a_jump_or_from_what_is_no_checkpoint() -> None:
    """Steps 4 and 8 of a run that jumped by 30 behind step 4."""
    probe = of_path([1.0, 0.0], [1.0, 0.1], [1.0, 0.2]) | {"steps": [0.0, 4.0, 38.0]}
    with pytest.raises(PipelineError, match="re-grounded between steps 0 and 8"):
        prospects(probe, [0, 4, 8], 0, 8, [12])
    assert prospects(probe, [0, 4, 8], 0, 4, [8]).reach == {8: pytest.approx(0.1)}
    with pytest.raises(PipelineError, match=r"extrapolation\.last=5: no such checkpoint"):
        prospects(probe, [0, 4, 8], 0, 5, [])


def test_targets_are_as_given_or_multiples_of_the_way() -> None:
    assert asked([30, 20], [9.0], 0, 10) == [20, 30]
    assert asked([], [1.5, 1.25, 1.5], 100, 300) == [350, 400]


def test_thresholds_are_the_studys() -> None:
    """Would catch a study that was run again, whose new figures nobody shows."""
    result = json.loads((ROOT / "docs" / "results" / "rule.json").read_text())
    rows = [
        row
        for row in result["rules"]["all"]
        if (row["temperature"], row["outcome"]) == ("greedy", "loses")
        and (row["features"], row["thresholds"]) == (SHOWN, 2)
    ]
    [row] = rows
    rule = Rule(
        (
            Threshold("straightness", STUDY.straightness, above=False),
            Threshold("reach", STUDY.reach, above=True),
        )
    )
    assert row["rule"] == str(rule)
    assert row["points"] == STUDY.predictions
    assert row["hit_rate"] == pytest.approx(STUDY.hit_rate, abs=5e-5)
    points = result["points"]
    table = {key: np.array([p[key] for p in points]) for key in ("straightness", "reach")}
    warned, lost = rule.says(table), np.array([p["greedy"]["loses"] for p in points])
    assert (len(points), warned.sum()) == (STUDY.predictions, STUDY.warned)
    assert (lost[warned].sum(), lost[~warned].sum()) == (STUDY.warned_lost, STUDY.others_lost)
    assert table["reach"].max() == pytest.approx(STUDY.farthest, abs=5e-5)
