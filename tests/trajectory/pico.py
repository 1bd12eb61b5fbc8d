"""Tiny HF model folders on disk, with known values, written by the safetensors library itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from pipeline.trajectory.layouts import hf
from pipeline.trajectory.layouts.delta import WEIGHTS, write_record

Tensors = dict[str, torch.Tensor]


def shapes(tied: bool = False) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a two-layer model, norms and a bias included."""
    named: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (37, 8)}
    for i in range(2):
        named[f"model.layers.{i}.self_attn.q_proj.weight"] = (8, 8)
        named[f"model.layers.{i}.self_attn.q_proj.bias"] = (8,)
        named[f"model.layers.{i}.mlp.up_proj.weight"] = (24, 8)
        named[f"model.layers.{i}.input_layernorm.weight"] = (8,)
    named["model.norm.weight"] = (8,)
    if not tied:
        named["lm_head.weight"] = (37, 8)
    return named


def random_tensors(seed: int, tied: bool = False, scale: float = 0.05) -> Tensors:
    """Normal fp32 values."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator) * scale
        for name, shape in shapes(tied).items()
    }


def run_tensors(steps: list[int], seed: int = 0, tied: bool = False) -> dict[int, Tensors]:
    """A run: theta_0, a drift linear in the step, and noise."""
    base = random_tensors(seed, tied)
    drift = random_tensors(seed + 1, tied, scale=1e-4)
    out = {}
    for i, step in enumerate(steps):
        noise = random_tensors(seed + 10 + i, tied, scale=2e-3)
        out[step] = {
            name: value + step * drift[name] + (noise[name] if step else 0)
            for name, value in base.items()
        }
    return out


def write_model(
    folder: Path,
    tensors: Mapping[str, torch.Tensor],
    dtype: torch.dtype = torch.bfloat16,
    shards: int = 1,
    tied: bool | None = False,
) -> Path:
    """A model folder with config, generation config, tokenizer and chat template."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {n: (t.to(dtype) if t.is_floating_point() else t) for n, t in tensors.items()}
    if shards == 1:
        save_file(values, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        names = list(values)
        weight_map: dict[str, str] = {}
        for i in range(shards):
            filename = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
            part = {n: values[n] for n in names[i::shards]}
            save_file(part, folder / filename, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(part, filename)
        index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config: dict[str, Any] = {
        "architectures": ["Pico"],
        "torch_dtype": str(dtype).removeprefix("torch."),
    }
    if tied is not None:
        config["tie_word_embeddings"] = tied
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text('{"eos_token_id": 1}')
    (folder / "tokenizer.json").write_text('{"model": {}}')
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    return folder


def write_run(
    root: Path,
    run: Mapping[int, Tensors],
    dtype: torch.dtype = torch.bfloat16,
    name: str = "global_step_{}",
    shards: int = 1,
    tied: bool = False,
) -> Path:
    """One model folder a step below `root`."""
    for step, tensors in run.items():
        write_model(root / name.format(step), tensors, dtype, shards, tied)
    return root


def load_model(folder: Path) -> Tensors:
    """All tensors of a model folder, read by the safetensors library."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return load_file(folder / "model.safetensors")
    out: Tensors = {}
    for filename in sorted(set(json.loads(index.read_text())["weight_map"].values())):
        out |= load_file(folder / filename)
    return out


def write_delta_snapshot(
    folder: Path,
    base: Path,
    step: int,
    deltas: Mapping[str, torch.Tensor],
    dtype: torch.dtype = torch.bfloat16,
) -> None:
    """A snapshot of exactly these differences, which no sum with the base has rounded."""
    folder.mkdir(parents=True, exist_ok=True)
    stored = {name: delta.detach().to("cpu", dtype).contiguous() for name, delta in deltas.items()}
    save_file(stored, folder / WEIGHTS)
    write_record(folder, base, step, hf.read(base).entries if hf.find(base) else {})
