"""Which names of a model are one tensor: output heads that are tied to the embedding.

What is stored decides. A head that is stored and equal to the embedding is the embedding once more;
one that differs is a tensor of its own, whatever `tie_word_embeddings` says; one that is not stored
is the embedding's. Only then the configuration is asked whether it may be absent, as transformers
reads it: nested configurations and the architecture's default included.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from pipeline.artifacts import read_object
from pipeline.errors import PipelineError
from pipeline.trajectory.entries import Entry
from pipeline.trajectory.shards import Files
from pipeline.trajectory.stream import PIECE, pieces

# The last module of a head's and of an embedding's name in the models of transformers (their
# `_tied_weights_keys`) and of those that bring their own code.
HEAD = re.compile(
    r"(?:\D*\.)?(?:lm_head|embed_out|output_projection|proj_out|output_layer|output|lm_loss|head"
    r"|predictions\.decoder|generator_lm_head|vocab_projector|lm_head\.decoder)\.weight"
)
EMBEDDING = re.compile(
    r"(?:\D*\.)?(?:embed_tokens|wte|embed_in|word_embeddings?|shared|tok_embeddings|tokens_embed"
    r"|embeddings?)\.weight"
)
# In encoder-decoder models both sides' embeddings are the shared one.
SIDE = re.compile(r"(.*?)(?:encoder|decoder)\.embed_tokens\.weight")
HEADLESS = re.compile(r".*(For(Sequence|Token)Classification|ForQuestionAnswering|RewardModel)")
# A head's name where none is stored, by the end of the embedding's name.
HEAD_NAMES = (
    ("model.language_model.embed_tokens.weight", "lm_head.weight"),
    ("model.decoder.embed_tokens.weight", "lm_head.weight"),
    ("model.embed_tokens.weight", "lm_head.weight"),
    ("model.tok_embeddings.weight", "output.weight"),
    ("gpt_neox.embed_in.weight", "embed_out.weight"),
    ("embed_in.weight", "embed_out.weight"),
    ("model.shared.weight", "lm_head.weight"),
    ("transformer.wte.weight", "lm_head.weight"),
    ("backbone.embeddings.weight", "lm_head.weight"),
)
BLOCK = 1 << 24  # bytes that are compared at once
SETTLED = 2_000_000_000  # nanoseconds after which a file's time stamp tells of every change


def is_head(name: str) -> bool:
    """True for the weight of an output head, by its name."""
    return HEAD.fullmatch(name) is not None


def is_vocabulary(name: str) -> bool:
    """True for tensors with a row for each token: embeddings, heads and heads' biases."""
    weight = name.removesuffix(".bias") + ".weight" if name.endswith(".bias") else name
    return is_head(weight) or EMBEDDING.fullmatch(name) is not None


def resolve_ties(folder: Path, entries: Mapping[str, Entry]) -> dict[str, str]:
    """The names that are another tensor's, each with the name of that tensor.

    Args:
        folder: with config.json.
        entries: what is stored; of a pair at least one.

    Raises:
        PipelineError: a head is absent and the configuration says that it is not the embedding.
    """
    ties = {}
    plain = set(_flags(read_object(folder / "config.json"))) == {False}  # says: two tensors
    for alias, target in () if plain else stored_pairs(entries):
        if equal(entries[alias], entries[target]) and says_tied(folder):
            ties[alias] = target
    return ties | _absent(folder, entries)


def _absent(folder: Path, entries: Mapping[str, Entry]) -> dict[str, str]:
    """The tie of a pair of which one is not stored."""
    embedding = main_embedding(entries)
    heads = [name for name in entries if is_head(name)]
    if embedding is None:
        # some writers keep the head of a tied pair and leave the embedding out
        main = min(heads, key=len, default=None)
        tied = main is not None and says_tied(folder)
        return {_embedding_name(entries): main} if main is not None and tied else {}
    if heads:
        return {}
    head = head_name(embedding)
    if says_tied(folder):
        return {head: embedding}
    if _has_head(folder):
        raise PipelineError(
            f"{folder}: {head} is absent and config.json has tie_word_embeddings=false; "
            "the checkpoint is incomplete"
        )
    return {}


def tied_heads(
    names: Iterable[str], entries: Mapping[str, Entry], ties: Mapping[str, str]
) -> dict[str, Entry]:
    """Those of `names` that are heads which a model has as its embedding, with its values."""
    target = next((target for alias, target in ties.items() if is_head(alias)), None)
    if target not in entries or target is None:
        return {}
    heads = (name for name in names if is_head(name) and name not in entries)
    return {name: replace(entries[target], name=name) for name in heads}


def stored_pairs(entries: Mapping[str, Entry]) -> Iterator[tuple[str, str]]:
    """(alias, target) of stored tensors that a model may hold as one: of the same shape."""
    embeddings = [name for name in entries if EMBEDDING.fullmatch(name)]
    for name in embeddings:
        side = SIDE.fullmatch(name)
        shared = f"{side[1]}shared.weight" if side else None
        if shared in entries and shared is not None:
            yield name, shared
    for name in entries:
        if is_head(name):
            alike = [e for e in embeddings if entries[e].shape == entries[name].shape]
            if alike:
                yield name, min(alike, key=lambda e: (-_common(name, e), len(e)))


