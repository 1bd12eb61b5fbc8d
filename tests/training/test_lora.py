"""Adapters in training. Faults caught: adapters that differ from start to start, snapshots that
hold another moment or scale than the model, or cannot be read as a trajectory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from pipeline.training.schema import LoraConfig
from pipeline.training.worker import run
from pipeline.trajectory.sources import discover
from tests.training.pico import rl_spec, weights
from tests.training.test_deltas import values

LORA = LoraConfig(rank=2, alpha=8)


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """A finished run of 4 steps; read-only."""
    folder = tmp_path_factory.mktemp("lora")
    run(rl_spec(folder, base, steps=4, lora=LORA))
    return folder


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def test_snapshots_are_adapters_that_read_as_a_trajectory(output: Path, base: Path) -> None:
    """Our reader against PEFT's own merge."""
    trajectory = discover(output / "snapshots", base)
    assert trajectory.steps == [0, 2, 4]
    start = weights(base)
    for step in (2, 4):
        folder = output / f"snapshots/step_{step}"
        names = sorted(path.name for path in folder.iterdir())
        assert names == ["adapter_config.json", "adapter_model.safetensors"]
        model = AutoModelForCausalLM.from_pretrained(base)
        merged = PeftModel.from_pretrained(model, folder).merge_and_unload().state_dict()
        found = values(trajectory.checkpoints[step].entries)
        moved = [name for name in start if not torch.equal(found[name], start[name])]
        assert len(moved) == 7  # the matrices of the one layer; neither norms nor embeddings
        for name in start:
            torch.testing.assert_close(found[name], merged[name], rtol=0, atol=1e-6)
    assert discover(output / "snapshots", None).base.folder == base.resolve()


def test_the_last_snapshot_is_the_adapter_in_training(output: Path) -> None:
    one = adapter(output / "snapshots/step_4")
    two = adapter(output / "checkpoints/checkpoint-8")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_broken_run_resumes_bit_for_bit(output: Path, base: Path, tmp_path: Path) -> None:
    """Catches adapters made before anything is seeded, and a resumed run with new ones."""
    spec = rl_spec(tmp_path, base, steps=4, lora=LORA)
    torch.manual_seed(1234)  # not what a fresh process has

    def stop(row: dict[str, object]) -> None:
        if row["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(spec, stop)
    run(spec)
    for step in (2, 4):
        one, two = (adapter(p / f"snapshots/step_{step}") for p in (output, tmp_path))
        assert all(torch.equal(one[name], two[name]) for name in one)


def test_targets_and_dtype_are_those_asked_for(base: Path, tmp_path: Path) -> None:
    lora = LoraConfig(rank=2, targets=["q_proj", "v_proj"])
    run(rl_spec(tmp_path, base, steps=2, lora=lora, snapshot_dtype="bfloat16"))
    found = adapter(tmp_path / "snapshots/step_2")
    assert {name.split(".")[-3] for name in found} == {"q_proj", "v_proj"}
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
