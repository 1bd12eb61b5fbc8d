"""Checkpoints whose config.json makes another function of the weights: would catch a path whose
points are compared and added although they do not compute alike, each engine in its own way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from pipeline.errors import PipelineError
from pipeline.trajectory.architecture import check_alike
from pipeline.trajectory.sources import discover
from tests.trajectory.real import make, moved, save

YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
OTHER: dict[str, dict[str, Any]] = {
    "rms_norm_eps": {"rms_norm_eps": 1e-2},
    "num_attention_heads": {"num_attention_heads": 1, "head_dim": 16},
    "hidden_act": {"hidden_act": "gelu"},
    "rope.rope_theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
    "rope.kind": {"rope_parameters": None, "rope_theta": 1e4, "rope_scaling": YARN},
}
LLAMA3: dict[str, Any] = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}
LLAMA3 |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
MROPE = {"type": "mrope", "mrope_section": [2, 1, 1]}
# As transformers 4 wrote them.
OLD: dict[str, dict[str, Any]] = {
    "qwen2": {"rope_theta": 10000, "sliding_window": 4096, "use_sliding_window": False},
    "llama": {"rope_theta": 500000.0, "rope_scaling": LLAMA3},
    "qwen3_moe": {"rope_theta": 1e6, "rope_scaling": None, "norm_topk_prob": True},
    "qwen2_5_vl": {"rope_theta": 1e6, "rope_scaling": MROPE},
    "gpt2": {"activation_function": "gelu_new", "n_head": 2, "layer_norm_epsilon": 1e-5},
}


def edit(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("field", OTHER)
def test_another_function_of_the_weights_is_refused(tmp_path: Path, field: str) -> None:
    model = make("Qwen2")
    base, step = save(model, tmp_path / "base"), save(moved(model, 2), tmp_path / "step")
    assert discover(tmp_path, base, {10: step}).steps == [0, 10]
    edit(step, **OTHER[field])
    with pytest.raises(PipelineError, match=field) as caught:
        discover(tmp_path, base, {10: step})
    assert str(step / "config.json") in str(caught.value)
    assert str(base / "config.json") in str(caught.value)


def test_what_computes_nothing_may_differ(tmp_path: Path) -> None:
    model = make("Qwen2")
    base, step = save(model, tmp_path / "base"), save(moved(model, 2), tmp_path / "step")
    edit(step, eos_token_id=2, attention_dropout=0.1, use_cache=False, max_position_embeddings=9)
    assert discover(tmp_path, base, {10: step}).steps == [0, 10]


@pytest.mark.parametrize("kind", OLD)
def test_the_spellings_of_both_versions_of_transformers_are_one(tmp_path: Path, kind: str) -> None:
    """A base of the hub beside checkpoints that a newer library wrote: no refusal of one model."""
    shape = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    (old / "config.json").write_text(json.dumps({"model_type": kind, **shape, **OLD[kind]}))
    transformers.AutoConfig.from_pretrained(old).save_pretrained(new)
    check_alike(old, new)
    check_alike(new, old)
