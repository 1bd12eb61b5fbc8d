"""One model under two spellings: would catch a tensor read as another, in part, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from pipeline.errors import PipelineError
from pipeline.inference import loading
from pipeline.trajectory.export import export, export_base
from pipeline.trajectory.sources import Trajectory, discover
from pipeline.trajectory.spellings import Matching, match_prefixes
from tests.trajectory import real
from tests.trajectory.pico import random_tensors, write_model
from tests.trajectory.real import edited, in_memory, logits, make, mixed, moved, predicted, save

EXPERTS: dict[str, Any] = {"num_experts_per_tok": 2}
MODELS: dict[str, Callable[[], Any]] = {
    "qwen3_moe": lambda: make(
        "Qwen3Moe", num_experts=4, moe_intermediate_size=8, head_dim=8, **EXPERTS
    ),
    "mixtral": lambda: make("Mixtral", num_local_experts=4, **EXPERTS),
    "gpt_neox": lambda: make("GPTNeoX"),
    "qwen2_5_vl": lambda: real.vision("Qwen2_5_VL"),
    "gemma3": lambda: real.vision("Gemma3"),
    "llava": lambda: real.vision("Llava"),
}


def check(found: tuple[torch.Tensor, ...], expected: Any) -> None:
    for said in found:
        assert torch.allclose(said, logits(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_names_of_the_module_and_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, turned: bool
) -> None:
    """Experts fused or one by one, prefixes of vision-language models: by transformers' tables. The
    output has the base's names, whichever these are."""
    model = MODELS[name]()
    if hasattr(model.config, "vision_config"):
        auto = transformers.AutoModelForImageTextToText
        monkeypatch.setattr(loading, "AutoModelForCausalLM", auto)
    run = moved(model, 2)
    base, step = save(model, tmp_path / "base"), save(run, tmp_path / "step")
    if turned:
        base = in_memory(model, base, tmp_path / "module")
    else:
        step = in_memory(run, step, tmp_path / "module")
    assert load_file(base / "model.safetensors").keys() != load_file(step / "model.safetensors")
    trajectory = discover(tmp_path, base, {10: step})
    assert not trajectory.checkpoints[10].loadable
    out = tmp_path / "out"
    check(predicted(trajectory, out), mixed(model, run, 2.0))
    written = load_file(out / "model.safetensors").keys()
    assert written == load_file(base / "model.safetensors").keys() - set(trajectory.tied)


@pytest.mark.parametrize(
    "before",
    ["_orig_mod.", "module.", "module._orig_mod.", "base_model.model.", "_fsdp_wrapped_module."],
)
def test_wrappers(tmp_path: Path, before: str) -> None:
    """What torch.compile, DDP, PEFT and FSDP put before every name, of the base as of the run."""
    model = make("Qwen2")
    run = moved(model, 2)
    saved = {s: save(m, tmp_path / f"saved_{s}") for s, m in ((0, model), (10, run))}
    wrapped = {
        s: edited(folder, tmp_path / f"step_{s}", lambda t: {before + n: w for n, w in t.items()})
        for s, folder in saved.items()
    }
    expected = mixed(model, run, 2.0)
    for i, base in enumerate((saved[0], wrapped[0], None)):
        trajectory = discover(tmp_path, base, {**({} if base else wrapped), 10: wrapped[10]})
        out = tmp_path / f"out_{i}"
        check(predicted(trajectory, out), expected)
        assert load_file(out / "model.safetensors").keys() == {*run.state_dict()}
    export_base(trajectory, tmp_path / "start")
    check((logits(transformers.Qwen2ForCausalLM.from_pretrained(tmp_path / "start")),), model)


def test_wrappers_within_names(tmp_path: Path) -> None:
    """Activation checkpointing and FSDP wrap single layers."""
    model = make("Qwen2")
    run = moved(model, 2)

    def wrap(name: str) -> str:
        name = name.replace("layers.0.", "layers.0._checkpoint_wrapped_module.")
        return name.replace("mlp.", "_fsdp_wrapped_module.mlp._orig_mod.")

    step = edited(
        save(run, tmp_path / "saved"),
        tmp_path / "step",
        lambda tensors: {wrap(n): t for n, t in tensors.items()},
    )
    trajectory = discover(tmp_path, save(model, tmp_path / "base"), {10: step})
    check(predicted(trajectory, tmp_path / "out"), mixed(model, run, 2.0))


