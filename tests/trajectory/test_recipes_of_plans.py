"""Recipes against the folders that are written of the same plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipeline.errors import PipelineError
from pipeline.trajectory.combine import write
from pipeline.trajectory.plan import make_plan
from pipeline.trajectory.recipe import recipes
from pipeline.trajectory.recipe_weights import recipe_tensors
from pipeline.trajectory.rule import make_rule
from pipeline.trajectory.sources import Trajectory, discover
from tests.inference.pico import save_model


@pytest.fixture
def trajectory(tmp_path: Path) -> Trajectory:
    """Four checkpoints."""
    for step in (0, 10, 20, 40):
        save_model(tmp_path / "run" / f"step_{step}", seed=step)
    return discover(tmp_path / "run", None)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("two_point", {}),
        ("least_squares", {"damping": 0.5}),
        ("rank1", {}),
        ("two_point", {"alpha_by_tensor": {"*mlp*": 1.25}}),
        ("least_squares", {"max_norm": 0.5}),
    ],
)
def test_same_weights_as_the_folders(
    trajectory: Trajectory, tmp_path: Path, method: str, options: dict[str, Any]
) -> None:
    """An option, a checkpoint or a tensor's own coefficients that get lost on the way."""
    targets = [60, 90]
    out = {t: tmp_path / f"{t}" for t in targets}
    rule = make_rule(method, options)
    plan = make_plan(trajectory, rule, 0, 40, targets, ("*norm*",), "float32")
    write(plan, out)
    [made_of] = recipes([plan])
    for t in targets:
        [file] = out[t].glob("*.safetensors")
        wanted = load_file(file)
        made = dict(recipe_tensors(made_of[t]))
        assert made.keys() == wanted.keys()
        for name, tensor in wanted.items():
            assert torch.equal(made[name], tensor), name


def test_by_scalar_is_refused(trajectory: Trajectory) -> None:
    """A gate by scalar that is silently left out."""
    plan = make_plan(trajectory, make_rule("gated", {"by": "scalar"}), 0, 40, [60])
    with pytest.raises(PipelineError, match="weight_extrap stage"):
        recipes([plan])