def has_own_head(entries: Mapping[str, Entry]) -> bool:
    """True if both a head and its embedding are among the tensors."""
    return any(is_head(alias) for alias, _ in stored_pairs(entries))


def main_embedding(entries: Mapping[str, Entry]) -> str | None:
    """The token embedding: the largest of the tensors named like one, or None."""
    named = [name for name in entries if EMBEDDING.fullmatch(name)]
    return min(named, key=lambda n: (-entries[n].numel, len(n)), default=None)


def head_name(embedding: str) -> str:
    """The name that a head beside this embedding has where it is stored."""
    for ending, head in HEAD_NAMES:
        if embedding == ending or embedding.endswith("." + ending):
            return embedding.removesuffix(ending) + head
    return "lm_head.weight"


def _embedding_name(entries: Iterable[str]) -> str:
    """The name that an embedding would have beside these tensors, which lack it."""
    for ending in ("model.language_model.", "transformer.", "gpt_neox.", "model."):
        if any(name.startswith(ending) for name in entries):
            last = {"transformer.": "wte", "gpt_neox.": "embed_in"}.get(ending, "embed_tokens")
            return f"{ending}{last}.weight"
    return "embed_tokens.weight"


def _common(one: str, other: str) -> int:
    """Length of the common beginning of two names."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), 0)


def equal(first: Entry, second: Entry) -> bool:
    """True if two tensors hold the same values; reads them only as far as they agree."""
    if first.shape != second.shape:
        return False
    if replace(first, name=second.name) == second:
        return True
    states = [(path, path.stat()) for path in sorted(first.paths | second.paths)]
    stamps = tuple((path, state.st_size, state.st_mtime_ns) for path, state in states)
    if time.time_ns() - max(state.st_mtime_ns for _, state in states) < SETTLED:
        return _equal.__wrapped__(first, second, stamps)  # it may change again within the same tick
    return _equal(first, second, stamps)


@lru_cache(maxsize=4096)  # every stage opens the same checkpoints again
def _equal(first: Entry, second: Entry, stamps: tuple[tuple[Path, int, int], ...]) -> bool:
    plain = first.plain and second.plain and first.dtype == second.dtype
    size = BLOCK // first.dtype.itemsize if plain else PIECE
    dtype = first.dtype if plain else torch.float32
    buffers = [torch.empty(min(size, first.numel), dtype=dtype) for _ in range(2)]
    with Files() as files:
        for piece in pieces([first], size):
            parts = [buffer[: len(piece)] for buffer in buffers]
            for entry, part in zip((first, second), parts, strict=True):
                if plain:
                    files.read(entry, piece.start, piece.stop, part)
                else:
                    files.load(entry, piece.start, piece.stop, part)
            one, other = (part.view(torch.uint8) if plain else part for part in parts)
            if not torch.equal(one, other):
                return False
    return True


def _flags(config: Mapping[str, Any]) -> Iterator[bool]:
    """Every tie_word_embeddings of a configuration and of those nested in it."""
    value = config.get("tie_word_embeddings")
    if isinstance(value, bool):
        yield value
    for nested in config.values():
        if isinstance(nested, dict):
            yield from _flags(nested)


def _has_head(folder: Path) -> bool:
    """False for architectures without an output head over the vocabulary."""
    named = read_object(folder / "config.json").get("architectures")
    name = named[0] if named else ""
    bare = name.endswith("Model") and not name.endswith(("LMHeadModel", "DoubleHeadsModel"))
    return not (bare or HEADLESS.fullmatch(name))


def may_drop_head(folder: Path) -> bool:
    """Whether an engine that goes by some flag of the configuration takes no notice of a head."""
    return True in _flags(read_object(folder / "config.json")) or says_tied(folder)


def says_tied(folder: Path) -> bool:
    """Whether transformers takes an absent head for the embedding, by the configuration.

    An architecture that transformers does not know (its own code, say) follows its flags, and
    without any is taken to be tied.
    """
    return _says_tied(folder, json.dumps(read_object(folder / "config.json")))


@lru_cache(maxsize=4096)
def _says_tied(folder: Path, content: str) -> bool:
    config = json.loads(content)
    own, flags = config.get("tie_word_embeddings"), set(_flags(config))
    if flags == {own} and not config.get("is_encoder_decoder"):  # T5 reads the flag otherwise
        return bool(own)
    resolved = resolved_tie(folder)
    if resolved is not None:
        return resolved
    return own if isinstance(own, bool) else flags != {False}


def resolved_tie(folder: Path) -> bool | None:
    """`tie_word_embeddings` of the configuration as transformers reads it.

    None where it does not know the architecture.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    try:
        config: Any = AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except (ValueError, KeyError, OSError, TypeError, AttributeError, StrictDataclassError):
        return None
    return bool(getattr(config, "tie_word_embeddings", False))