def test_a_bare_models_names(tmp_path: Path) -> None:
    """GPT-2's files have no `transformer.`, and masks that the module keeps to itself."""
    model = make("GPT2")
    run = moved(model, 2)
    masks = {f"h.{i}.attn.bias": torch.ones(1, 1, 8, 8).tril() for i in range(2)}
    base = edited(
        save(model, tmp_path / "saved"),
        tmp_path / "base",
        lambda t: {n.removeprefix("transformer."): w for n, w in t.items()} | masks,
    )
    step = save(run, tmp_path / "step")
    with pytest.raises(PipelineError, match=r"h\.0\.attn\.bias and 1 more is missing.*keep"):
        discover(tmp_path, base, {10: step})
    trajectory = discover(tmp_path, base, {10: step}, Matching(keep=True))
    check(predicted(trajectory, tmp_path / "out"), mixed(model, run, 2.0))
    assert "wte.weight" in load_file(tmp_path / "out/model.safetensors")


def test_a_text_model_trained_out_of_a_vision_language_model(tmp_path: Path) -> None:
    """Its names lie one level higher; the tower is only in the base."""
    whole = real.vision("Gemma3")
    text = transformers.Gemma3ForCausalLM(whole.config.text_config)
    text.model.load_state_dict(whole.model.language_model.state_dict())
    run = moved(text, 2)
    base, step = save(whole, tmp_path / "base"), save(run, tmp_path / "step")
    trajectory = discover(tmp_path, base, {10: step}, Matching(keep=True))
    export(trajectory, 10, tmp_path / "out", "float32")
    found = transformers.Gemma3ForConditionalGeneration.from_pretrained(tmp_path / "out")
    check((logits(found),), run)
    before, after = (load_file(f / "model.safetensors") for f in (base, tmp_path / "out"))
    tower = [name for name in before if name.startswith("vision_tower.")]
    assert tower
    assert all(torch.equal(before[name], after[name]) for name in tower)


@pytest.mark.parametrize("world", [2, 3])
def test_fused_experts_in_shards(tmp_path: Path, world: int) -> None:
    """FSDP2 cuts the fused tensor by rows, and the base has a tensor an expert: each of the base's
    is put together from the ranks that hold parts of it."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.testing._internal.distributed.fake_pg import FakeStore

    model = MODELS["qwen3_moe"]()
    run = moved(model, 2)
    actor = tmp_path / "global_step_10/actor"
    actor.mkdir(parents=True)
    for rank in range(world):
        dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world)
        mesh = init_device_mesh("cpu", (world,), mesh_dim_names=("fsdp",))
        sharded = moved(run, 0, scale=0.0)
        fully_shard(sharded, mesh=mesh)
        name = f"model_world_size_{world}_rank_{rank}.pt"
        torch.save(sharded.state_dict(), actor / name)
        dist.destroy_process_group()
    trajectory = discover(tmp_path, save(model, tmp_path / "base"))
    assert trajectory.checkpoints[10].layout == "verl fsdp"
    check(predicted(trajectory, tmp_path / "out"), mixed(model, run, 2.0))


def test_an_adapter_names_modules_as_they_are_in_memory(tmp_path: Path) -> None:
    """PEFT's names of a vision-language model are not those of its files."""
    model = real.vision("Qwen2_5_VL")
    base = save(model, tmp_path / "base")
    adapted: Any = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "lm_head"]))
    torch.manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted.save_pretrained(tmp_path / "step")
    export(discover(tmp_path, base, {10: tmp_path / "step"}), 10, tmp_path / "out", "float32")
    found = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path / "out")
    check((logits(found),), adapted)


def renamed(tmp_path: Path, names: dict[str, str], **more: torch.Tensor) -> Callable[..., Any]:
    """`discover` on a pico run whose second step has other beginnings of names."""
    write_model(tmp_path / "base", random_tensors(0))
    tensors = {
        next((new + n.removeprefix(old) for old, new in names.items() if n.startswith(old)), n): t
        for n, t in random_tensors(1).items()
    }
    write_model(tmp_path / "step_10", tensors | more)

    def open_run(*rules: tuple[str, str | None]) -> Trajectory:
        folders = {10: tmp_path / "step_10"}
        return discover(tmp_path, tmp_path / "base", folders, Matching(rules))

    return open_run


