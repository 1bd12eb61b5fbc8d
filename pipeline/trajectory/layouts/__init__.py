"""Checkpoint layouts of the trainers in use, each recognised by what lies in the folder."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.trajectory.checkpoint import (
    Checkpoint,
    check_experts,
    weight_files,
)
from pipeline.trajectory.layouts import delta, fsdp, hf, lora, zero
from pipeline.trajectory.spellings import Matching, plain_names
from pipeline.trajectory.tying import resolve_ties

# In this order: a folder that holds a whole HF model beside a trainer's state is read as the model.
READERS = (hf.read, delta.read, fsdp.read, zero.read, lora.read)


PLAIN = Matching()
ON_BASE = ("delta", "peft lora")  # their tensors have the names of the base's


def open_checkpoint(
    step: int, source: Path, base: Checkpoint | None = None, matching: Matching = PLAIN
) -> Checkpoint:
    """Read the headers of one checkpoint, of whatever layout.

    Args:
        base: the model that training started from; adapters and deltas need it, and layouts
            without a config take its.
        matching: how names are to be changed; adapters and deltas have the base's.

    Raises:
        PipelineError: no known layout, a missing or truncated shard, no config.
    """
    if not source.is_dir():
        raise PipelineError(f"step {step}: {source}: no such folder")
    for read in READERS:
        found = read(source, base)
        if found is not None:
            break
    else:
        raise PipelineError(
            f"step {step}: {source}: no weights of a known layout in it (HF safetensors or .bin, "
            "verl FSDP, DeepSpeed ZeRO, PEFT LoRA, deltas)"
        )
    folder = found.folder
    if folder is None or not (folder / "config.json").exists():
        if base is None:
            raise PipelineError(f"step {step}: {source}: no config.json; give snapshot.base")
        folder = base.folder
    own = PLAIN if found.layout in ON_BASE else matching
    entries, rules = plain_names(source, found.entries, own)
    ties = resolve_ties(folder, entries)
    check_experts(folder, entries)
    return Checkpoint(
        step=step,
        source=source,
        folder=folder,
        layout=found.layout,
        entries={name: entry for name, entry in entries.items() if name not in ties},
        files=weight_files(found.entries),
        ties=ties,
        respelled=entries.keys() != found.entries.keys(),
        rules=rules,
    )
