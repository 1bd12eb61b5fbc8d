"""Heads that are the embedding and heads that are not: would catch one taken for the other."""

from __future__ import annotations

import json
import os
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
from pipeline.trajectory import tying
from pipeline.trajectory.export import export, export_base
from pipeline.trajectory.shards import read_header
from pipeline.trajectory.sources import Trajectory, discover
from tests.trajectory import real
from tests.trajectory.pico import write_delta_snapshot
from tests.trajectory.real import edited, logits, make, mixed, moved, predicted, save, untied

Change = Callable[[dict[str, Any]], Any]


def flag(folder: Path) -> Any:
    return json.loads((folder / "config.json").read_text()).get("tie_word_embeddings")


def check(trajectory: Trajectory, expected: Any, out: Path) -> None:
    """Both ways to the predicted model give what was computed apart."""
    for found in predicted(trajectory, out):
        assert torch.equal(found, logits(expected))
    value = json.loads(json.dumps(trajectory.to_json()))
    assert Trajectory.from_json(value) == trajectory


@pytest.mark.parametrize("says", [True, False, None])
@pytest.mark.parametrize("name", ["Qwen2", "Gemma", "GPTNeoX", "GPT2"])
def test_an_untied_run_of_a_tied_base(tmp_path: Path, name: str, says: bool | None) -> None:
    """The base's head is its embedding; the config's flag, right, wrong or left out, changes
    nothing of what is stored, and the output's says what the output is."""
    model = make(name, tie_word_embeddings=True)
    start = untied(model)
    run = moved(start, 2)

    def config(values: dict[str, Any]) -> None:
        values.pop("tie_word_embeddings", None)
        if says is not None:
            values["tie_word_embeddings"] = says

    base = save(model, tmp_path / "base")
    step = edited(save(run, tmp_path / "saved"), tmp_path / "step_10", config=config)
    trajectory = discover(tmp_path, base, {10: step})
    assert trajectory.tied == ()
    assert not trajectory.base.loadable  # an engine would tie what it is given later
    check(trajectory, mixed(start, run, 2.0), tmp_path / "out")
    assert flag(tmp_path / "out") is False
    export_base(trajectory, tmp_path / "start")
    assert flag(tmp_path / "start") is False
    class_ = type(model)
    assert torch.equal(logits(class_.from_pretrained(tmp_path / "start")), logits(model))


def test_a_tied_run_of_an_untied_base(tmp_path: Path) -> None:
    """The run's head is its embedding, of which the base's knows nothing."""
    run = make("Qwen2", seed=4, tie_word_embeddings=True)
    start = moved(untied(run), 5)
    base, step = save(start, tmp_path / "base"), save(run, tmp_path / "step_10")
    trajectory = discover(tmp_path, base, {10: step})
    check(trajectory, mixed(start, untied(run), 2.0), tmp_path / "out")
    assert flag(tmp_path / "out") is False


def test_tied_at_first_and_untied_later(tmp_path: Path) -> None:
    """One checkpoint with a head of its own gives all of them one."""
    model = make("Qwen2", tie_word_embeddings=True)
    middle, last = moved(model, 6), moved(untied(model), 7)
    folders = {s: save(m, tmp_path / f"step_{s}") for s, m in ((5, middle), (10, last))}
    trajectory = discover(tmp_path, save(model, tmp_path / "base"), folders)
    check(trajectory, mixed(untied(model), last, 2.0), tmp_path / "out")
    export(trajectory, 5, tmp_path / "middle", "float32")
    again = transformers.Qwen2ForCausalLM.from_pretrained(tmp_path / "middle")
    assert torch.equal(logits(again), logits(middle))
    assert flag(tmp_path / "middle") is False


