"""A model's JSON files as users have them: odd types and broken files are one line each."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import PipelineError
from pipeline.trajectory.layouts import open_checkpoint
from pipeline.trajectory.model_config import TYPES
from tests.trajectory.pico import random_tensors, write_model

WRONG: dict[str, list[Any]] = {
    "num_experts": ["4", [4], {}, True, 4.5],
    "tie_word_embeddings": ["false", "true", 0, [], {}],
    "vocab_size": ["64", [64], 64.0],
    "architectures": ["LlamaForCausalLM", [1], {}, 3],
    "torch_dtype": [16, [], True],
    "rope_scaling": ["linear", [1], 2.0],
    "model_type": [3, ["llama"], {}],
    "eos_token_id": ["2", [None], {}],
    "quantization_config": ["fp8", []],
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "step_10", random_tensors(0))


def refusal(model: Path, config: dict[str, Any]) -> str:
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(PipelineError) as caught:
        open_checkpoint(10, model)
    assert str(model / "config.json") in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("field", WRONG)
def test_fields_of_other_types_are_named(model: Path, field: str) -> None:
    """Catches a TypeError, or worse: "false" that counts as true."""
    config = json.loads((model / "config.json").read_text())
    for value in WRONG[field]:
        assert field in refusal(model, {**config, field: value})
        assert field in refusal(model, {**config, "text_config": {field: value}})


def test_a_nested_config_that_is_none(model: Path) -> None:
    """Catches an AttributeError for a list where a nested config belongs."""
    config = json.loads((model / "config.json").read_text())
    values: list[object] = [[], "x", 3, True]
    for value in values:
        assert "text_config" in refusal(model, {**config, "text_config": value})


def test_null_is_as_good_as_absent(model: Path) -> None:
    """Catches a config refused for the nulls that transformers writes."""
    config = json.loads((model / "config.json").read_text())
    nothing = {name: None for name in TYPES if name not in config}
    (model / "config.json").write_text(json.dumps(config | nothing))
    assert open_checkpoint(10, model).step == 10


def test_what_models_have_is_taken(model: Path) -> None:
    """Catches a type list narrower than the models there are."""
    config = json.loads((model / "config.json").read_text())
    config |= {
        "dtype": {"": "bfloat16", "vision": "float32"},
        "num_attention_heads": [8, 16],
        "eos_token_id": [1, 2],
        "rope_scaling": {"type": "yarn", "factor": 4.0},
        "vision_config": {"hidden_size": 64, "num_local_experts": 0},
        "something_new": [[1], {"a": None}],
    }
    (model / "config.json").write_text(json.dumps(config))
    assert open_checkpoint(10, model).step == 10


BROKEN = {
    "torn": (b'{"a": 1', "not valid JSON"),
    "comma": (b'{"a": 1,}', "line 1 column"),
    "empty": (b"", "is empty"),
    "list": (b"[1]", "a list, not a JSON object"),
    "null": (b"null", "null, not a JSON object"),
    "utf-16": ('{"a": 1}'.encode("utf-16"), "UTF-16"),
    "utf-16 without mark": ('{"a": 1}'.encode("utf-16-le"), "UTF-16"),
    "latin-1": ('{"a": "ü"}'.encode("latin-1"), "is not UTF-8"),
    "page": (b"<!DOCTYPE html><html></html>", "not valid JSON"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid x\n", "git lfs pull"),
    "deep": (b"[" * 100_000, "not valid JSON"),
    "long number": (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_broken_files_of_the_user_are_not_to_be_deleted(
    tmp_path: Path, case: str, name: str
) -> None:
    """Catches "delete it and rerun" for the only copy of somebody's file, and a traceback."""
    content, words = BROKEN[case]
    model = write_model(tmp_path / "step_10", random_tensors(0), shards=2)
    (model / name).write_bytes(content)
    with pytest.raises(PipelineError) as caught:
        open_checkpoint(10, model)
    line = str(caught.value)
    assert str(model / name) in line
    assert "delete" not in line
    assert name != "config.json" or words in line


@pytest.mark.parametrize("weight_map", [[], "x", None, {}, {"lm_head.weight": 3}])
def test_an_index_of_other_types(tmp_path: Path, weight_map: object) -> None:
    """Catches a TypeError for an index that somebody edited."""
    model = write_model(tmp_path / "step_10", random_tensors(0), shards=2)
    index = model / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(PipelineError, match="weight_map"):
        open_checkpoint(10, model)


def test_a_byte_order_mark_is_read(model: Path) -> None:
    """Catches a file saved on Windows called broken."""
    config = (model / "config.json").read_bytes()
    (model / "config.json").write_bytes(codecs.BOM_UTF8 + config)
    assert open_checkpoint(10, model).step == 10
