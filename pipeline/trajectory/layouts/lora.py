"""PEFT LoRA adapters: base + scale · B A, of which only the rows in work ever exist.

The result is the model that was trained, as PEFT runs it. Where the base's head is its embedding
(tied) and the adapter changes one of the two, they are two tensors from then on, although
`merge_and_unload` would change both.

Source: PEFT's adapter_config.json and adapter_model.safetensors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.artifacts import read_object
from pipeline.errors import PipelineError
from pipeline.trajectory.checkpoint import Checkpoint, Found
from pipeline.trajectory.entries import Entry, LowRank
from pipeline.trajectory.layouts import hf
from pipeline.trajectory.layouts.lora_config import CONFIG, MERGE, AdapterConfig, read_config
from pipeline.trajectory.layouts.lora_targets import check_complete
from pipeline.trajectory.respell import base_names
from pipeline.trajectory.shards import read_header
from pipeline.trajectory.spellings import unwrapped

# Beside each place for a model, where verl's merger puts one, too.
FOLDERS = (".", "actor", *(f"{folder}/lora_adapter" for folder in ("actor", *hf.MODEL_FOLDERS)))
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")  # PEFT's order
PREFIX = "base_model.model."
FACTOR = re.compile(
    r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<side>[AB])"
    r"(?:\.(?!weight$|bias$)(?P<adapter>[^.]+))?(?:\.weight)?"
)
WITHOUT_EFFECT = re.compile(r".+\.lora_velora_embed(\..+)?|.+\.original_module\..+")
# Of transformers: the models that have Conv1D layers, and what these are called.
CONV1D_MODELS = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp")
CONV1D_MODULES = ("c_attn", "q_attn", "c_proj", "c_fc")
UNGATHERED = (
    "has no elements or one dimension: saved under DeepSpeed ZeRO-3 or FSDP without gathering the "
    "shards; save the adapter under GatheredParameters or summon_full_params"
)

REFERENCES = ("ref", "reference")


@dataclass
class Factors:
    """A and B of one module, [r, in, ...] and [out, r, ...]; an embedding's the same."""

    embedding: bool
    sides: dict[str, Entry] = field(default_factory=dict)


def holds(folder: Path) -> bool:
    """True if `folder` holds an adapter, or a part of one."""
    return any((folder / name).exists() for name in (CONFIG, *WEIGHTS))


def is_rest(folder: Path, models: Sequence[Path]) -> bool:
    """True if what `folder` holds beside a model is no adapter any more: its config without its
    weights, or in the model's folder its weights without their config."""
    weights = any((folder / name).exists() for name in WEIGHTS)
    return not weights or (folder in models and not (folder / CONFIG).exists())


def find(source: Path, models: Sequence[Path]) -> list[Path]:
    """The adapters in `source` or where trainers put them below it.

    Args:
        models: what `hf.find` found there.

    PEFT saves the adapter "default" in the folder itself and others below it under their names:
    those count only where there is none in the usual places, and no model. A reference (TRL's
    "ref") stands still and is no part of the model; what another one is, nobody here knows.

    Raises:
        PipelineError: an adapter in the folder itself and others below it.
    """
    usual = dict.fromkeys(source / folder for folder in FOLDERS)
    found = [folder for folder in usual if holds(folder)]
    named = sorted(p for p in source.iterdir() if p.is_dir() and p not in usual and holds(p))
    if not found and not models:
        return named
    others = [path.name for path in named if path.name not in REFERENCES]
    if found == [source] and not models and others:
        raise PipelineError(
            f"{source}: an adapter, and others of other names in it ({', '.join(others)}), which "
            "PEFT may have added to it: move them away if they were not active, else merge all "
            "into the model first (model.merge_and_unload(), then save_pretrained)"
        )
    return found


def named_base(folder: Path) -> Path:
    """The base that the adapter in `folder` names, where snapshot.base is not given.

    Raises:
        PipelineError: it is no folder here.
    """
    name = read_config(folder).named_base
    if Path(name).is_dir():
        return Path(name)
    quantised = re.search(r"[48]-?bit|int[48]|fp8|gptq|awq", name, re.IGNORECASE)
    raise PipelineError(
        f"{folder}: base model {name} is not a folder here; give "
        + ("it dequantised to bf16 as " if quantised else "")
        + "snapshot.base"
    )


def read(folder: Path, base: Checkpoint) -> Found:
    """The adapter in `folder`, added to its base.

    Raises:
        PipelineError: an option that is not understood, factors missing, without elements or of
            another shape than the base's tensors.
    """
    config = read_config(folder)
    factors, whole = _sort(folder, _stored(folder))
    kind = read_object(base.folder / "config.json").get("model_type")
    tied, conv1d = base.ties, kind in CONV1D_MODELS
    known = base.entries | {
        h: replace(base.entries[e], name=h) for h, e in tied.items() if e in base.entries
    }
    tensors = dict(known)
    wanted = {*(f"{module}.weight" for module in factors), *whole}
    names = base_names(base, sorted(wanted), folder)
    for name in names.values():
        if name not in known:
            raise PipelineError(f"{folder}: the adapter changes {name}, which the base lacks")
    for name, entry in whole.items():
        tensors[names[name]] = replace(entry, name=names[name])
    for module, pair in factors.items():
        weight = tensors[names[f"{module}.weight"]]
        tensors[weight.name] = _shifted(config, module, pair, weight, base, conv1d)
    adapted = {names[f"{module}.weight"].removesuffix(".weight") for module in factors}
    check_complete(config, base.folder, known, adapted, {names[name] for name in whole})
    for head, embedding in tied.items():
        if head in tensors and tensors[head] == replace(tensors[embedding], name=head):
            del tensors[head]  # still one tensor
    return Found("peft lora", base.folder, tensors)


