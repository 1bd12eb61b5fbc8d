"""The smallest models and runs that still go through every line of the trainers."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file

from pipeline.config import ModelConfig
from pipeline.tasks.task import TaskConfig
from pipeline.training.schema import AlgorithmConfig, ComputeConfig, RlConfig, SftConfig
from pipeline.training.spec import Architecture, RlSpec, SftSpec

SIZES = {"layers": 1, "hidden": 32, "intermediate": 64, "heads": 2, "kv_heads": 1}
ARCHITECTURE = Architecture(**SIZES)  # type: ignore[arg-type]
TASK = TaskConfig(name="addition", kind="addition", options={"digits": 1})


Tensors = dict[str, torch.Tensor]
S = TypeVar("S", SftSpec, RlSpec)


def compute(**values: Any) -> ComputeConfig:
    return ComputeConfig(name="test", **values)


def changed(spec: S, **values: object) -> S:
    """Another spec: values by the name of their field, in whichever section it is."""
    for name, value in values.items():
        sections = {f.name: getattr(spec, f.name) for f in dataclasses.fields(spec)}
        if name in sections:
            spec = replace(spec, **{name: value})  # type: ignore[arg-type]
            continue
        owner = next(
            key
            for key in ("rl_train", "sft_train", "algorithm", "model")
            if key in sections and hasattr(sections[key], name)
        )
        spec = replace(spec, **{owner: replace(sections[owner], **{name: value})})
    return spec


def sft_spec(output: Path, **changes: object) -> SftSpec:
    spec = SftSpec(
        output=str(output),
        task=TASK,
        model=ModelConfig(name="pico", architecture=dict(SIZES)),
        sft_train=SftConfig(
            steps=60, batch_size=32, learning_rate=5e-3, lr_schedule="constant", split="train"
        ),
        compute=compute(),
    )
    return changed(spec, **changes)


def rl_spec(output: Path, model: Path, **changes: object) -> RlSpec:
    spec = RlSpec(
        output=str(output),
        task=TASK,
        model=ModelConfig(name="pico", path=str(model)),
        algorithm=AlgorithmConfig(
            name="grpo",
            learning_rate=1e-3,
            prompts_per_step=4,
            rollouts_per_prompt=4,
            updates_per_step=2,
            micro_batch=1024,
            max_response_tokens=4,
        ),
        rl_train=RlConfig(steps=6, snapshot_every=2, checkpoint_every=2),
        compute=compute(),
    )
    return changed(spec, **changes)


def timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of metrics without how long things took."""
    return [{k: v for k, v in row.items() if not k.endswith("seconds")} for row in rows]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same(a: Path, b: Path) -> None:
    """Every tensor of two model folders is equal bit for bit."""
    left, right = weights(a), weights(b)
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name
