"""Faults caught: another accuracy than the pipeline's own evaluation of the same models, a path
that is not rounded or loses steps, three points that are others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from studies.accuracy import Asked, Size, measure
from studies.measured import computed, features, halves, rounded, subject


@pytest.fixture(scope="module")
def run(pico_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy: what is measured is kept in the run."""
    return Path(shutil.copytree(pico_run, tmp_path_factory.mktemp("studies") / "run"))


def test_accuracy_is_that_of_the_evaluation(run: Path) -> None:
    """The same draws of the same models on the same problems, by evaluate's own stage."""
    scores = json.loads((run / "evaluate" / "scores.json").read_text())
    own = {(row["model"], row["split"]): row for row in scores["rows"]}
    counts = {split: own["rl-6", split]["n_problems"] for split in ("validation", "test")}
    size = Size(counts["validation"], counts["test"], own["rl-6", "test"]["k"])
    asked = Asked("line", "two_point", 6, 4)
    rows = measure(run, [asked], [0, 6], size, alphas=[1.25], last=4)
    found = {(row["model"], row["split"], row["temperature"]): row for row in rows}
    for model in ("base", "rl-4", "rl-6", "logit-1.25"):
        for split in counts:
            assert found[model, split, 1.0]["avg@k"] == own[model, split]["avg@k"]
    line = found["line", "test", 1.0]
    step = line["avg@k"] - own["rl-4", "test"]["avg@k"]
    assert line["against_seen"]["diff"] == pytest.approx(step)
    assert ("line", "validation", 0.0) in found


def test_rounded_checkpoints_are_the_same_path_in_bfloat16(run: Path) -> None:
    path = subject(run).trajectory
    coarse = rounded(path, run / "bf16")
    assert coarse.steps == path.steps
    for step in (0, 6):
        name = "model.embed_tokens.weight"
        [made] = coarse.checkpoints[step].folder.glob("*.safetensors")
        [exact] = path.checkpoints[step].folder.glob("*.safetensors")
        assert torch.equal(load_file(made)[name], load_file(exact)[name].to(torch.bfloat16))


def test_halves_are_three_steps(run: Path) -> None:
    path = subject(run).trajectory
    assert halves(path, 4).steps == [0, 2, 4]
    near, far = features(halves(path, 4)), features(path)
    assert 0 < near["relative_movement"] < far["relative_movement"]
    assert set(computed(run, "logprobs")) == {"r2_median", "r2_median_unfiltered", "dropped"}
