"""What belongs to a model beside its weights, and from where an output takes it.

A list of what belongs, not of what does not: checkpoint folders hold optimizer and trainer state,
weights of other frameworks, event files and model cards of which no list would be complete. The
tokenizer's files come from one place, for a template of one folder and the special tokens of
another are a tokenizer that nobody has trained with.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.artifacts import read_json
from pipeline.trajectory.checkpoint import Checkpoint

CONFIG = "config.json"
GENERATION = "generation_config.json"
TEMPLATES = "additional_chat_templates"
# Vocabularies as the tokenizers of transformers name them (`vocab_files_names`), and those of
# models that bring their own; one of them makes a folder a tokenizer's.
VOCABULARY = re.compile(
    r"tokenizer\.json|vocab(-src|-tgt)?\.(json|txt|bpe)|target_vocab\.json|bpe\.codes|byte_maps\.json"
    r"|entity_vocab\.json|prophetnet\.tokenizer|tekken\.json|.+\.(model|model\.v\d+|spm|tiktoken)"
)
BESIDE_VOCABULARY = re.compile(
    r"tokenizer_config\.json|special_tokens_map\.json|added_tokens\.json|merges\.txt"
    r"|chat_template\.(jinja|json)|dict\.txt|emoji\.json|normalizer\.json"
    r"|word_(shape|pronunciation)\.json"
)
PROCESSOR = re.compile(r"(video_)?preprocessor_config\.json|processor_config\.json")
TERMS = re.compile(r"(LICEN[CS]E|NOTICE|USE_POLICY|COPYING)([._-].*)?", re.IGNORECASE)
# Below a checkpoint, where trainers put models, adapters and tokenizers; the first that has one.
PLACES = (
    *(".", "actor/huggingface", "huggingface", "hf_model", "actor/hf_model"),
    *("actor/lora_adapter", "lora_adapter", "actor", "policy"),
)
IMPORT = re.compile(r"^\s*(?:from\s+\.(\w+)[\w.]*\s+import|import\s+\.(\w+))", re.MULTILINE)


@dataclass(frozen=True)
class Companions:
    """The files to copy, by their path in the output.

    Attributes:
        tokenizer: the folder that they took tokenizer and template from; None if there is none.
    """

    files: dict[str, Path]
    tokenizer: Path | None


def companions(last: Checkpoint, base: Checkpoint) -> Companions:
    """What an output made from checkpoints up to `last` gets.

    The configuration is that of the weights' names and shapes: the base's, where `last` had others
    or has none. Tokenizer, template, special tokens and generation settings come from `last`, or
    the adapter in it, if there is a tokenizer, else from the base; all from one folder.
    """
    config = base.folder if last.respelled or last.kept else last.folder
    places = [*_places(last, base), *_places(base, base)]
    tokenizer = next((place for place in places if _names(place, VOCABULARY)), None)
    settings = tokenizer or next((p for p in places if (p / GENERATION).exists()), None)
    files = {CONFIG: config / CONFIG} | _files(config, TERMS) | dict(_code(config, CONFIG))
    processor = _files(tokenizer, PROCESSOR) if tokenizer is not None else {}
    files |= processor or _files(config, PROCESSOR)
    if settings is not None:
        files |= _files(settings, re.compile(re.escape(GENERATION)))
    if tokenizer is not None:
        files |= _files(tokenizer, VOCABULARY) | _files(tokenizer, BESIDE_VOCABULARY)
        files |= dict(_code(tokenizer, "tokenizer_config.json"))
        files |= {
            f"{TEMPLATES}/{path.name}": path
            for path in sorted((tokenizer / TEMPLATES).glob("*.jinja"))
        }
    return Companions(files, tokenizer)


def is_tokenizers(name: str) -> bool:
    """True for the names of a tokenizer's own files."""
    return any(pattern.fullmatch(name) for pattern in (VOCABULARY, BESIDE_VOCABULARY))


def _places(checkpoint: Checkpoint, base: Checkpoint) -> Iterator[Path]:
    """The folders of a checkpoint that may have a tokenizer, the weights' own first."""
    if checkpoint.is_model or checkpoint.folder != base.folder or checkpoint is base:
        yield checkpoint.folder
    source = checkpoint.source
    yield from (source / place for place in PLACES if (source / place).is_dir())
    yield from sorted(path.parent for path in source.glob("*/adapter_config.json"))


def _names(folder: Path, pattern: re.Pattern[str]) -> list[str]:
    return sorted(
        path.name for path in folder.iterdir() if path.is_file() and pattern.fullmatch(path.name)
    )


def _files(folder: Path, pattern: re.Pattern[str]) -> dict[str, Path]:
    return {name: folder / name for name in _names(folder, pattern)}


def _code(folder: Path, named_in: str) -> Iterator[tuple[str, Path]]:
    """The model's own Python modules that `auto_map` names, and what these import beside them."""
    path = folder / named_in
    config = read_json(path) if path.exists() else {}
    todo = list(_modules(config.get("auto_map") if isinstance(config, dict) else None))
    seen = set()
    while todo:
        name = todo.pop()
        module = folder / f"{name}.py"
        if name in seen or not module.is_file():
            continue
        seen.add(name)
        yield module.name, module
        text = module.read_text(encoding="utf-8", errors="replace")
        todo += [first or second for first, second in IMPORT.findall(text)]


def _modules(auto_map: Any) -> Iterator[str]:
    """The modules of an auto_map's "module.Class" values; those of other repositories are left."""
    if isinstance(auto_map, str):
        if "--" not in auto_map and "." in auto_map:
            yield auto_map.rpartition(".")[0]
    elif isinstance(auto_map, dict | list):
        for value in auto_map.values() if isinstance(auto_map, dict) else auto_map:
            yield from _modules(value)
