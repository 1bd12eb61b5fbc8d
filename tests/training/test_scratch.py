"""Faults caught: a tokenizer that merges, drops or adds characters once it is reloaded, a model
that only our code can load, and weights that depend on what ran before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.errors import PipelineError
from pipeline.training.check import check
from pipeline.training.scratch import make_model, make_tokenizer
from pipeline.training.spec import Architecture
from tests.training.pico import ARCHITECTURE, SIZES, assert_same, sft_spec


@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_auto_classes_load_what_was_made(tmp_path: Path, family: str) -> None:
    make_model(replace(ARCHITECTURE, family=family), tmp_path, seed=0)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    text = "12+34=46 (0)"
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == len(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True) == text
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.config.model_type == family
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model(torch.tensor([ids])).logits.shape == (1, len(text), len(tokenizer))


def test_a_character_that_is_no_single_byte_is_refused() -> None:
    with pytest.raises(PipelineError, match="'×'"):
        make_tokenizer("0123×=")


def test_the_default_has_about_a_million_parameters(tmp_path: Path) -> None:
    make_model(Architecture(), tmp_path, seed=0)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert 0.9e6 < sum(p.numel() for p in model.parameters()) < 1.2e6


def test_the_seed_alone_decides_the_weights(tmp_path: Path) -> None:
    make_model(ARCHITECTURE, tmp_path / "a", seed=1)
    torch.randn(7)
    make_model(ARCHITECTURE, tmp_path / "b", seed=1)
    assert_same(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "gpt"}, r"architecture\.family: 'gpt'"),
        ({"heads": 3}, r"hidden: 32 is no"),
        ({"kv_heads": 3}, r"heads: 2 is no"),
        ({"layers": 0}, r"layers: must be at least 1"),
        ({"depth": 2}, "unknown key 'depth'"),
    ],
)
def test_sizes_that_cannot_work_are_named(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(PipelineError, match=message):
        check(sft_spec(tmp_path, architecture={**SIZES, **changes}))
