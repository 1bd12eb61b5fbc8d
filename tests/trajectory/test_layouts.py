"""Layouts, on files that the real libraries write: would catch a byte read from a wrong place."""

from __future__ import annotations

import os
import pickle
import shutil
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.errors import PipelineError
from pipeline.trajectory.combine import write
from pipeline.trajectory.layouts import open_checkpoint
from pipeline.trajectory.layouts.zero import stage_of
from pipeline.trajectory.pickles import load_records
from pipeline.trajectory.plan import make_plan
from pipeline.trajectory.rule import make_rule
from pipeline.trajectory.shards import Files
from pipeline.trajectory.sources import Trajectory, discover
from pipeline.trajectory.stream import pieces
from tests.trajectory.pico import Tensors, load_model, random_tensors, write_model, write_run


def read_all(checkpoint: object) -> Tensors:
    """Every tensor of a checkpoint through our reader, in small pieces, as fp32."""
    out: Tensors = {}
    with Files() as files:
        for name, entry in checkpoint.entries.items():  # type: ignore[attr-defined]
            values = torch.empty(entry.numel)
            for piece in pieces([entry], 31):
                files.load(entry, piece.start, piece.stop, values[piece.start : piece.stop])
            out[name] = values.view(entry.shape)
    return out


def same(got: Tensors, expected: Tensors) -> None:
    assert set(got) == set(expected)
    for name, value in expected.items():
        assert torch.equal(got[name], value.float()), name


@pytest.mark.parametrize("shards", [1, 2])
def test_torch_bin(tmp_path: Path, shards: int) -> None:
    tensors = {n: t.bfloat16() for n, t in random_tensors(3).items()}
    tensors["model.norm.weight"] = torch.arange(20).bfloat16()[5:13]  # a view into a storage
    folder = write_model(tmp_path / "step_1", {})
    (folder / "model.safetensors").unlink()
    names = list(tensors)
    if shards == 1:
        torch.save(
            {n: torch.nn.Parameter(t) for n, t in tensors.items()}, folder / "pytorch_model.bin"
        )
    else:
        weight_map: dict[str, str] = {}
        for i in range(2):
            torch.save({n: tensors[n] for n in names[i::2]}, folder / f"part-{i}.bin")
            weight_map |= dict.fromkeys(names[i::2], f"part-{i}.bin")
        import json

        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    checkpoint = open_checkpoint(1, folder)
    assert checkpoint.layout == "torch bin"
    same(read_all(checkpoint), tensors)


class Bomb:
    """Unpickled in the ordinary way, this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def test_nothing_in_a_pickle_is_executed(tmp_path: Path) -> None:
    bomb = tmp_path / "exploded"
    torch.save({"w": torch.ones(3), "x": Bomb(bomb)}, tmp_path / "evil.bin")
    records = load_records(tmp_path / "evil.bin")
    assert records["w"].shape == (3,)
    assert not bomb.exists()
    pickle.loads(pickle.dumps(Bomb(bomb)))  # it would have
    assert bomb.exists()


def test_damaged_and_strided_torch_files(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    torch.save({"w": torch.ones(3, 4).T}, path)
    with pytest.raises(PipelineError, match="strided view"):
        load_records(path)["w"].entry("w")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(PipelineError, match="truncated"):
        load_records(path)


def save_fsdp_ranks(actor: Path, world: int, seed: int = 0) -> Tensors:
    """What each rank of an FSDP2 run saves, by torch's own sharding; returns the whole model.

    The ranks take turns in this process: sharding needs no communication, since every rank starts
    from the same whole model.
    """
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.testing._internal.distributed.fake_pg import FakeStore

    whole: Tensors = {}
    for rank in range(world):
        dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world)
        mesh = init_device_mesh("cpu", (world,), mesh_dim_names=("fsdp",))
        torch.manual_seed(seed)
        layers: OrderedDict[str, torch.nn.Module] = OrderedDict(
            a=torch.nn.Linear(5, 7), b=torch.nn.Linear(7, 3, bias=False)
        )
        model = torch.nn.Sequential(layers)
        whole = {n: p.detach().clone() for n, p in model.state_dict().items()}
        fully_shard(model, mesh=mesh)
        name = f"model_world_size_{world}_rank_{rank}.pt"
        torch.save(model.state_dict(), actor / name)
        dist.destroy_process_group()
    return whole


@pytest.mark.parametrize("world", [2, 3])
def test_verl_fsdp_shards(tmp_path: Path, world: int) -> None:
    """Rows that do not divide evenly over the ranks."""
    config = tmp_path / "global_step_4/actor/huggingface"
    write_model(config, {})
    (config / "model.safetensors").unlink()  # verl keeps config and tokenizer there
    whole = save_fsdp_ranks(config.parent, world)
    checkpoint = discover(tmp_path, None).base
    assert checkpoint.layout == "verl fsdp"
    assert checkpoint.folder == config
    same(read_all(checkpoint), whole)
    (config.parent / f"model_world_size_{world}_rank_1.pt").unlink()
    with pytest.raises(PipelineError, match=r"rank_1\.pt: no such file"):
        discover(tmp_path, None)


@pytest.mark.parametrize("ranks", [1, 2])
def test_deepspeed_stage_1_with_fp32_gradients(tmp_path: Path, zero: Path, ranks: int) -> None:
    """DeepSpeed's script fails on these files: compared with the masters that its engine gives."""
    masters = load_file(zero / str(ranks) / "checkpoint-1-fp32.safetensors")
    frozen = {"2.weight": torch.zeros(3, 7)}
    base = open_checkpoint(0, write_model(tmp_path / "base", {**masters, **frozen}))
    source = shutil.copytree(zero / str(ranks) / "checkpoint-1-fp32", tmp_path / "step_1")
    found = read_all(open_checkpoint(1, source, base))
    assert found.keys() == {*masters, "2.weight", "counts"}  # frozen, and a buffer
    found = {name: found[name] for name in masters}
    same(found, masters)
    assert any((value != value.bfloat16()).any() for value in found.values())  # not the copies
    model = next(source.glob("*/mp_rank_00_model_states.pt"))
    whole = torch.load(model, weights_only=False)
    whole["param_shapes"][1].popitem()
    torch.save(whole, model)
    with pytest.raises(PipelineError, match=r"names \d+ values, the optimizer's files hold \d+"):
        open_checkpoint(1, source, base)


