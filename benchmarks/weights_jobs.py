"""The jobs that `benchmarks/weights.py` times: ours, the floor below them, and other ways."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from scipy import stats

from pipeline.processes import die_with_parent
from pipeline.trajectory.combine import write
from pipeline.trajectory.linearity import probe_weights
from pipeline.trajectory.plan import make_plan
from pipeline.trajectory.rule import make_rule
from pipeline.trajectory.sources import discover

SCALES = {  # layers, hidden, intermediate, key/value width, vocabulary
    "pico": (2, 64, 128, 32, 1000),
    "small": (24, 896, 4864, 128, 151936),
    "1.5b": (28, 1536, 8960, 256, 151936),
}
STEPS = (0, 100, 200, 300)
BLOCK = 1 << 23
SAMPLED = 0.001  # share of the weights that the published probe looks at


def shapes(scale: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Tensor names and shapes of a Qwen2 model with its own lm_head."""
    layers, hidden, inner, kv, vocabulary = SCALES[scale]
    yield "model.embed_tokens.weight", (vocabulary, hidden)
    for i in range(layers):
        prefix = f"model.layers.{i}."
        for name, width in (("q", hidden), ("k", kv), ("v", kv)):
            yield f"{prefix}self_attn.{name}_proj.weight", (width, hidden)
            yield f"{prefix}self_attn.{name}_proj.bias", (width,)
        yield f"{prefix}self_attn.o_proj.weight", (hidden, hidden)
        yield f"{prefix}mlp.gate_proj.weight", (inner, hidden)
        yield f"{prefix}mlp.up_proj.weight", (inner, hidden)
        yield f"{prefix}mlp.down_proj.weight", (hidden, inner)
        yield f"{prefix}input_layernorm.weight", (hidden,)
        yield f"{prefix}post_attention_layernorm.weight", (hidden,)
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (vocabulary, hidden)


def config(scale: str) -> dict[str, object]:
    """A config.json that other tools, too, take for a Qwen2 model."""
    layers, hidden, inner, kv, vocabulary = SCALES[scale]
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_attention_heads": hidden // 64,
        "num_key_value_heads": max(kv // 64, 1),
        "vocab_size": vocabulary,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
        "torch_dtype": "bfloat16",
    }


def make_checkpoints(root: Path, scale: str) -> None:
    """Four checkpoints of a nearly linear path; about a third of the scalars pass the filters."""
    base = {}
    for seed, (name, shape) in enumerate(shapes(scale)):
        generator = torch.Generator().manual_seed(seed)
        value = torch.empty(shape, dtype=torch.bfloat16)
        value.copy_(torch.randn(shape, generator=generator).mul_(0.02))
        base[name] = value
    for step in STEPS:
        tensors = {}
        for name, value in base.items():
            tensors[name] = value
            if step:
                drift = value.roll(1).float().mul_(step * 5e-5)  # another weight: as random as any
                tensors[name] = (
                    value.float()
                    .add_(drift)
                    .add_(value.roll(7 + step).float(), alpha=2e-3)
                    .to(torch.bfloat16)
                )
        folder = root / f"global_step_{step}"
        folder.mkdir(parents=True)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps(config(scale)))


def weights(root: Path, step: int) -> Path:
    return root / f"global_step_{step}" / "model.safetensors"


