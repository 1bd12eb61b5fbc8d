"""Faults caught: an estimate that is not what a process holds: a run that is planned to fit and
dies of memory after its first long response, or that gets twice the GPUs that it needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from pipeline.errors import PipelineError
from pipeline.estimates.memory import (
    Training,
    activations,
    layer_activations,
    states,
    traffic,
)
from pipeline.estimates.shape import Shape, from_architecture, from_config
from pipeline.training.scratch import make_model
from pipeline.training.spec import Architecture, build
from tests.conftest import ROOT

SIZES = {"layers": 2, "hidden": 64, "intermediate": 192, "heads": 4, "kv_heads": 2}


def made(folder: Path, **changes: Any) -> tuple[Any, Shape]:
    architecture = build(Architecture, {**SIZES, **changes}, "test")
    make_model(architecture, folder, 0)
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa")
    return model, from_architecture(architecture)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_weights_are_counted_to_the_last_one(tmp_path: Path, family: str, tied: bool) -> None:
    model, shape = made(tmp_path / "model", family=family, tie_embeddings=tied)
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert from_config(config) == shape


def test_a_mixture_of_experts_has_no_dense_shape() -> None:
    """Its intermediate size is that of one expert: an estimate from it would be far too small."""
    config = {"num_hidden_layers": 2, "hidden_size": 8, "intermediate_size": 8, "vocab_size": 9}
    assert from_config({**config, "num_attention_heads": 2}) is not None
    assert from_config({**config, "num_attention_heads": 2, "num_experts": 8}) is None
    assert from_config(config) is None


def test_states_are_counted_to_the_byte(tmp_path: Path) -> None:
    """Weights, gradients and moments of AdamW, after a step."""
    model, shape = made(tmp_path / "model")
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.arange(8)[None]).logits.sum().backward()
    optimizer.step()
    moments = [
        value
        for state in optimizer.state.values()
        for name, value in state.items()
        if name != "step"
    ]
    parameters = list(model.parameters())
    gradients = [p.grad for p in parameters if p.grad is not None]
    held = {"parameters": parameters, "gradients": gradients, "optimizer": moments}
    wanted = states(shape.parameters, Training(rows=1, tokens=8, cuda=False))
    for part, tensors in held.items():
        assert wanted[part] == sum(t.numel() * t.element_size() for t in tensors), part


def saved(model: Any, rows: int, tokens: int, autocast: bool) -> int:
    """Bytes that autograd keeps of the layers, beside the weights themselves."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage  # held, so that no other tensor gets its place
        return tensor

    ids = torch.zeros(rows, tokens, dtype=torch.long)
    mask = torch.ones_like(ids)
    mask[0, :3] = 0  # padding, as in every batch of prompts
    cast = torch.autocast("cpu", dtype=torch.bfloat16) if autocast else nullcontext()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), cast:
        model.model(ids, attention_mask=mask)
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "autocast"])
def test_activations_are_what_autograd_keeps(tmp_path: Path, precision: str, kv_heads: int) -> None:
    """By the difference of two depths, so that it is layers that are compared."""
    rows, tokens, kept = 4, 96, []
    for layers in (1, 4):
        model, shape = made(tmp_path / str(layers), layers=layers, kv_heads=kv_heads)
        model = model.to(torch.bfloat16) if precision == "bfloat16" else model
        kept.append(saved(model, rows, tokens, precision == "autocast"))
    run = Training(
        rows=rows,
        tokens=tokens,
        bf16=precision != "float32",
        zero_stage=2 if precision == "bfloat16" else 0,
    )
    found = (kept[1] - kept[0]) / 3
    if precision == "autocast":  # the cast weights, which `states` counts
        found -= 2 * shape.layer_parameters
    assert layer_activations(shape, run) == pytest.approx(found, rel=0.03)


