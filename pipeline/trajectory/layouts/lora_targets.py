"""Which modules of the base an adapter must hold factors for: one that lacks half of them is not
the model that was trained, though what it holds adds up.

Source of the matching rules: PEFT's `check_target_module_exists`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.artifacts import read_object
from pipeline.errors import PipelineError
from pipeline.trajectory.entries import Entry
from pipeline.trajectory.layouts.lora_config import AdapterConfig

VOCABULARY = ("lm_head", "embed_tokens", "wte", "word_embeddings", "embed_in", "embed_out")
REMEDY = "the adapter is incomplete: copy it again, or save it with all its shards gathered"


def check_complete(
    config: AdapterConfig,
    base_folder: Path,
    base: Mapping[str, Entry],
    adapted: Collection[str],
    stored: Collection[str],
) -> None:
    """Every module that the config targets has its factors, and what it trained whole is stored.

    Asked for are modules of a kind that the adapter has elsewhere (the same path but for layer
    numbers); and modules whose last name it has nowhere, in a stack of layers of which it has
    others, and the head and the embedding. What a file of the base holds beyond the model that was
    trained, such as a vision tower or experts that the model keeps fused, is no loss.

    Args:
        base_folder: with the base's config.json.
        base: its tensors, tied heads under their own names as well.
        adapted: paths of the modules that have factors.
        stored: names of the tensors that the adapter holds whole.

    Raises:
        PipelineError: names what is missing.
    """
    unused = _unused(base_folder)
    modules = [
        name.removesuffix(".weight")
        for name, entry in base.items()
        if name.endswith(".weight") and len(entry.shape) > 1 and not unused(name)
    ]
    targeted = [module for module in modules if _targets(config.raw, module)]
    kinds = {_kind(module) for module in adapted}
    leaves = {module.rsplit(".", 1)[-1] for module in adapted}
    stacks = {_stack(kind) for kind in kinds}
    for module in targeted:
        kind, leaf = _kind(module), module.rsplit(".", 1)[-1]
        near = leaf in VOCABULARY or (_stack(kind) in stacks and ".experts." not in module)
        if module not in adapted and (kind in kinds or (near and leaf not in leaves)):
            raise PipelineError(
                f"{config.path.parent}: no lora_A and lora_B of {module}, which target_modules "
                f"names; {REMEDY}"
            )
    for name in _trained_whole(config, base, adapted):
        if name not in stored and not unused(name):
            raise PipelineError(
                f"{config.path.parent}: no tensor {name}, which {config.path.name} says was "
                f"trained (modules_to_save, bias); {REMEDY}"
            )


def _stack(kind: str) -> str:
    """What a kind's layers are called: "model.layers" of "model.layers.*.mlp.up_proj"."""
    return kind.partition(".*.")[0] if ".*." in kind else ""


def _kind(module: str) -> str:
    """The path with its numbers blanked: alike for one module in every layer."""
    return re.sub(r"\.\d+(?=\.|$)", ".*", module)


def _unused(base_folder: Path) -> Callable[[str], bool]:
    """A test for names that files hold and the model does not load: layers beyond those that the
    config counts (multi-token prediction), keys and values of layers that share another's."""
    config = read_object(base_folder / "config.json")
    config = config if config.get("text_config") is None else config["text_config"]
    layers, shared = config.get("num_hidden_layers"), config.get("num_kv_shared_layers")
    count = 1 << 30 if layers is None else layers
    first_shared = count - (shared if isinstance(shared, int) else 0)

    def unused(name: str) -> bool:
        if re.search(r"(?:^|\.)mtp\.", name):
            return True
        match = re.search(r"(?:^|\.)layers\.(\d+)\.", name)
        if match is None:
            return False
        key_value = re.search(r"\.[kv]_proj\.", name) is not None
        return int(match[1]) >= (first_shared if key_value else count)

    return unused


def _trained_whole(
    config: AdapterConfig, base: Mapping[str, Entry], adapted: Collection[str]
) -> Iterable[str]:
    """The base's tensors that the adapter must hold whole."""
    kept = config.raw.get("modules_to_save") or ()
    for name in base:
        module, _, kind = name.rpartition(".")
        biased = kind == "bias" and config.bias != "none" and module in adapted
        if biased or _named(list(kept), module):
            yield name


def _targets(raw: Mapping[str, Any], module: str) -> bool:
    """Whether PEFT puts factors on a module of this path."""
    if _named(raw.get("exclude_modules"), module):
        return False
    if any(re.match(rf"(^|.*\.){m}($|\..*)", module) for m in raw.get("modules_to_save") or ()):
        return False
    targets = raw.get("target_modules")
    if not _named(targets, module):
        return False
    indices = raw.get("layers_to_transform")
    if not isinstance(targets, list) or module in targets or indices is None or indices == []:
        return True
    patterns = raw.get("layers_pattern") or []
    patterns = [patterns] if isinstance(patterns, str) else patterns
    before = [rf"(?:^|.*?\.){pattern}" for pattern in patterns] or [r".*?\.[^.]*"]
    matches = (re.match(rf"{start}\.(\d+)\.", module) for start in before)
    match = next((match for match in matches if match is not None), None)
    wanted = indices if isinstance(indices, list) else [indices]
    return match is not None and int(match[1]) in wanted


def _named(patterns: Any, module: str) -> bool:
    """As a regular expression, or as a list of paths' ends."""
    if isinstance(patterns, str):
        return re.fullmatch(patterns, module) is not None
    return any(module == p or module.endswith(f".{p}") for p in patterns or ())
