"""Extrapolated weights in memory against the folder that the streaming kernel writes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.errors import PipelineError
from pipeline.inference.interface import Sampling
from pipeline.inference.open import open_engine
from pipeline.trajectory.combine import write
from pipeline.trajectory.export import export
from pipeline.trajectory.plan import make_plan
from pipeline.trajectory.recipe import Recipe, recipes
from pipeline.trajectory.recipe_weights import checkpoint_tensors, recipe_tensors
from pipeline.trajectory.rule import make_rule
from pipeline.trajectory.sources import Trajectory, discover
from tests.inference.pico import prompts_of, save_model
from tests.trajectory.pico import write_delta_snapshot
from tests.trajectory.test_layouts import lora_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of two checkpoints."""
    for step in (10, 40):
        save_model(tmp_path / "run" / f"step_{step}", seed=step)
    return tmp_path / "run"


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_same_bits_as_the_written_folder(run: Path, tmp_path: Path, dtype: str) -> None:
    """Another order of rounding, a held tensor extrapolated, deltas from the wrong checkpoint."""
    trajectory = discover(run, None)
    hold = ("*norm*", "*.bias")
    out = {100: tmp_path / "out"}
    write(make_plan(trajectory, make_rule("two_point"), 10, 40, [100], hold, dtype), out)
    folders = (trajectory.paths[10], trajectory.paths[40])
    recipe = Recipe(folders, [0.0, 3.0], hold, dtype)
    made = dict(recipe_tensors(recipe))
    [file] = out[100].glob("*.safetensors")
    wanted = load_file(file)
    assert made.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert made[name].dtype == tensor.dtype, name
        assert torch.equal(made[name], tensor), name
    by_tensor = Recipe(folders, {name: [0.0, 3.0] for name in wanted}, hold, dtype)
    again = dict(recipe_tensors(Recipe.from_plain(by_tensor.to_plain())))
    assert all(torch.equal(again[name], made[name]) for name in made)


def test_hf_engine_on_a_recipe_is_the_engine_on_the_folder(run: Path, tmp_path: Path) -> None:
    """A tensor of the recipe that does not reach the model, the tied head for one."""
    trajectory = discover(run, None)
    out = {70: tmp_path / "out"}
    write(make_plan(trajectory, make_rule("two_point"), 10, 40, [70], ("*norm*",), "float32"), out)
    recipe = Recipe((trajectory.paths[10], trajectory.paths[40]), [0, 2.0], dtype="float32")
    engine = open_engine("hf", trajectory.paths[10])
    engine.load_weights(recipe)
    prompts, greedy = prompts_of(5), Sampling(temperature=0, max_tokens=10)
    folder = open_engine("hf", out[70])
    assert list(engine.generate(prompts, greedy)) == list(folder.generate(prompts, greedy))
    assert engine.score(prompts, prompts) == folder.score(prompts, prompts)


def test_checkpoints_must_hold_the_same_tensors(run: Path, tmp_path: Path) -> None:
    """A tensor that is silently left out."""
    other = save_model(tmp_path / "other", seed=3)
    tensors = load_file(other / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(PipelineError, match=r"model\.norm\.weight is missing"):
        list(recipe_tensors(Recipe((run / "step_10", other), [0, 1.0])))
    with pytest.raises(PipelineError, match="1 coefficients for 2 checkpoints"):
        list(recipe_tensors(Recipe((run / "step_10", run / "step_40"), [1.0])))


def test_checkpoint_tensors_are_all(run: Path) -> None:
    """A shard that is not read."""
    [file] = (run / "step_10").glob("*.safetensors")
    wanted = load_file(file)
    found = dict(checkpoint_tensors(run / "step_10"))
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("method", ["two_point", "rank1"])
@pytest.mark.parametrize("stored", ["delta", "lora"])
def test_same_bits_from_checkpoints_that_are_no_models(
    tmp_path: Path, stored: str, method: str
) -> None:
    """The base taken for every checkpoint (each step would be zero), or a sum rounded too early."""
    trajectory = (deltas_of if stored == "delta" else adapters_of)(tmp_path)
    hold, last = ("*norm*",), trajectory.steps[-1]
    out = {100: tmp_path / "out"}
    write(make_plan(trajectory, make_rule(method), 0, last, [100], hold), out)
    [recipe] = recipes([make_plan(trajectory, make_rule(method), 0, last, [100], hold)])[0].values()
    made = dict(recipe_tensors(Recipe.from_plain(recipe.to_plain())))
    wanted = load_file(out[100] / "model.safetensors")
    assert made.keys() == wanted.keys()
    start = load_file(trajectory.base.folder / "model.safetensors")
    assert any(not torch.equal(wanted[n].float(), start[n].float()) for n in wanted)
    for name, tensor in wanted.items():
        assert made[name].dtype == tensor.dtype, name
        if stored == "delta":
            assert torch.equal(made[name], tensor), name
        else:  # B A by rows or whole: the sums of a product may be taken in another order
            assert torch.allclose(made[name].float(), tensor.float(), rtol=2**-7, atol=1e-6), name


def test_a_recipe_of_one_folder_is_that_checkpoint(tmp_path: Path) -> None:
    """An engine that evaluates the base, or its rounded copy, in place of base + delta."""
    trajectory = deltas_of(tmp_path)
    step = trajectory.steps[-1]
    source = trajectory.checkpoints[step].source
    recipe = Recipe((source,), [1.0], (), "float32", trajectory.base.folder)
    export(trajectory, step, tmp_path / "whole", "float32")
    engine, whole = open_engine("hf", trajectory.base.folder), open_engine("hf", tmp_path / "whole")
    prompts = prompts_of(5)
    before = engine.score(prompts, prompts)
    engine.load_weights(recipe)
    assert engine.score(prompts, prompts) == whole.score(prompts, prompts) != before


def deltas_of(tmp_path: Path) -> Trajectory:
    """A bf16 base and two steps stored as bf16 deltas that bf16 weights could not hold."""
    base = save_model(tmp_path / "base", seed=1)
    file = base / "model.safetensors"
    start = {name: tensor.bfloat16() for name, tensor in load_file(file).items()}
    save_file(start, file, {"format": "pt"})
    for step in (10, 40):
        torch.manual_seed(step)
        deltas = {n: 1e-5 * step * torch.randn(t.shape) for n, t in start.items()}
        write_delta_snapshot(tmp_path / f"run/step_{step}", base, step, deltas)
    return discover(tmp_path / "run", base)


def adapters_of(tmp_path: Path) -> Trajectory:
    base, run = lora_run(tmp_path, rslora=False)
    return discover(run, base)