LARGE = {"layers": 4, "hidden": 512, "intermediate": 2048, "heads": 8, "kv_heads": 8}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_peak_of_a_training_is_as_estimated(tmp_path: Path) -> None:
    """A whole step of RL (two updates of 32 rows, 17 million weights) in a process of its own,
    against the sum of the parts. What the allocator keeps back and the snapshot are in it."""
    training = {"rollouts_per_prompt": 16, "max_response_tokens": 24}
    values = {**LARGE, "max_positions": 64, "training": training}
    # large blocks go back to the system when they are freed, so that a peak is a peak
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.estimates.measured", str(tmp_path), json.dumps(values)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    peak = json.loads(done.stdout.splitlines()[-1])["peak"]
    shape = from_architecture(build(Architecture, {**LARGE, "max_positions": 64}, "test"))
    run = Training(rows=32, tokens=4 + 24, cuda=False)
    estimate = sum(states(shape.parameters, run).values()) + activations(shape, run)
    assert estimate == pytest.approx(peak, rel=0.25)


@pytest.mark.parametrize(
    ("kind", "extra"),
    [
        ("Qwen3", {"head_dim": 16}),
        ("Qwen3Moe", {"head_dim": 16, "num_experts": 6, "moe_intermediate_size": 24}),
        ("Qwen2Moe", {"num_experts": 4, "moe_intermediate_size": 24,
                      "shared_expert_intermediate_size": 40}),
        ("Mixtral", {"num_local_experts": 4}),
        ("Olmoe", {"num_experts": 4, "eos_token_id": 1}),
    ],
)  # fmt: skip
def test_experts_are_counted_to_the_last_one(kind: str, extra: dict[str, Any]) -> None:
    """A mixture that is planned with the weights of one expert, and arithmetic with all of them."""
    sizes = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "vocab_size": 50}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "num_experts_per_tok": 2}
    config = getattr(transformers, f"{kind}Config")(tie_word_embeddings=False, **{**sizes, **extra})
    model = getattr(transformers, f"{kind}ForCausalLM")(config)
    shape = from_config(config.to_dict())
    assert shape is not None
    count = sum(p.numel() for p in model.parameters())
    assert shape.parameters == count
    experts = sum(p.numel() for name, p in model.named_parameters() if ".experts." in name)
    share = 2 / max(shape.experts, 2)
    assert shape.used == pytest.approx((count - experts * (1 - share)) / count)


def test_layers_that_differ_have_no_shape() -> None:
    """Latent attention, and mixtures in which some layers are dense."""
    moe = {"model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2, "vocab_size": 9}
    moe |= {"num_hidden_layers": 2, "hidden_size": 8, "moe_intermediate_size": 8}
    moe |= {"num_attention_heads": 2}
    assert from_config(moe) is not None
    assert from_config({**moe, "mlp_only_layers": [0]}) is None
    assert from_config({**moe, "decoder_sparse_step": 2}) is None
    assert from_config({**moe, "model_type": "deepseek_v3"}) is None
    assert from_config({**moe, "num_experts": 1, "intermediate_size": 8, "kv_lora_rank": 4}) is None
    with pytest.raises(PipelineError, match="a token passes through"):
        Shape(2, 8, 8, 2, 2, 9, experts=4)


def test_what_ranks_send() -> None:
    """A thousand weights, four ranks, bf16, three micro-batches, by hand: a ring passes 3/4."""
    sent = {
        stage: traffic(1000, Training(1, 1, ranks=4, zero_stage=stage, bf16=True), passes=3)
        for stage in (0, 1, 2, 3)
    }
    assert sent[0] == 0.75 * 8 * 1000  # fp32, added up and handed back
    assert sent[1] == 0.75 * (4 + 2) * 1000
    assert sent[2] == 0.75 * (3 * 2 + 2) * 1000
    assert sent[3] == 0.75 * 3 * (2 + 2 * 2) * 1000
    assert traffic(1000, Training(1, 1), passes=3) == 0