def test_deepspeed_zero(tmp_path: Path, zero: Path) -> None:
    """ZeRO 1, 2, 3 of two ranks, with groups, a frozen parameter and a buffer."""
    zero_to_fp32 = pytest.importorskip("deepspeed.utils.zero_to_fp32")
    base = open_checkpoint(0, write_model(tmp_path / "base", random_tensors(0)))
    shutil.copytree(zero / "2", tmp_path, dirs_exist_ok=True)
    for stage in (1, 2, 3):
        folder = tmp_path / f"checkpoint-{stage}"
        expected = zero_to_fp32.get_fp32_state_dict_from_zero_checkpoint(str(folder))
        checkpoint = open_checkpoint(stage, folder, base)
        assert checkpoint.layout == "deepspeed zero"
        same(read_all(checkpoint), dict(expected))
        next(folder.glob(f"global_step{stage}/*rank_1_*optim_states.pt")).unlink()
        with pytest.raises(PipelineError, match="1 of 2"):
            open_checkpoint(stage, folder, base)


class ByName:
    """A stage as Python 3.11.2 pickles it."""

    def __init__(self, kind: Any, name: str) -> None:
        self.kind, self.name = kind, name

    def __reduce__(self) -> Any:
        return getattr, (self.kind, self.name)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_stage_is_read_however_python_pickles_it(tmp_path: Path, stage: int) -> None:
    """Would catch checkpoints that the system's Python of Debian 12 has written, refused."""
    kinds = pytest.importorskip("deepspeed.runtime.zero.config").ZeroStageEnum
    member = kinds(stage)
    for number, value in enumerate((stage, member, ByName(kinds, member.name))):
        torch.save({"zero_stage": value}, tmp_path / f"{number}.pt")
        assert stage_of(load_records(tmp_path / f"{number}.pt")["zero_stage"]) == stage
    torch.save({"zero_stage": ByName(kinds, "__members__")}, tmp_path / "other.pt")
    with pytest.raises(PipelineError, match="stage '__members__' is not known"):
        stage_of(load_records(tmp_path / "other.pt")["zero_stage"])


