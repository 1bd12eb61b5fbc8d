"""What an adapter's folder holds: all of it, in whatever form it was saved, or a refusal."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.errors import PipelineError
from pipeline.trajectory.layouts import open_checkpoint
from tests.trajectory.adapters import assert_close, load, merged, move, qwen, read, trained
from tests.trajectory.pico import Tensors, write_delta_snapshot

pytest.importorskip("peft")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return qwen(tmp_path_factory.mktemp("qwen") / "base", layers=3)


def without(stored: Tensors, *parts: str) -> Tensors:
    return {k: v for k, v in stored.items() if not all(part in k for part in parts)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: {}, "no tensors in it"),
        (lambda s: without(s, "layers.1", "lora_B"), "layers.1.self_attn.q_proj has no lora_B"),
        (lambda s: without(s, "lora_A"), "has no lora_A"),
        (lambda s: without(s, "layers.1"), "no lora_A and lora_B of model.layers.1.self_attn"),
        (lambda s: without(s, "v_proj"), "no lora_A and lora_B of .*v_proj"),
        (lambda s: without(s, "lm_head"), "no tensor lm_head.weight, which .* says was trained"),
        (lambda s: {k: v.new_zeros(0) for k, v in s.items()}, "has no elements.*ZeRO-3"),
        (
            lambda s: {k: v.flatten() if "lora_A" in k else v for k, v in s.items()},
            "one dimension: saved under DeepSpeed ZeRO-3 or FSDP without gathering",
        ),
        (
            lambda s: {k: v.new_zeros(0) if "lm_head" in k else v for k, v in s.items()},
            "lm_head.weight: no elements.*stage3_gather_16bit_weights_on_model_save",
        ),
        (lambda s: {k: v.to(torch.float8_e4m3fn) for k, v in s.items()}, "float8.*bf16 first"),
    ],
)
def test_an_adapter_without_all_its_content_is_refused(
    base: Path, tmp_path: Path, change: Any, words: str
) -> None:
    """Would catch the base, or half of the change, passed off as the trained model."""
    trained(base, target_modules=["q_proj", "v_proj"], modules_to_save=["lm_head"]).save_pretrained(
        tmp_path
    )
    file = tmp_path / "adapter_model.safetensors"
    save_file(change(load_file(file)), file)
    with pytest.raises(PipelineError, match=words) as refused:
        read(tmp_path, base)
    assert str(tmp_path) in str(refused.value)


def test_modules_that_were_not_trained_are_not_missed(base: Path, tmp_path: Path) -> None:
    """A vision tower in the base's file, of a model that was trained as text alone; layers for
    multi-token prediction; experts that the model keeps fused."""
    stored = load_file(base / "model.safetensors")
    others = ("vision.blocks.0.attn.out_proj", "mtp.layers.0.self_attn.q_proj",
              "model.layers.3.self_attn.q_proj", "model.layers.0.mlp.experts.0.w1")  # fmt: skip
    shutil.copytree(base, tmp_path / "base")
    stored |= {f"{name}.weight": torch.ones(16, 16) for name in others}
    save_file(stored, tmp_path / "base/model.safetensors")
    model = trained(base, target_modules=["q_proj", "out_proj", "w1"])
    model.save_pretrained(tmp_path / "adapter")
    found = read(tmp_path / "adapter", tmp_path / "base")
    wanted = merged(model)
    assert_close({name: found[name] for name in wanted}, wanted)


def test_biases_that_an_older_peft_did_not_save_are_missed(base: Path, tmp_path: Path) -> None:
    trained(base, bias="lora_only").save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    save_file(without(load_file(file), "bias"), file)
    with pytest.raises(PipelineError, match=r"no tensor model.*q_proj\.bias, which"):
        read(tmp_path, base)


@pytest.mark.parametrize("form", ["bin", "old keys", "no prefix", "whole state", "transformers"])
def test_adapters_saved_otherwise_are_read(base: Path, tmp_path: Path, form: str) -> None:
    """Older key layouts, torch files, the state dict of the whole model, transformers' own."""
    from peft import LoraConfig, PeftModel
    from transformers import AutoModelForCausalLM

    file = tmp_path / "adapter_model.safetensors"
    if form == "transformers":
        model: Any = AutoModelForCausalLM.from_pretrained(base)
        model.add_adapter(LoraConfig(r=4, lora_alpha=12, target_modules=["q_proj"]))
        move(model)
        model.save_pretrained(tmp_path)
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path)
        assert_close(read(tmp_path, base), merged(model))
        return
    model = trained(base, modules_to_save=["lm_head"])
    model.save_pretrained(tmp_path, safe_serialization=form != "bin")
    if form == "whole state":
        torch.save(model.state_dict(), file.with_suffix(".bin"))
        file.unlink()
    elif form == "old keys":
        old = {
            key.replace("_A.weight", "_A.default.weight")
            .replace("_B.weight", "_B.default.weight")
            .replace("lm_head.", "lm_head.modules_to_save.default."): value
            for key, value in load_file(file).items()
        }
        save_file(old, file)
    elif form == "no prefix":
        stored = load_file(file).items()
        save_file({k.removeprefix("base_model.model."): v for k, v in stored}, file)
    assert_close(read(tmp_path, base), merged(model))


