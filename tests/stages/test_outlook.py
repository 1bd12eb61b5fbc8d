"""What a run says of its predictions before it evaluates them. Faults caught: a figure that is not
logged, or is of other steps than the extrapolation's; a warning from another run's path."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from pipeline.artifacts import read_json, read_jsonl, write_json
from pipeline.report.inputs import read_artefacts
from pipeline.report.probe import before
from pipeline.stages import linear_probe, weight_extrap
from pipeline.trajectory.prospects import STUDY
from studies.measured import features, halves, subject
from tests.stages.contexts import context_of
from tests.trajectory.pico import load_model


@pytest.fixture
def run_dir(pico_run: Path, tmp_path: Path) -> Path:
    """A copy of the pico run as far as its extrapolations; its checkpoints stay where they are."""
    copy = tmp_path / "run"
    for name in ("snapshot", "linear_probe", "weight_extrap"):
        shutil.copytree(pico_run / name, copy / name)
    shutil.copy(pico_run / "config.yaml", copy)
    return copy


def test_a_run_says_how_far_its_targets_reach(pico_run: Path) -> None:
    """Steps 0 to 4 of 6, targets 5 and 6: by hand, by the study's own code, in every place."""
    start, middle, last = (
        torch.cat([value.double().flatten() for _, value in sorted(load_model(folder).items())])
        for folder in (
            pico_run / "sft_train" / "model",
            *(pico_run / "rl_train" / "snapshots" / f"step_{step}" for step in (2, 4)),
        )
    )
    moved = float((last - start).norm() / start.norm())
    bent = float(torch.cosine_similarity(middle - start, last - middle, dim=0))
    wanted = {"relative_movement": moved, "straightness": bent}
    wanted |= {"reach_5": 0.25 * moved, "reach_6": 0.5 * moved}
    told = read_json(pico_run / "weight_extrap" / "done.json")["summary"]
    assert {key: told[key] for key in wanted} == pytest.approx(wanted, rel=1e-4)
    path = features(halves(subject(pico_run).trajectory, 4))
    for key in ("relative_movement", "straightness"):
        assert told[key] == pytest.approx(path[key], rel=1e-6)
    assert told["outlook"].startswith(f"from step 0 to 4 the weights moved by {moved:.3g}")
    assert told["outlook"].endswith(STUDY.words)
    rows = read_jsonl(pico_run / "metrics.jsonl")
    [logged] = [r["summary"] for r in rows if r["stage"] == "weight_extrap" and "summary" in r]
    assert {key: logged[key] for key in wanted} == {key: told[key] for key in wanted}
    whole = read_json(pico_run / "linear_probe" / "done.json")["summary"]
    weights = read_json(pico_run / "linear_probe" / "weights.json")
    for key in ("relative_movement", "straightness"):
        assert whole[key] == pytest.approx(weights[key], rel=1e-9)
    far = f"{whole['relative_movement']:.3g}"
    assert f"from step 0 to 6 the weights moved by {far}" in whole["outlook"]
    assert f"a target f times as far has a reach of (f - 1) x {far}" in whole["outlook"]
    page = str(before(read_artefacts(pico_run)))
    for text in (
        "From step 0 to 4",
        f"target 6: reach {0.5 * moved:.2g}",
        STUDY.words.partition(" (")[2],
    ):
        assert text in page


def test_weight_extrap_warns_before_it_writes(run_dir: Path) -> None:
    near, far = context_of(run_dir), context_of(run_dir, weight_extrap__targets=[5, 2000])
    moved = read_json(run_dir / "weight_extrap" / "done.json")["summary"]["relative_movement"]
    reach = {target: f"{(target - 4) / 4 * moved:.2g}" for target in (5, 6, 2000)}
    assert "beyond all" not in weight_extrap.plan(near)
    assert f"target 2000: a reach of {reach[2000]} norms" in weight_extrap.plan(far)
    assert (
        f"; target 5: reach {reach[5]}; target 6: reach {reach[6]}; in"
        in (weight_extrap.run(near)["outlook"])
    )
    done = run_dir / "linear_probe" / "done.json"
    write_json(done, read_json(done) | {"needs": {"snapshot": "another"}})
    assert "beyond all" not in weight_extrap.plan(far)
    assert "outlook" not in weight_extrap.run(near)


def test_a_path_with_a_jump_is_measured_and_not_followed(run_dir: Path) -> None:
    recorded = run_dir / "snapshot" / "trajectory.json"
    times = [0, 1, 2, 13, 14, 15, 16]
    write_json(recorded, read_json(recorded) | {"virtual_steps": times})
    probe = run_dir / "linear_probe" / "weights.json"
    weights = read_json(probe)
    found = linear_probe._outlook(context_of(run_dir).trajectory.steps, weights | {"steps": times})
    assert set(found) == {"outlook"}
    assert (
        "not given: extrapolation: the run was re-grounded between steps 0 and 6"
        in (found["outlook"])
    )
    assert before(read_artefacts(run_dir)) == ""  # measured before the jumps were known
    write_json(probe, weights | {"steps": times})
    assert "Nothing is said: extrapolation: the run was re-grounded" in str(
        before(read_artefacts(run_dir))
    )
    del weights["gram"]  # of an earlier version
    probe.write_text(json.dumps(weights))
    assert before(read_artefacts(run_dir)) == ""
