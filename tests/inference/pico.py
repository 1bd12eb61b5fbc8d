"""Pico models for the inference tests: random weights, a character tokenizer, saved as HF folders.

The weights are drawn wide, so that next-token distributions are peaked and differ between models:
with the usual 0.02 every model is uniform and a test could not tell two apart.
"""

from __future__ import annotations

import shutil
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

one_gpu = pytest.mark.skipif(torch.cuda.device_count() == 1, reason="two engines, one GPU")
CHARACTERS = "0123456789+-=abcdefghijklmnop"
VOCABULARY = {"<pad>": 0, "<eos>": 1, **{c: i + 2 for i, c in enumerate(CHARACTERS)}}
SIZE = 32  # of the vocabulary in the models; the last ids are never written
ARCHITECTURES = {
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}


def save_tokenizer(folder: Path) -> None:
    """One token a character."""
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>"
    ).save_pretrained(folder)


def save_model(
    folder: Path,
    seed: int,
    architecture: str = "qwen2",
    tied: bool = True,
    scale: float = 0.12,
    vocabulary: int = SIZE,
) -> Path:
    """A checkpoint folder (fp32) of about 70 k random parameters."""
    config_class, model_class = ARCHITECTURES[architecture]
    config = config_class(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        initializer_range=scale,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    torch.manual_seed(seed)
    model = model_class(config)
    with torch.no_grad():  # biases and norms start at constants: move them too
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def prompts_of(count: int, seed: int = 0, longest: int = 12) -> list[list[int]]:
    """Random prompts of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (count,), generator=generator).tolist()
    return [torch.randint(2, SIZE - 1, (n,), generator=generator).tolist() for n in lengths]


def save_variant(model: Path, folder: Path, pattern: str, seed: int) -> Path:
    """A copy of a checkpoint in which only tensors whose name matches the glob were moved."""
    shutil.copytree(model, folder)
    tensors = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(seed)
    for name in [name for name in tensors if fnmatchcase(name, pattern)]:
        tensors[name] = torch.randn(tensors[name].shape, generator=generator) * 0.12
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