def lora_run(tmp_path: Path, rslora: bool) -> tuple[Path, Path]:
    """A base and two adapters of it, by PEFT; the merged models beside them."""
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True,
    )  # fmt: skip
    base = tmp_path / "base"
    torch.manual_seed(0)
    Qwen2ForCausalLM(config).save_pretrained(base)
    for step in (10, 20):
        torch.manual_seed(step)
        lora = LoraConfig(
            r=4, lora_alpha=12, use_rslora=rslora, target_modules=["q_proj", "down_proj"],
            alpha_pattern={"down_proj": 3}, modules_to_save=["norm"],
        )  # fmt: skip
        model: Any = get_peft_model(Qwen2ForCausalLM.from_pretrained(base), lora)
        for name, parameter in model.named_parameters():
            if "lora" in name or "modules_to_save" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        model.save_pretrained(tmp_path / f"run/checkpoint-{step}")
        model.merge_and_unload().save_pretrained(tmp_path / f"merged/checkpoint-{step}")
    return base, tmp_path / "run"


@pytest.mark.parametrize("rslora", [False, True])
def test_peft_lora_is_the_merged_model(tmp_path: Path, rslora: bool) -> None:
    base, run = lora_run(tmp_path, rslora)
    trajectory = discover(run, base)
    for step in (10, 20):
        got = read_all(trajectory.checkpoints[step])
        merged = load_model(tmp_path / f"merged/checkpoint-{step}")
        assert set(got) == set(merged)
        for name in got:
            assert torch.allclose(got[name], merged[name], atol=1e-6), name
    again = Trajectory.from_json(trajectory.to_json())
    assert again.steps == [0, 10, 20]
    out = tmp_path / "out"
    write(make_plan(trajectory, make_rule("two_point"), 0, 20, [40], dtype="float32"), {40: out})
    start, last = load_model(base), load_model(tmp_path / "merged/checkpoint-20")
    for name, value in load_model(out).items():
        assert torch.allclose(value, start[name] + 2 * (last[name] - start[name]), atol=1e-5)
    assert not (out / "adapter_config.json").exists()


def test_peft_lora_on_the_embedding_is_the_merged_model(tmp_path: Path) -> None:
    """Would catch factors that are not transposed, rows from a wrong place, or the frozen embedding
    that PEFT stores beside them taken for the result.

    The head of a tied base is trained as it was: merging in place changes it with the embedding.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen2ForCausalLM

    base, _ = lora_run(tmp_path, rslora=False)
    for saved in (False, True):
        lora = LoraConfig(r=3, lora_alpha=6, target_modules=["embed_tokens", "q_proj"])
        model: Any = get_peft_model(Qwen2ForCausalLM.from_pretrained(base), lora)
        for name, parameter in model.named_parameters():
            if "lora" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        folder = tmp_path / f"embedding/{saved}"
        model.save_pretrained(folder / "step_5", save_embedding_layers=saved)
        model.merge_and_unload().save_pretrained(folder / "merged")
        got = read_all(discover(folder, base).checkpoints[5])
        merged = load_model(folder / "merged")
        merged["lm_head.weight"] = load_model(base)["model.embed_tokens.weight"]
        assert set(got) == set(merged)
        for name in got:
            assert torch.allclose(got[name], merged[name], atol=1e-6), name


def test_an_adapter_of_a_model_of_another_shape_is_refused(tmp_path: Path) -> None:
    """Would catch rows of a product that are laid over a tensor of another width."""
    base, run = lora_run(tmp_path, rslora=False)
    file = run / "checkpoint-20/adapter_model.safetensors"
    adapter = load_file(file)
    name = next(name for name in adapter if name.endswith("q_proj.lora_A.weight"))
    adapter[name] = adapter[name][:, :8].contiguous()
    save_file(adapter, file, {"format": "pt"})
    with pytest.raises(PipelineError, match=r"q_proj\.weight has shape \[16, 16\].*\[16, 8\]"):
        discover(run, base)


def test_openrlhf_names(tmp_path: Path) -> None:
    write_run(tmp_path, {s: random_tensors(s) for s in (5, 10)}, name="global_step{}_hf")
    assert discover(tmp_path, None).steps == [5, 10]


@pytest.mark.parametrize("nested", [False, True])
def test_missing_expert_is_named(tmp_path: Path, nested: bool) -> None:
    import json

    tensors = {f"model.layers.0.mlp.experts.{i}.up_proj.weight": torch.zeros(2, 2) for i in (0, 2)}
    folder = write_model(tmp_path / "step_1", tensors)
    config = json.loads((folder / "config.json").read_text()) | (
        {"text_config": {"num_experts": 3}} if nested else {"num_experts": 3}
    )
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        PipelineError, match=r"layers\.0\.mlp\.experts\.1\.up_proj\.weight is missing"
    ):
        discover(tmp_path, None)