def test_named_adapters(base: Path, tmp_path: Path) -> None:
    """PEFT saves "default" in the folder and others below it: TRL's reference is not the policy."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    policy = LoraConfig(r=4, lora_alpha=12, target_modules=["q_proj"])
    model: Any = trained(base)
    model.add_adapter("ref", LoraConfig(r=2, target_modules=["q_proj"]))
    model.save_pretrained(tmp_path / "default")
    model.set_adapter("default")
    assert_close(read(tmp_path / "default", base), merged(model))
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), policy, "policy")
    move(model)
    model.save_pretrained(tmp_path / "named")
    wanted = merged(model)
    assert_close(read(tmp_path / "named", base), wanted)
    (tmp_path / "default/ref").rename(tmp_path / "named/ref")
    with pytest.raises(PipelineError, match=r"named/policy and .*named/ref.*snapshot\.checkpoints"):
        read(tmp_path / "named", base)
    assert_close(read(tmp_path / "named/policy", base), wanted)


def test_an_adapter_of_an_adapter_is_refused(base: Path, tmp_path: Path) -> None:
    """Would catch the first change lost: a step that starts from the untrained model."""
    trained(base).save_pretrained(tmp_path / "sft")
    trained(base, lora_alpha=3).save_pretrained(tmp_path / "rl")
    start = open_checkpoint(0, tmp_path / "sft", open_checkpoint(0, base))
    with pytest.raises(PipelineError, match=r"sft: .*q_proj\.weight is stored as a difference"):
        open_checkpoint(5, tmp_path / "rl", start)


def test_a_delta_on_an_adapter_is_refused(base: Path, tmp_path: Path) -> None:
    """Its digest is that of the base below; and one without tensors is no step."""
    name = "model.layers.0.self_attn.q_proj.weight"
    trained(base).save_pretrained(tmp_path / "sft")
    start = open_checkpoint(0, tmp_path / "sft", open_checkpoint(0, base))
    write_delta_snapshot(tmp_path / "rl", base, 5, {name: torch.ones(16, 16)})
    with pytest.raises(PipelineError, match=r"sft: .*q_proj\.weight is stored as a difference"):
        open_checkpoint(5, tmp_path / "rl", start)
    write_delta_snapshot(tmp_path / "other", base, 5, {"model.norm.weight": torch.ones(16)})
    found = load(open_checkpoint(5, tmp_path / "other", start).entries)
    assert torch.equal(found[name], load(start.entries)[name])  # the adapter's change is kept
    write_delta_snapshot(tmp_path / "none", base, 5, {})
    with pytest.raises(PipelineError, match=r"delta\.safetensors: no tensors in it"):
        open_checkpoint(5, tmp_path / "none", open_checkpoint(0, base))


def test_the_named_base_is_opened_or_asked_for(base: Path, tmp_path: Path) -> None:
    model = trained(base)
    model.save_pretrained(tmp_path)
    assert_close(read(tmp_path, None), merged(model))
    file = tmp_path / "adapter_config.json"
    config = json.loads(file.read_text()) | {"base_model_name_or_path": "unsloth/some-bnb-4bit"}
    file.write_text(json.dumps(config))
    with pytest.raises(PipelineError, match=r"give it dequantised to bf16 as snapshot\.base"):
        read(tmp_path, None)


def test_adapters_that_were_trained_together_are_not_read_as_one(
    base: Path, tmp_path: Path
) -> None:
    """The sum of two adapters read as the first of them, at exit 0."""
    from peft import LoraConfig

    model = trained(base)
    model.add_adapter("style", LoraConfig(r=2, target_modules=["v_proj"]))
    model.base_model.set_adapter(["default", "style"])
    move(model, 3)
    model.save_pretrained(tmp_path / "two")
    with pytest.raises(PipelineError, match=r"others of other names in it \(style\)"):
        read(tmp_path / "two", base)
    shutil.rmtree(tmp_path / "two/style")
    model.base_model.set_adapter(["default"])
    model.delete_adapter("style")
    assert_close(read(tmp_path / "two", base), merged(model))
