"""Checkpoint layouts of the trainers in use, each recognised by what lies in the folder."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.faults import is_there, why_missing
from pipeline.trajectory.checkpoint import (
    Checkpoint,
    check_experts,
    tied_names,
    weight_files,
)
from pipeline.trajectory.foreign import describe
from pipeline.trajectory.layouts import delta, fsdp, hf, lora, zero
from pipeline.trajectory.model_config import check_config

# In this order: a folder that holds a whole HF model beside a trainer's state is read as the model.
READERS = (hf.read, delta.read, fsdp.read, zero.read, lora.read)


def open_checkpoint(step: int, source: Path, base: Checkpoint | None = None) -> Checkpoint:
    """Read the headers of one checkpoint, of whatever layout.

    Args:
        base: the model that training started from; adapters and deltas need it, and layouts
            without a config take its.

    Raises:
        PipelineError: no known layout, a missing or truncated shard, no config.
    """
    if not source.is_dir():
        raise PipelineError(f"step {step}: {source}: {why_missing(source, 'folder')}")
    for read in READERS:
        found = read(source, base)
        if found is not None:
            break
    else:
        raise PipelineError(
            f"step {step}: {source}: no weights of a known layout in it: {describe(source)}"
        )
    folder = found.folder
    if folder is None or not is_there(folder / "config.json"):
        if base is None:
            raise PipelineError(f"step {step}: {source}: no config.json; give snapshot.base")
        folder = base.folder
    check_config(folder)
    tied = tied_names(folder, found.entries)
    check_experts(folder, found.entries)
    return Checkpoint(
        step=step,
        source=source,
        folder=folder,
        layout=found.layout,
        entries={name: entry for name, entry in found.entries.items() if name not in tied},
        files=weight_files(found.entries),
        tied=tied,
    )
