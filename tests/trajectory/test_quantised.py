"""Codes and scales are never weights; and what only looks like them is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.errors import PipelineError
from pipeline.trajectory.combine import write
from pipeline.trajectory.layouts import open_checkpoint
from pipeline.trajectory.plan import make_plan
from pipeline.trajectory.rule import make_rule
from pipeline.trajectory.sources import discover
from tests.trajectory.adapters import qwen, read, trained
from tests.trajectory.pico import Tensors, load_model, random_tensors, write_model, write_run

Q = "model.layers.0.self_attn.q_proj"
FP8 = torch.float8_e4m3fn


def stored(folder: Path, extra: Tensors, quantisation: dict[str, Any] | None = None) -> Path:
    """A model folder in bf16 with other tensors in it."""
    write_model(folder, random_tensors(0))
    file = folder / "model.safetensors"
    save_file(load_file(file) | extra, file)
    if quantisation is not None:
        config = json.loads((folder / "config.json").read_text())
        config["quantization_config"] = quantisation
        (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("extra", "config"),
    [
        ({f"{Q}.weight": torch.zeros(8, 8).to(FP8)}, None),
        (
            {f"{Q}.weight": torch.zeros(8, 8).to(FP8), f"{Q}.weight_scale_inv": torch.ones(1, 1)},
            {"quant_method": "fp8", "weight_block_size": [128, 128]},
        ),
        ({f"{Q}.weight_scale": torch.ones(8, 1)}, None),
        ({f"{Q}.input_scale": torch.ones(1)}, {"quant_method": "fp8"}),
        (
            {f"{Q}.weight": torch.zeros(32, 1).byte(), f"{Q}.weight.absmax": torch.ones(1)},
            {"quant_method": "bitsandbytes", "load_in_4bit": True},
        ),
        # bnb_4bit_quant_storage=bfloat16: the codes look like floats
        (
            {
                f"{Q}.weight": torch.zeros(16, 1).bfloat16(),
                f"{Q}.weight.quant_state.bitsandbytes__nf4": torch.zeros(80).byte(),
            },
            None,
        ),
        ({f"{Q}.weight": torch.zeros(8, 8).char(), f"{Q}.SCB": torch.ones(8)}, None),
        ({f"{Q}.qweight": torch.zeros(1, 8).int(), f"{Q}.scales": torch.ones(1, 8)}, None),
        ({"model.layers.0.mlp.experts.gate_up_proj_blocks": torch.zeros(2, 4, 1, 16).byte()}, None),
        ({f"{Q}.W_q": torch.zeros(4, 8).byte()}, None),
        ({f"{Q}.of_next_year": torch.zeros(4, 8).short()}, None),
    ],
)
def test_codes_and_scales_are_refused(
    tmp_path: Path, extra: Tensors, config: dict[str, Any] | None
) -> None:
    """Would catch codes copied from the last checkpoint under scales that were extrapolated."""
    folder = stored(tmp_path / "step_1", extra, config)
    method = (config or {}).get("quant_method", "")
    words = rf"model\.safetensors: tensor .*: a quantised model.*{method}.*dequantise it to bf16"
    with pytest.raises(PipelineError, match=words):
        open_checkpoint(1, folder)


def test_dtypes_of_scales_are_named(tmp_path: Path) -> None:
    """A dtype that is not read is not a damaged file."""
    folder = stored(tmp_path, {f"{Q}.s": torch.ones(4).to(torch.float8_e8m0fnu)})
    with pytest.raises(PipelineError, match=r"q_proj\.s is stored as F8_E8M0, .*dequantise"):
        open_checkpoint(1, folder)


@pytest.mark.parametrize("kind", ["int4", "int8", "fp8"])
def test_models_of_compressed_tensors_are_refused(tmp_path: Path, kind: str) -> None:
    compressors = pytest.importorskip("compressed_tensors.compressors")
    quantization = pytest.importorskip("compressed_tensors.quantization")
    from transformers import AutoModelForCausalLM

    base = qwen(tmp_path)
    model: Any = AutoModelForCausalLM.from_pretrained(base)
    bits, form = int(kind.removeprefix("fp").removeprefix("int")), kind.rstrip("0123456789")
    strategy = {"strategy": "tensor"} if form == "fp" else {"strategy": "group", "group_size": 8}
    weights = quantization.QuantizationArgs(
        num_bits=bits, type={"fp": "float"}.get(form, "int"), **strategy
    )
    scheme = quantization.QuantizationScheme(targets=["Linear"], weights=weights)
    config = quantization.QuantizationConfig(
        config_groups={"all": scheme}, ignore=["lm_head"], quantization_status="frozen"
    )
    quantization.apply_quantization_config(model, config)
    for module in model.modules():
        if hasattr(module, "weight_scale"):
            module.weight_scale.data.fill_(0.01)
    compressor = compressors.ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    save_file(dict(model.state_dict()), base / "model.safetensors")
    compressor.update_config(base)
    with pytest.raises(PipelineError, match=r"a quantised model \(compressed-tensors\)"):
        open_checkpoint(1, base)


def test_integer_buffers_and_masks_are_read(tmp_path: Path) -> None:
    """Would catch a refusal of what plain models have beside their weights."""
    buffers = {
        "model.embeddings.position_ids": torch.arange(8)[None],
        "model.positions.position_ids": torch.arange(8).int()[None],
        "h.0.attn.bias": torch.ones(1, 1, 4, 4).byte(),
        "h.0.attn.causal_mask": torch.ones(4, 4).bool(),
        "x.relative_position_index": torch.zeros(4, 4).int(),
        "y.tid2eid": torch.zeros(4, 2).int(),
        "rng_state": torch.zeros(16).byte(),
        "num_batches_tracked": torch.tensor(3),
        "x.layer_scale.scale": torch.ones(4),
    }
    assert buffers.keys() < read(stored(tmp_path, buffers), None).keys()


def test_dequantised_models_are_read_and_written_as_plain(tmp_path: Path) -> None:
    """Copies keep the config's entry: an engine would take the result for codes."""
    quantisation = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    run = {step: random_tensors(step) for step in (10, 20)}
    for folder in write_run(tmp_path / "run", run, torch.float32).iterdir():
        config = json.loads((folder / "config.json").read_text())
        nested = {"text_config": {"quantization_config": quantisation, "num_hidden_layers": 2}}
        config |= {"quantization_config": quantisation} | nested
        (folder / "config.json").write_text(json.dumps(config))
    trajectory = discover(tmp_path / "run", None)
    assert not trajectory.base.loadable  # as it is, no engine would read it as plain weights
    out = tmp_path / "out"
    write(make_plan(trajectory, make_rule("two_point"), 10, 20, [30], dtype="float32"), {30: out})
    for name, value in load_model(out).items():
        assert torch.allclose(value, 2 * run[20][name] - run[10][name], atol=1e-6)
    written = json.loads((out / "config.json").read_text())
    assert "quantization_config" not in written
    assert "quantization_config" not in written["text_config"]


def test_an_adapter_of_a_quantised_base_says_what_the_base_must_be(tmp_path: Path) -> None:
    base = qwen(tmp_path / "base")
    trained(base).save_pretrained(tmp_path / "adapter")
    tensors = load_file(base / "model.safetensors")
    tensors |= {f"{Q}.weight": tensors[f"{Q}.weight"].to(FP8), f"{Q}.weight_scale": torch.ones(1)}
    save_file(tensors, base / "model.safetensors")
    for given in (base, None):
        words = r"base/model\.safetensors.*an adapter trained on it is added to those weights"
        with pytest.raises(PipelineError, match=words):
            read(tmp_path / "adapter", given)
