"""Folders with more than one thing in them: two launches, an adapter beside shards, two models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.errors import PipelineError
from pipeline.trajectory.layouts import open_checkpoint
from tests.trajectory.adapters import assert_close, load, merged, qwen, read, trained
from tests.trajectory.pico import Tensors, random_tensors, write_model
from tests.trajectory.test_layouts import save_fsdp_ranks


def verl(folder: Path, *worlds: int) -> dict[int, Tensors]:
    """verl's folder of the actor, into which launches of these world sizes wrote in turn."""
    config = write_model(folder / "actor/huggingface", {})
    (config / "model.safetensors").unlink()
    return {world: save_fsdp_ranks(folder / "actor", world, seed=world) for world in worlds}


def state(folder: Path, world_size: object) -> None:
    text = json.dumps({"FSDP_version": 2, "world_size": world_size})
    (folder / "actor/fsdp_config.json").write_text(text)


@pytest.mark.parametrize("last", [2, 3])
def test_fsdp_shards_of_two_launches(tmp_path: Path, last: int) -> None:
    """Would catch ranks of one launch filled up with ranks of the other."""
    whole = verl(tmp_path, 2, 3)
    words = r"actor: shards of several launches: 2 of world size 2 \(model_world_size_2_rank_0\.pt"
    with pytest.raises(PipelineError, match=words + r".* and 3 of world size 3.*fsdp_config"):
        read(tmp_path, None)
    state(tmp_path, last)
    assert_close(read(tmp_path, None), whole[last])
    (tmp_path / f"actor/model_world_size_{last}_rank_1.pt").unlink()
    with pytest.raises(PipelineError, match=rf"world_size_{last}_rank_1\.pt: no such file"):
        read(tmp_path, None)


def test_fsdp_shards_of_another_launch_than_stated(tmp_path: Path) -> None:
    verl(tmp_path, 2)
    state(tmp_path, 4)
    with pytest.raises(PipelineError, match=r"world_size is 4, but the shards here are 2 of world"):
        read(tmp_path, None)
    state(tmp_path, "2")
    with pytest.raises(PipelineError, match=r"fsdp_config\.json: no world_size"):
        read(tmp_path, None)
    state(tmp_path, 2)
    shard = tmp_path / "actor/model_world_size_2_rank_0.pt"
    shutil.copy(shard, shard.with_name("model_world_size_2_rank_2.pt"))
    with pytest.raises(PipelineError, match=r"rank_2\.pt: more ranks than the 2 of its world size"):
        read(tmp_path, None)


@pytest.mark.parametrize("rows", [False, True])
def test_plain_tensors_on_several_ranks(tmp_path: Path, rows: bool) -> None:
    """Each rank's rows, or copies: would catch copies laid one under the other."""
    verl(tmp_path)
    whole = {name: value.float() for name, value in random_tensors(0).items()}
    for rank in range(2):
        parts = {name: value.chunk(2)[rank] if rows else value for name, value in whole.items()}
        save = {name: value.clone() for name, value in parts.items()}
        torch.save(save, tmp_path / f"actor/model_world_size_2_rank_{rank}.pt")
    assert_close(read(tmp_path, None), whole)


def zero_folder(tmp_path: Path, *checkpoints: Path) -> tuple[Path, Path, Path]:
    """A folder into which these were saved in turn, its tag folder, and a base."""
    for checkpoint in checkpoints:
        shutil.copytree(checkpoint, tmp_path / "step_1", dirs_exist_ok=True)
    base = write_model(tmp_path / "base", random_tensors(0))
    return tmp_path / "step_1", next((tmp_path / "step_1").glob("global_step?")), base


@pytest.mark.parametrize("stage", [2, 3])
def test_zero_files_of_two_launches(tmp_path: Path, zero: Path, stage: int) -> None:
    """One rank wrote over rank 0 of two; the other way round everything is of the last launch."""
    one, two = zero / f"1/checkpoint-{stage}", zero / f"2/checkpoint-{stage}"
    folder, tag, base = zero_folder(tmp_path, two, one)
    with pytest.raises(PipelineError, match=r"2 \S+ files, more than the 1 ranks that rank 0"):
        read(folder, base)
    shutil.rmtree(folder)
    zero_folder(tmp_path, one, two)
    assert_close(read(folder, base), read(two, base))
    for file in tag.glob("*rank_1*optim*"):
        shutil.copy(file, tag / file.name.replace("bf16_", ""))
    with pytest.raises(PipelineError, match=r"of several launches \(bf16_zero_pp_rank_1.* and zer"):
        read(folder, base)


def test_zero_files_of_another_model_are_refused(tmp_path: Path, zero: Path) -> None:
    """A model's state that was left by another launch names other parameters."""
    folder, tag, base = zero_folder(tmp_path, zero / "2/checkpoint-2")
    file = tag / "mp_rank_00_model_states.pt"
    whole = torch.load(file, weights_only=False)
    whole["param_shapes"][0].popitem()
    torch.save(whole, file)
    with pytest.raises(PipelineError, match=r"names \d+ values, the optimizer's files hold \d+"):
        read(folder, base)
    file.unlink()
    with pytest.raises(PipelineError, match=r"mp_rank_00_model_states\.pt: no such file"):
        read(folder, base)


