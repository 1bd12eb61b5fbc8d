"""What tensors must be to count as a model's weights: there, filled, and a model's own."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.trajectory.checkpoint import Checkpoint, Found
from pipeline.trajectory.entries import Entry
from pipeline.trajectory.layouts.quantised import check_plain

MATRIX = re.compile(r"(^|[._])(embed_tokens|wte|lm_head|proj)\.weight$")
FACTORS = (".lora_A.", ".lora_B.", ".lora_embedding_A", ".base_layer.")


def check_content(source: Path, found: Found, config_folder: Path, base: Checkpoint | None) -> None:
    """Refuse tensors that are not weights, or hold none.

    Args:
        config_folder: with the model's config.json.
        base: the model that training started from, if there is one.

    Raises:
        PipelineError: nothing there, shards not gathered, a model with its adapter not merged, a
            quantised model; names the file, the tensor and the way out.
    """
    entries = found.entries
    if not any(entry.dtype.is_floating_point for entry in entries.values()):
        raise PipelineError(f"{source}: no weights in it ({found.layout}); save the model again")
    _check_filled(source, entries, base)
    factor = next((name for name in entries if is_factor(name)), None)
    if factor is not None:
        raise PipelineError(
            f"{source}: {factor}: a model with its LoRA adapter not merged, which is read from the "
            "adapter: put its folder (adapter_config.json and adapter_model.safetensors, verl: "
            "lora_adapter) here, or merge it into the model (model.merge_and_unload())"
        )
    check_plain(source, config_folder, entries)


def is_factor(name: str) -> bool:
    """True for tensors of a PEFT model that has its adapter beside its weights."""
    return any(part in name for part in FACTORS)


def _check_filled(source: Path, entries: dict[str, Entry], base: Checkpoint | None) -> None:
    """A tensor of shape [0] is what ZeRO-3 leaves of a weight on a rank that did not gather it, a
    matrix of one dimension a rank's part of it."""
    known = {} if base is None else base.entries
    empty = [
        entry
        for name, entry in entries.items()
        if not entry.numel
        and entry.is_float
        and (known[name].numel if name in known else entry.shape == (0,))
    ]
    flat = [e for name, e in entries.items() if len(e.shape) == 1 and MATRIX.search(name)]
    if not empty and not flat:
        return
    states = sorted(source.glob("*/*_optim_states.pt"))
    way = (
        f"its whole weights are in {states[0].parent}: name that folder in snapshot.checkpoints"
        if states
        else "run zero_to_fp32.py on its DeepSpeed folder"
    )
    first = (empty or flat)[0]
    what = f"no elements, as in {len(empty)} tensors" if empty else "a matrix of one dimension"
    raise PipelineError(
        f"{min(first.paths, default=source)}: {first.name}: {what}: saved under DeepSpeed ZeRO-3 "
        "or FSDP without gathering; set stage3_gather_16bit_weights_on_model_save=true, or "
        f"{way}"
    )