def floor(root: Path, out: Path, reads: int, writes: int) -> None:
    """Read the inputs once, in one thread, and copy one of them for each output."""
    buffer = bytearray(BLOCK)
    for step in STEPS[:reads]:
        with open(weights(root, step), "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    out.mkdir(parents=True)
    for i in range(writes):
        shutil.copyfile(weights(root, 0), out / str(i))


def combine(root: Path, out: Path, method: str, targets: list[int], last: int) -> None:
    folders = {t: out / f"step_{t}" for t in targets}
    write(make_plan(discover(root, None), make_rule(method), 0, last, targets, ["*norm*"]), folders)


def probe(root: Path, out: Path) -> None:
    report = probe_weights(discover(root, None))
    keys = ("scalars_total", "scalars_kept", "r2_mean", "r2_median")
    out.mkdir(parents=True)
    (out / "weights.json").write_text(json.dumps({key: report[key] for key in keys}))


def whole_models(root: Path, out: Path) -> None:
    """The published script's way: both models in memory, tensor by tensor, one file at the end."""
    first, last = load_file(weights(root, 0)), load_file(weights(root, 100))
    result = {}
    for name, value in last.items():
        if "norm" in name:
            result[name] = value
        else:
            start = first[name].float()
            result[name] = (start + 6.0 * (value.float() - start)).to(torch.bfloat16)
    out.mkdir(parents=True)
    save_file(result, out / "model.safetensors", metadata={"format": "pt"})


def mergekit(root: Path, out: Path) -> None:
    """The same model by mergekit's task_arithmetic."""
    out.mkdir(parents=True)
    models = [{"model": str(root / "global_step_100"), "parameters": {"weight": 6.0}}]
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": str(root / "global_step_0"),
        "models": models,
        "dtype": "bfloat16",
    }
    (out / "recipe.yaml").write_text(json.dumps(recipe))  # JSON is YAML
    command = ["mergekit-yaml", str(out / "recipe.yaml"), str(out / "model")]
    subprocess.run(
        [*command, "--no-copy-tokenizer"],
        check=True,
        stdout=subprocess.DEVNULL,
        preexec_fn=die_with_parent,
    )


def svd(root: Path, out: Path) -> None:
    """Rank 1 the direct way: an SVD of each tensor's deltas, the new model in memory."""
    files = [safe_open(weights(root, step), "pt") for step in STEPS]
    result = {}
    for name in files[0].keys():  # noqa: SIM118 (no mapping)
        start = files[0].get_tensor(name)
        base = start.float().flatten()
        deltas = torch.stack([file.get_tensor(name).float().flatten() - base for file in files[1:]])
        u, s, v = torch.linalg.svd(deltas, full_matrices=False)
        line = np.polyfit(STEPS[1:], (u[:, 0] * s[0]).double().numpy(), 1)
        ahead = float(np.polyval(line, 600))
        result[name] = (base + ahead * v[0]).view(start.shape).to(torch.bfloat16)
    out.mkdir(parents=True)
    save_file(result, out / "model.safetensors", metadata={"format": "pt"})


def sampled_r2(root: Path, out: Path) -> None:
    """The published probe's way: one regression a scalar, for 0.1 % of them."""
    rng, found = np.random.default_rng(0), []
    files = [safe_open(weights(root, step), "pt") for step in STEPS]
    for name in files[0].keys():  # noqa: SIM118 (no mapping)
        values = torch.stack([file.get_tensor(name).flatten() for file in files])
        chosen = rng.choice(values.shape[1], int(values.shape[1] * SAMPLED), replace=False)
        for column in values[:, torch.from_numpy(chosen)].float().T.numpy():
            if np.ptp(column) > 1e-4 and len(np.unique(column)) >= 4:
                found.append(stats.linregress(STEPS, column).rvalue ** 2)
    out.mkdir(parents=True)
    (out / "weights.json").write_text(json.dumps({"r2_median": float(np.median(found))}))


@dataclass(frozen=True)
class Case:
    """A task: how much it must at least read and write, and who does it.

    `peers` by name; they run once each, if at all.
    """

    name: str
    reads: int
    writes: int
    ours: Callable[[Path, Path], None]
    peers: dict[str, Callable[[Path, Path], None]]


CASES = {
    "two_point": Case(
        "two_point, 1 target",
        2,
        1,
        lambda root, out: combine(root, out, "two_point", [600], 100),
        {"both models in memory": whole_models, "mergekit": mergekit},
    ),
    "three": Case(
        "two_point, 3 targets",
        2,
        3,
        lambda root, out: combine(root, out, "two_point", [200, 300, 600], 100),
        {},
    ),
    "rank1": Case(
        "rank1 of 4, 1 target",
        4,
        1,
        lambda root, out: combine(root, out, "rank1", [600], 300),
        {"SVD of each tensor": svd},
    ),
    "probe": Case(
        "linear_probe of 4, every weight",
        4,
        0,
        probe,
        {"linregress on 0.1 % of the weights": sampled_r2},
    ),
}