@pytest.mark.parametrize("name", ["Qwen2", "Gemma"])
@pytest.mark.parametrize("stored", ["head too", "head alone", "embedding alone"])
def test_tied_heads_count_once_however_they_are_stored(
    tmp_path: Path, name: str, stored: str
) -> None:
    """A head that is stored as well is not extrapolated into a second embedding."""
    model = make(name, tie_word_embeddings=True)
    run = moved(model, 3)

    def change(tensors: real.Tensors) -> real.Tensors:
        embedding = tensors["model.embed_tokens.weight"]
        if stored == "head alone":
            del tensors["model.embed_tokens.weight"]
        return tensors if stored == "embedding alone" else tensors | {"lm_head.weight": embedding}

    base, saved = save(model, tmp_path / "base"), save(run, tmp_path / "saved")
    trajectory = discover(tmp_path, base, {10: edited(saved, tmp_path / "step_10", change)})
    assert trajectory.tied == ("lm_head.weight",)
    check(trajectory, mixed(model, run, 2.0), tmp_path / "out")
    assert "lm_head.weight" not in load_file(tmp_path / "out/model.safetensors")


@pytest.mark.parametrize(("name", "tied"), [("Gemma", True), ("Llama", False)])
def test_without_the_key_an_absent_head_follows_the_architecture(
    tmp_path: Path, name: str, tied: bool
) -> None:
    """Gemma ties, Llama does not: there an absent head is a lost one."""

    def change(tensors: real.Tensors) -> real.Tensors:
        return {n: t for n, t in tensors.items() if "lm_head" not in n}

    def config(values: dict[str, Any]) -> None:
        values.pop("tie_word_embeddings", None)

    model = make(name)
    run = moved(model, 3)
    folders = [
        edited(save(m, tmp_path / f"saved{i}"), tmp_path / f"step_{i}", change, config)
        for i, m in enumerate((model, run))
    ]
    if tied:
        trajectory = discover(tmp_path, folders[0], {10: folders[1]})
        check(trajectory, mixed(model, run, 2.0), tmp_path / "out")
    else:
        with pytest.raises(PipelineError, match=r"lm_head\.weight is absent.*incomplete"):
            discover(tmp_path, folders[0], {10: folders[1]})


@pytest.mark.parametrize("dtypes", [(torch.float32, torch.float32), (torch.float32, torch.float64)])
def test_heads_are_compared_to_the_last_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtypes: tuple[torch.dtype, torch.dtype]
) -> None:
    """Would catch a sample taken for the whole, and a change of a file that goes unnoticed."""
    monkeypatch.setattr(tying, "BLOCK", 64)
    monkeypatch.setattr(tying, "PIECE", 16)
    values = torch.arange(7 * 31, dtype=torch.float32).view(31, 7)
    path = tmp_path / "model.safetensors"
    for written, change in enumerate((0, 1, 0), 1):
        head = values.clone()
        head[-1, -1] += change
        save_file({"a": values.to(dtypes[0]), "b": head.to(dtypes[1])}, path)
        os.utime(path, ns=(written, written))  # a file system's clock may tick too slowly to tell
        entries = read_header(path)
        assert tying.equal(entries["a"], entries["b"]) is not bool(change)


NESTED: list[Change] = [
    lambda c: c["text_config"].update(tie_word_embeddings=True),
    lambda c: c["text_config"].pop("tie_word_embeddings", None),
    lambda c: [part.update(tie_word_embeddings=True) for part in (c, c["text_config"])],
]


@pytest.mark.parametrize("change", NESTED)
@pytest.mark.parametrize("name", ["Qwen2_5_VL", "Gemma3"])
def test_nested_configs_do_not_override_what_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, change: Change
) -> None:
    """A flag of the text model that says tied, where a head is stored that differs."""
    monkeypatch.setattr(loading, "AutoModelForCausalLM", transformers.AutoModelForImageTextToText)
    model = real.vision(name, tie_word_embeddings=True)
    start = untied(model)
    run = moved(start, 4)
    base, saved = save(model, tmp_path / "base"), save(run, tmp_path / "saved")
    step = edited(saved, tmp_path / "step_10", config=change)
    check(discover(tmp_path, base, {10: step}), mixed(start, run, 2.0), tmp_path / "out")
    values = json.loads((tmp_path / "out/config.json").read_text())
    assert values["tie_word_embeddings"] is values["text_config"]["tie_word_embeddings"] is False


