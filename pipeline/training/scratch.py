"""A model made from nothing, with one token for each character.

For tasks small enough to learn in a minute on a CPU. The folder that comes out is an ordinary
Hugging Face checkpoint: AutoModel, AutoTokenizer and vLLM load it without custom code.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from pipeline.errors import PipelineError
from pipeline.faults import naming
from pipeline.training.spec import Architecture

PAD = "<|pad|>"
EOS = "<|endoftext|>"  # Qwen2's own: under another name its class would add this one as well
SPACE = "\u0120"  # how byte-level BPE writes a space
_FAMILIES: dict[str, tuple[Callable[..., PretrainedConfig], type[PreTrainedModel]]] = {
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "llama": (LlamaConfig, LlamaForCausalLM),
}


def make_tokenizer(characters: str) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are the distinct `characters`, in order, after PAD and EOS.

    It is a byte-level BPE without merges, because AutoTokenizer ignores what a Qwen2 folder says
    about its tokenizer and rebuilds a byte-level BPE from the vocabulary: so both are the same.

    Raises:
        PipelineError: a character is not printable ASCII, that is one byte.
    """
    for character in characters:
        if not (character.isascii() and character.isprintable()):
            raise PipelineError(
                f"architecture.characters has {character!r}; only printable ASCII can be a token"
            )
    tokens = [PAD, EOS, *(c.replace(" ", SPACE) for c in dict.fromkeys(characters))]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def make_model(architecture: Architecture, folder: Path, seed: int) -> None:
    """Write a freshly initialised fp32 model and its tokenizer to `folder`."""
    tokenizer = make_tokenizer(architecture.characters)
    config_class, model_class = _FAMILIES[architecture.family]
    config = config_class(
        vocab_size=len(tokenizer),
        hidden_size=architecture.hidden,
        intermediate_size=architecture.intermediate,
        num_hidden_layers=architecture.layers,
        num_attention_heads=architecture.heads,
        num_key_value_heads=architecture.kv_heads,
        max_position_embeddings=architecture.max_positions,
        initializer_range=architecture.initializer_range,
        tie_word_embeddings=architecture.tie_embeddings,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config)
    with naming(folder):
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