def test_frozen_parameters_of_stage_1_are_read(tmp_path: Path, zero: Path) -> None:
    """DeepSpeed stores them in the model's state alone: would catch a model that lacks them."""
    whole = read(zero / "2/checkpoint-2", write_model(tmp_path / "other", random_tensors(0)))
    base = write_model(tmp_path / "base", whole)
    found = read(zero / "2/checkpoint-1", base)
    assert found.keys() == whole.keys()
    assert torch.equal(found["2.weight"], whole["2.weight"])


def test_zero_tags(tmp_path: Path, zero: Path) -> None:
    """`latest` says which tag is meant; without it two are refused."""
    folder, tag, base = zero_folder(tmp_path, zero / "2/checkpoint-2")
    wanted = read(folder, base)
    shutil.copytree(zero / "1/checkpoint-2/global_step2", folder / "global_step3")
    assert_close(read(folder, base), wanted)
    (folder / "latest").write_text("global_step9\n")
    words = r"latest: names global_step9, .*there is global_step2, global_step3"
    with pytest.raises(PipelineError, match=words):
        read(folder, base)
    (folder / "latest").unlink()
    words = r"several DeepSpeed checkpoints \(global_step2, global_step3\).*snapshot\.checkpoints"
    with pytest.raises(PipelineError, match=words):
        read(folder, base)
    assert_close(read(tag, base), wanted)


@pytest.mark.parametrize(
    ("original", "copy", "words"),
    [
        ("bf16_zero_pp_rank_0_mp_rank_00_optim", "bf16_zero_pp_rank_0_mp_rank_01_optim", "tensor"),
        ("bf16_zero_pp_rank_0_mp_rank_00_optim", "expp_rank_0_mp_rank_00_optim", "tensor or ex"),
        ("mp_rank_00_model", "layer_0_expert_0_mp_rank_00_model", "expert or pipeline"),
    ],
)
def test_other_parallelism_of_deepspeed_is_refused(
    tmp_path: Path, zero: Path, original: str, copy: str, words: str
) -> None:
    folder, tag, base = zero_folder(tmp_path, zero / "2/checkpoint-2")
    shutil.copy(tag / f"{original}_states.pt", tag / f"{copy}_states.pt")
    with pytest.raises(PipelineError, match=rf"saved under {words}.*ds_to_universal"):
        read(folder, base)


def test_an_adapter_beside_a_trainers_state_is_read(tmp_path: Path, zero: Path) -> None:
    """verl's lora_adapter beside its shards, TRL's adapter beside DeepSpeed's folder."""
    base = qwen(tmp_path / "base")
    model = trained(base)
    verl(tmp_path / "verl", 2)
    model.save_pretrained(tmp_path / "verl/actor/lora_adapter")
    shutil.copytree(zero / "2/checkpoint-3", tmp_path / "trl")
    model.save_pretrained(tmp_path / "trl")
    # with hf_model verl writes base and factors unmerged under the name of a model
    unmerged = tmp_path / "unmerged/actor/huggingface"
    shutil.copytree(base, unmerged)
    whole = {name: value.clone() for name, value in model.state_dict().items()}
    save_file(whole, unmerged / "model.safetensors")
    with pytest.raises(PipelineError, match="a model with its LoRA adapter not merged"):
        read(tmp_path / "unmerged", base)
    model.save_pretrained(tmp_path / "unmerged/actor/lora_adapter")
    wanted = merged(model)
    given = open_checkpoint(0, base)
    for folder in ("verl", "trl", "unmerged"):
        checkpoint = open_checkpoint(1, tmp_path / folder, given)
        assert checkpoint.layout == "peft lora"
        assert_close(load(checkpoint.entries), wanted)


def test_a_model_beside_an_adapter_is_refused(tmp_path: Path) -> None:
    """verl's merger writes the base beside the adapter: it would be the base as step 40."""
    base = qwen(tmp_path / "base")
    shutil.copytree(base, tmp_path / "step_40")
    trained(base).save_pretrained(tmp_path / "step_40/lora_adapter")
    words = r"holds a model \(.*step_40\) and an adapter \(.*step_40/lora_adapter\).*checkpoints={1"
    with pytest.raises(PipelineError, match=words):
        read(tmp_path / "step_40", base)
    read(tmp_path / "step_40/lora_adapter", base)
    wanted = read(base, None)
    (tmp_path / "step_40/lora_adapter/adapter_model.safetensors").unlink()  # merged since
    assert_close(read(tmp_path / "step_40", base), wanted)
    shutil.rmtree(tmp_path / "step_40/lora_adapter")
    (tmp_path / "step_40/adapter_model.bin").write_text("what no library loads without a config")
    assert_close(read(tmp_path / "step_40", base), wanted)


def test_two_models_are_read_if_they_are_one(tmp_path: Path) -> None:
    """A copy in another dtype is the same model; another model is not."""
    tensors = {name: tensor.bfloat16() for name, tensor in random_tensors(0).items()}
    write_model(tmp_path, tensors)
    write_model(tmp_path / "hf_model", tensors, torch.float32)
    wanted = {name: tensor.float() for name, tensor in tensors.items()}
    assert_close(read(tmp_path, None), wanted)
    write_model(tmp_path / "huggingface", random_tensors(1))
    with pytest.raises(PipelineError, match=r"holds .* and .*/huggingface, which may differ"):
        read(tmp_path, None)


def test_two_trainers_states_are_refused(tmp_path: Path, zero: Path) -> None:
    verl(tmp_path, 2)
    shutil.copytree(zero / "2/checkpoint-2/global_step2", tmp_path / "global_step2")
    with pytest.raises(PipelineError, match=r"the FSDP shards in .*actor and DeepSpeed's"):
        read(tmp_path, None)