def test_models_without_an_output_head(tmp_path: Path) -> None:
    """A reward model's config says untied, and it has no head to miss."""
    values: dict[str, Any] = {**real.SMALL, "num_labels": 1, "pad_token_id": 0}
    config = transformers.Qwen2Config(**values)
    model = moved(transformers.Qwen2ForSequenceClassification(config), 1)
    run = moved(model, 2)
    folders = {s: save(m, tmp_path / f"step_{s}") for s, m in ((0, model), (10, run))}
    trajectory = discover(tmp_path, None, folders)
    out = tmp_path / "out"
    export(trajectory, 10, out, "float32")
    found = transformers.Qwen2ForSequenceClassification.from_pretrained(out)
    assert torch.equal(logits(found), logits(run))


def test_an_encoder_decoder_keeps_both_sides_on_the_shared_embedding(tmp_path: Path) -> None:
    """A flag set to false would untie the encoder's embedding, which is not stored."""
    sides, numbers = ("encoder", "decoder"), {"layers": 1, "attention_heads": 2, "ffn_dim": 24}
    sizes: dict[str, Any] = {f"{s}_{key}": n for s in sides for key, n in numbers.items()}
    config = transformers.BartConfig(vocab_size=48, d_model=16, **sizes)
    model = moved(transformers.BartForConditionalGeneration(config), 1)
    run = moved(model, 2)
    base, saved = save(model, tmp_path / "base"), save(run, tmp_path / "saved")
    every = edited(saved, tmp_path / "step_10", lambda _: run.state_dict())  # as torch.save has it
    head = edited(
        every, tmp_path / "step_20", lambda t: t | {"lm_head.weight": t["lm_head.weight"] * 2}
    )
    for step, factor in ((every, 1), (head, 2)):
        out = tmp_path / f"out_{factor}"
        export(discover(tmp_path, base, {10: step}), 10, out, "float32")
        found: Any = transformers.BartForConditionalGeneration.from_pretrained(out)
        said, wanted = (
            m.eval()(input_ids=real.IDS, decoder_input_ids=real.IDS).logits for m in (found, run)
        )
        assert torch.allclose(said, wanted * factor, rtol=1e-5, atol=1e-6)


ADAPTERS: list[tuple[dict[str, Any], bool]] = [
    ({"target_modules": ["lm_head", "q_proj"]}, False),
    ({"target_modules": ["embed_tokens", "q_proj"]}, False),
    ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, False),
    ({"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}, False),
    ({"target_modules": ["q_proj"]}, True),
]


@pytest.mark.parametrize(("options", "tied"), ADAPTERS)
def test_adapters_on_a_tied_base_are_the_model_that_was_trained(
    tmp_path: Path, options: dict[str, Any], tied: bool
) -> None:
    """PEFT trains head and embedding apart; merged in place both would change."""
    model = make("Qwen2", tie_word_embeddings=True)
    base = save(model, tmp_path / "base")
    adapted: Any = get_peft_model(
        transformers.Qwen2ForCausalLM.from_pretrained(base), LoraConfig(r=3, **options)
    )
    torch.manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora" in name or "modules_to_save" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted.save_pretrained(tmp_path / "step_10")
    trajectory = discover(tmp_path, base, {10: tmp_path / "step_10"})
    out = tmp_path / "out"
    export(trajectory, 10, out, "float32")
    found = transformers.Qwen2ForCausalLM.from_pretrained(out)
    assert torch.allclose(logits(found), logits(adapted), atol=1e-6)
    assert flag(out) is tied
    written, recipe = predicted(trajectory, tmp_path / "further")
    assert torch.allclose(written, recipe, atol=1e-6)


@pytest.mark.parametrize("own", [True, False])
def test_deltas_of_a_head_that_the_base_has_not(tmp_path: Path, own: bool) -> None:
    """A delta of the head is one to the base's embedding; without one the head is the embedding."""
    model = make("Qwen2", tie_word_embeddings=True)
    start = untied(model) if own else model
    run = moved(start, 3)
    base = save(model, tmp_path / "base")
    before = dict(start.named_parameters())
    deltas = {n: (p - before[n]).detach() for n, p in run.named_parameters()}
    write_delta_snapshot(tmp_path / "step_10", base, 10, deltas, torch.float32)
    for given in (base, None):
        folders = {0: base, 10: tmp_path / "step_10"}
        trajectory = discover(tmp_path, given, folders)
        check(trajectory, mixed(start, run, 2.0), tmp_path / f"out_{given is None}")