def test_an_unknown_prefix_is_named_with_the_option_that_maps_it(tmp_path: Path) -> None:
    """The option of the message is the one that works, and survives a record."""
    open_run = renamed(tmp_path, {"": "actor."})
    with pytest.raises(PipelineError) as error:
        open_run()
    assert "names differ by the prefix 'actor.'" in str(error.value)
    assert "\"snapshot.rename={actor.: ''}\"" in str(error.value)
    trajectory = open_run(("actor.", ""))
    assert Trajectory.from_json(trajectory.to_json()) == trajectory
    assert trajectory.checkpoints[10].entries.keys() == random_tensors(0).keys()


def test_a_rule_leaves_out_what_the_base_has_not(tmp_path: Path) -> None:
    """A value head beside the model, as TRL's wrapper saves it."""
    before = "pretrained_model."
    open_run = renamed(tmp_path, {"": before}, **{"v_head.summary.weight": torch.ones(1, 8)})
    with pytest.raises(PipelineError, match=r"prefix 'pretrained_model\.'"):
        open_run()
    with pytest.raises(PipelineError, match=r"v_head.* is extra.*rename=\{v_head\.\S+: null\}"):
        open_run((before, ""))
    assert open_run((before, ""), ("v_head.", None)).steps == [0, 10]


def test_rules_that_do_nothing_or_too_much_are_refused(tmp_path: Path) -> None:
    open_run = renamed(tmp_path, {})
    with pytest.raises(PipelineError, match=r"rename: no tensor's name begins with 'modle\.'"):
        open_run(("modle.", "model."))
    open_run = renamed(tmp_path / "two", {}, **{"old.norm.weight": torch.ones(8)})
    with pytest.raises(PipelineError, match=r"are both model\.norm\.weight.*leave one out"):
        open_run(("old.", "model."))
    assert open_run(("old.", None), ("model.", "model.")).steps == [0, 10]


@pytest.mark.parametrize("fault", ["missing", "extra", "other"])
def test_a_mapping_that_is_not_complete_is_none(tmp_path: Path, fault: str) -> None:
    """All names under a known prefix but one: that one must not be passed over."""
    open_run = renamed(tmp_path, {"model.": "model.language_model."})
    assert open_run().steps == [0, 10]
    path = tmp_path / "step_10/model.safetensors"
    tensors, name = load_file(path), "model.language_model.layers.1.mlp.up_proj.weight"
    if fault == "missing":
        del tensors[name]
    elif fault == "extra":
        tensors[name.replace("layers.1", "layers.2")] = torch.ones(24, 8)
    else:
        tensors["model.visual.mlp.up_proj.weight"] = tensors.pop(name)
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(PipelineError, match=r"mlp\.up_proj\.weight"):
        open_run()


def test_a_choice_is_refused() -> None:
    """Two towers of the base end alike, and the run does not say which is meant."""
    wanted = ["model.left.layers.0.weight", "model.right.layers.0.weight", "model.norm.weight"]
    assert not match_prefixes(["transformer.layers.0.weight"], wanted).complete
    both = ["a.layers.0.weight", "b.layers.0.weight"]
    assert not match_prefixes(both, wanted).complete
    found = match_prefixes(["language_model.norm.weight"], wanted)
    assert found.known
    assert found.names == {"language_model.norm.weight": "model.norm.weight"}


def test_experts_in_part_are_refused(tmp_path: Path) -> None:
    """Fused tensors with fewer experts than the base has."""
    model = MODELS["qwen3_moe"]()
    base, saved = save(model, tmp_path / "base"), save(moved(model, 2), tmp_path / "saved")
    few = {n: t[:3] if "experts" in n else t for n, t in model.state_dict().items()}
    step = edited(saved, tmp_path / "step", lambda _: few)
    with pytest.raises(PipelineError, match=r"experts\.\w+: \d+ of its \d+ rows are there"):
        discover(tmp_path, base, {10: step})