def _stored(folder: Path) -> dict[str, Entry]:
    path = next((folder / name for name in WEIGHTS if (folder / name).exists()), None)
    if path is None:
        raise PipelineError(f"{folder}: {CONFIG} without {WEIGHTS[0]}; copy it here as well")
    entries = read_header(path) if path.suffix == ".safetensors" else hf.read_bin(path)
    if not entries:
        raise PipelineError(
            f"{path}: no tensors in it: the adapter was saved without its weights (an empty state "
            "dict, as from ranks that hold none); save it again with the gathered state dict"
        )
    for name, entry in entries.items():
        if not entry.is_float:
            raise PipelineError(
                f"{path}: tensor {name} is {entry.dtype}; convert the adapter to bf16 first"
            )
    return entries


def _sort(folder: Path, stored: Mapping[str, Entry]) -> tuple[dict[str, Factors], dict[str, Entry]]:
    """Factors by the path of their module; tensors that replace the base's, by name."""
    factors: dict[str, Factors] = {}
    whole: dict[str, Entry] = {}
    adapters = set()
    for key, entry in stored.items():
        name = unwrapped(key).removeprefix("module.").removeprefix(PREFIX)
        match = FACTOR.fullmatch(name)
        if match is not None:
            adapters.add(match["adapter"])
            pair = factors.setdefault(match["module"], Factors(match["embedding"] is not None))
            pair.sides[match["side"]] = entry
            if len(entry.shape) < 2 or not entry.numel:
                raise PipelineError(f"{folder}: tensor {key} {list(entry.shape)} {UNGATHERED}")
        elif WITHOUT_EFFECT.fullmatch(name) is None:
            if ".lora_" in name or ".token_adapter." in name:
                raise PipelineError(f"{folder}: tensor {key} is no factor of plain LoRA; {MERGE}")
            name = re.sub(r"\.modules_to_save(\.default)?(?=\.)|\.base_layer(?=\.)", "", name)
            whole[name] = replace(entry, name=name)
    if len(adapters) > 1:
        names = ", ".join(sorted(str(name) for name in adapters))
        raise PipelineError(f"{folder}: several adapters in one file ({names}); save one alone")
    for module, pair in factors.items():
        for side in "AB":
            if side not in pair.sides:
                raise PipelineError(
                    f"{folder}: {module} has no lora_{side}; copy the adapter again"
                )
    return factors, whole


def _shifted(
    config: AdapterConfig,
    module: str,
    pair: Factors,
    weight: Entry,
    base: Checkpoint,
    conv1d: bool,
) -> Entry:
    """The module's weight with scale · B A added.

    Args:
        module: its path in the model that was trained.
        weight: what the base has of it.
        conv1d: the base's architecture is one that has Conv1D layers.
    """
    folder, name = config.path.parent, weight.name
    a, b = pair.sides["A"], pair.sides["B"]
    if weight.shift is not None:
        raise PipelineError(
            f"{base.source}: {name} is stored as a difference to another model ({base.layout}); "
            "write this base as a model first (snapshot.export) and give that"
        )
    scale = config.scale(module, a.shape[0])
    if pair.embedding or _crossed(config, module, weight, (b.shape[0], a.shape[1]), conv1d):
        shift = LowRank(a, b, scale, True)  # kept as [in, out]: Aᵀ Bᵀ
    else:
        shift = LowRank(b, a, scale)
    if shift.shape != weight.shape or b.shape[1] != a.shape[0]:
        raise PipelineError(
            f"{folder}: {name} has shape {list(weight.shape)} in the base, {list(shift.shape)} "
            "in the adapter; give the base that it was trained on, or merge it into the model"
        )
    return replace(weight, shift=shift)


def _crossed(
    config: AdapterConfig, module: str, weight: Entry, trained: tuple[int, int], known: bool
) -> bool:
    """Whether the module keeps its weight as [in, out], as Conv1D does.

    PEFT asks the module's class. `fan_in_fan_out` in the file tells that of the last module only.

    Args:
        trained: [out, in] of the factors.
        known: the architecture is one of `CONV1D_MODELS`.

    Raises:
        PipelineError: a square weight in a model of which that is not known.
    """
    if not (known or config.conv1d):
        return False
    if trained[0] != trained[1]:
        return weight.shape == trained[::-1]
    if known:
        return module.rsplit(".", 1)[-1] in CONV1D_MODULES
    raise PipelineError(
        f"{config.path}: fan_in_fan_out=true, and {module} is square: whether it is kept as "
        f"[in, out] cannot be told; {MERGE}"
    )
