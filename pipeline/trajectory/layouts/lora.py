"""PEFT LoRA adapters: base + scale · B A, of which only the rows in work ever exist.

Source: PEFT's adapter_config.json and adapter_model.safetensors.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.artifacts import read_json
from pipeline.errors import PipelineError
from pipeline.trajectory.checkpoint import Checkpoint, Found
from pipeline.trajectory.layouts import hf
from pipeline.trajectory.respell import base_names
from pipeline.trajectory.shards import Entry, LowRank, read_header
from pipeline.trajectory.tying import resolve_ties

FOLDERS = (".", "actor/lora_adapter", "lora_adapter", "actor")
FACTOR = re.compile(r"(.+)\.(lora_A|lora_B|lora_embedding_A|lora_embedding_B)(\.weight)?")
PREFIX = "base_model.model."
REFUSED = {"use_dora": "DoRA", "fan_in_fan_out": "fan_in_fan_out"}


def read(source: Path, base: Checkpoint | None) -> Found | None:
    """The adapter in `source`; the base is snapshot.base, or the folder that the adapter names."""
    folder = next(
        (source / f for f in FOLDERS if (source / f / "adapter_config.json").exists()), None
    )
    if folder is None:
        return None
    config = read_json(folder / "adapter_config.json")
    for key, what in REFUSED.items():
        if config.get(key):
            raise PipelineError(f"{folder}: the adapter uses {what}; merge it into the model first")
    if config.get("peft_type", "LORA") != "LORA":
        raise PipelineError(f"{folder}: {config['peft_type']} adapters: merge into the model first")
    base_folder, base_entries, ties = _base(folder, config, base)
    heads = {a: replace(base_entries[t], name=a) for a, t in ties.items() if t in base_entries}
    base_entries = base_entries | heads  # trained apart from the embedding, if at all
    return Found("peft lora", base_folder, _merge(folder, config, base_entries, base))


def _base(
    folder: Path, config: dict[str, Any], base: Checkpoint | None
) -> tuple[Path, dict[str, Entry], Mapping[str, str]]:
    if base is not None:
        return base.folder, base.entries, base.ties
    named = Path(str(config.get("base_model_name_or_path")))
    found = hf.read(named, None) if named.is_dir() else None
    if found is None or found.folder is None:
        raise PipelineError(
            f"{folder}: base model {named} is not a folder here; give snapshot.base"
        )
    return found.folder, found.entries, resolve_ties(found.folder, found.entries)


def _merge(
    folder: Path, config: dict[str, Any], base: dict[str, Entry], given: Checkpoint | None
) -> dict[str, Entry]:
    if (folder / "adapter_model.safetensors").exists():
        adapter = read_header(folder / "adapter_model.safetensors")
    else:
        adapter = hf.read_bin(folder / "adapter_model.bin")
    entries = dict(base)
    factors = {key: FACTOR.fullmatch(key.removeprefix(PREFIX)) for key in adapter}
    names = {key: _name(key, matched) for key, matched in factors.items()}
    if given is not None:
        known = base_names(given, sorted(set(names.values())), folder)
        names = {key: known[name] for key, name in names.items()}
    for key, matched in factors.items():  # whole tensors first: a factor may change one of them
        if matched is None:
            name = names[key]
            _require(folder, name, base)
            value = adapter[key]
            entries[name] = Entry(name, value.dtype, value.shape, value.extents)
    for key, matched in factors.items():
        if matched is not None and matched[2].endswith("_B"):
            name = names[key]
            _require(folder, name, base)
            a, b = adapter.get(key.replace(matched[2], matched[2][:-1] + "A")), adapter[key]
            if a is None:
                raise PipelineError(f"{folder}: tensor {key} has no lora_A; copy the adapter again")
            scale = _scale(config, matched[1], a.shape[0])
            # an embedding is looked up by rows, so PEFT keeps its factors the other way round
            embedding = matched[2] == "lora_embedding_B"
            shift = LowRank(a, b, scale, True) if embedding else LowRank(b, a, scale)
            entries[name] = _shifted(folder, entries[name], shift)
    return entries


def _name(key: str, factor: re.Match[str] | None) -> str:
    """The name of the tensor that one of the adapter's changes or replaces, as PEFT has it."""
    if factor is not None:
        return factor[1] + ".weight"
    name = key.removeprefix(PREFIX).replace(".modules_to_save", "")
    return name.replace(".base_layer", "")


def _shifted(folder: Path, base: Entry, shift: LowRank) -> Entry:
    if shift.shape != base.shape:
        raise PipelineError(
            f"{folder}: {base.name} has shape {list(base.shape)} in the base, {list(shift.shape)} "
            "in the adapter; give the base that it was trained on, or merge it into the model"
        )
    return Entry(base.name, base.dtype, base.shape, base.extents, shift)


def _require(folder: Path, name: str, base: dict[str, Entry]) -> None:
    if name not in base:
        raise PipelineError(f"{folder}: the adapter changes {name}, which the base lacks")


def _scale(config: dict[str, Any], module: str, rank: int) -> float:
    """lora_alpha / r, or / sqrt(r) for rank-stabilised LoRA, with the patterns of the config."""
    alpha = float(config["lora_alpha"])
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = float(value)
            break
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
