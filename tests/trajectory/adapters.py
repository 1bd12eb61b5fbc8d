"""Tiny bases and adapters of them, made by transformers and PEFT themselves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline.trajectory.entries import Entry
from pipeline.trajectory.layouts import open_checkpoint
from pipeline.trajectory.shards import Files
from tests.trajectory.pico import Tensors


def qwen(folder: Path, tied: bool = False, layers: int = 2) -> Path:
    """A Qwen2 base: attention with biases, 16 wide."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=layers,
        num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=tied,
    )  # fmt: skip
    return save(Qwen2ForCausalLM, config, folder)


def gpt2(folder: Path) -> Path:
    """A GPT-2 base: Conv1D layers, some of them square, and a tied head."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=32)
    return save(GPT2LMHeadModel, config, folder)


def save(kind: Any, config: Any, folder: Path) -> Path:
    torch.manual_seed(0)
    kind(config).save_pretrained(folder)
    return folder


def trained(base: Path, **options: Any) -> Any:
    """A PEFT model on `base` whose trainable weights have moved from where they began."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    lora = LoraConfig(**{"r": 4, "lora_alpha": 12, "target_modules": ["q_proj"], **options})
    model: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora)
    move(model)
    return model


def move(model: Any, seed: int = 2) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)


def read(folder: Path, base: Path | None) -> Tensors:
    """All tensors of a checkpoint as fp32, the tied ones left out."""
    given = None if base is None else open_checkpoint(0, base)
    return load(open_checkpoint(1, folder, given).entries)


def load(entries: Mapping[str, Entry]) -> Tensors:
    out: Tensors = {}
    with Files() as files:
        for name, entry in entries.items():
            values = torch.empty(entry.numel)
            files.load(entry, 0, entry.numel, values)
            out[name] = values.view(entry.shape)
    return out


def merged(model: Any) -> Tensors:
    """The weights that PEFT merges, a tied head left out; `model` is used up."""
    from transformers import PreTrainedModel

    whole = model.merge_and_unload()
    assert isinstance(whole, PreTrainedModel)
    tied = whole.get_output_embeddings().weight is whole.get_input_embeddings().weight
    return {
        name: value.detach().float()
        for name, value in whole.state_dict().items()
        if not (tied and name == "lm_head.weight")
    }


def assert_close(got: Tensors, wanted: Tensors) -> None:
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.allclose(got[name], value, atol=1e-6), name
