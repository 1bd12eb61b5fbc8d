"""The smallest models and runs that still go through every line of the trainers."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from pipeline.training.spec import Architecture, Compute, Optimizer, RlSpec, SftSpec, TaskSpec

ARCHITECTURE = Architecture(layers=1, hidden=32, intermediate=64, heads=2, kv_heads=1)
TASK = TaskSpec(name="addition", options={"digits": 1})


Tensors = dict[str, torch.Tensor]


def sft_spec(output: Path, **changes: object) -> SftSpec:
    values: dict[str, object] = {
        "output": str(output),
        "task": TASK,
        "optimizer": Optimizer(learning_rate=5e-3),
        "steps": 60,
        "batch_size": 32,
        "checkpoint_every": 30,
        "architecture": ARCHITECTURE,
    }
    return SftSpec(**{**values, **changes})  # type: ignore[arg-type]


def rl_spec(output: Path, model: Path, **changes: object) -> RlSpec:
    values: dict[str, object] = {
        "output": str(output),
        "model": str(model),
        "task": TASK,
        "optimizer": Optimizer(learning_rate=1e-3),
        "steps": 6,
        "snapshot_every": 2,
        "checkpoint_every": 2,
        "prompts_per_step": 4,
        "rollouts_per_prompt": 4,
        "updates_per_step": 2,
        "max_response_tokens": 4,
        "compute": Compute(),
    }
    return RlSpec(**{**values, **changes})  # type: ignore[arg-type]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same(a: Path, b: Path) -> None:
    """Every tensor of two model folders is equal bit for bit."""
    left, right = weights(a), weights(b)
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name
