"""Whether models speak of the same tokens: only then can their logits be added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.artifacts import read_json
from pipeline.errors import PipelineError
from pipeline.trajectory.tokenizer import TokenizerError, loading

VOCABULARIES = ("tokenizer.json", "vocab.*", "*.model", "*.tiktoken")  # files of a tokenizer


def has_tokenizer(folder: Path) -> bool:
    """Whether a model folder has a vocabulary of its own."""
    return any(next(folder.glob(pattern), None) is not None for pattern in VOCABULARIES)


def check_vocabularies(models: Sequence[Path]) -> None:
    """Refuse models whose logits cannot be added: place i must mean the same token in all.

    A folder without a tokenizer (many trainers write none) is taken to have that of the others;
    the size is compared still.

    Args:
        models: model folders.

    Raises:
        PipelineError: names two of the models, and how they differ.
    """
    first = models[0]
    size = _size(first)
    for other in models[1:]:
        if _size(other) != size:
            raise PipelineError(
                f"{other}: a vocabulary of {_size(other)} tokens, and {first} has {size}; logits "
                "can be mixed only between models of one vocabulary"
            )
    read = {folder: _tokens(folder) for folder in models if has_tokenizer(folder)}
    for folder, tokens in read.items():
        known, wanted = next(iter(read.items()))
        if tokens != wanted:
            raise PipelineError(
                f"{folder}: its tokenizer is not that of {known} ({_difference(tokens, wanted)}); "
                "logits can be mixed only between models of one vocabulary"
            )


def _size(folder: Path) -> Any:
    """Rows of the logits, as config.json has it."""
    config = read_json(folder / "config.json")
    inner = config.get("text_config") or {}
    return config.get("vocab_size", inner.get("vocab_size"))


def _tokens(folder: Path) -> dict[str, int]:
    """Every token with its id, added ones too.

    As the file has them, where there is one: a class of transformers, chosen by the architecture,
    may add tokens of its own, and the same file would look like two tokenizers.
    """
    file = folder / "tokenizer.json"
    try:
        with loading():
            if file.is_file():
                from tokenizers import Tokenizer

                return dict(Tokenizer.from_str(file.read_text(encoding="utf-8")).get_vocab())
            from transformers import AutoTokenizer

            return dict(AutoTokenizer.from_pretrained(folder, local_files_only=True).get_vocab())
    except TokenizerError as error:
        place = file if file.is_file() else folder
        raise PipelineError(f"{place}: is no tokenizer ({error}); copy it anew") from None


def _difference(tokens: Mapping[str, int], wanted: Mapping[str, int]) -> str:
    """One token that the two number differently: of the lowest number, the same one every time."""
    absent = 1 << 62

    def order(token: str) -> tuple[int, int, str]:
        here, there = tokens.get(token, absent), wanted.get(token, absent)
        return min(here, there), here, token

    differ = (token for token in {*tokens, *wanted} if tokens.get(token) != wanted.get(token))
    token = min(differ, key=order)
    here, there = (
        f"is {found[token]}" if token in found else "is absent" for found in (tokens, wanted)
    )
    return f"the token {token!r} {here} here and {there} there"
