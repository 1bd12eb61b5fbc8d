"""Checkpoint layouts of the trainers in use, each recognised by what lies in the folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.faults import is_there, why_missing
from pipeline.trajectory.checkpoint import (
    Checkpoint,
    Found,
    check_experts,
    weight_files,
)
from pipeline.trajectory.foreign import describe
from pipeline.trajectory.layouts import delta, fsdp, hf, lora, zero, zero_files
from pipeline.trajectory.layouts.content import check_content, is_factor
from pipeline.trajectory.layouts.quantised import quantisation
from pipeline.trajectory.model_config import check_config
from pipeline.trajectory.spellings import Matching, plain_names
from pipeline.trajectory.tying import resolve_ties

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
        PipelineError: no known layout, or several that would give different weights; a missing or
            truncated shard, no weights or quantised ones, no config.
    """
    if not source.is_dir():
        raise PipelineError(f"step {step}: {source}: {why_missing(source, 'folder')}")
    found = _read(step, source, base)
    folder = found.folder
    if folder is None or not is_there(folder / "config.json"):
        if base is None:
            raise PipelineError(f"step {step}: {source}: no config.json; give snapshot.base")
        folder = base.folder
    check_config(folder)
    # an adapter's config has the scale of its change: other weights without other tensors
    adapter = sorted(source.rglob("adapter_config.json")) if found.layout == "peft lora" else []
    check_content(source, found, folder, base)
    own = PLAIN if found.layout in ON_BASE else matching
    entries, rules = plain_names(source, found.entries, own)
    ties = resolve_ties(folder, entries)
    check_experts(folder, entries)
    layout = found.layout
    if folder == found.folder and quantisation(folder) is not None:
        layout += " under a quantization_config"  # plain, but engines would take it for codes
    return Checkpoint(
        step=step,
        source=source,
        folder=folder,
        layout=layout,
        entries={name: entry for name, entry in entries.items() if name not in ties},
        files=weight_files(found.entries, adapter),
        ties=ties,
        respelled=entries.keys() != found.entries.keys(),
        rules=rules,
    )


def _read(step: int, source: Path, base: Checkpoint | None) -> Found:
    """The tensors by the layout that says most about the step.

    A delta or an adapter is the trained model even where a trainer's state lies beside it, of which
    it is a part; a whole model likewise. Between these there is no order: they would differ.
    """
    models = hf.find(source)
    adapters = lora.find(source, models)
    model = _model(step, source, models, adapters)
    adapter = _adapter(step, source, models, adapters)
    if model is not None and adapter is not None:
        raise PipelineError(_both(step, source, f"a model ({model})", f"an adapter ({adapter})"))
    if delta.holds(source):
        if model is not None or adapter is not None:
            beside = f"a model ({model})" if model is not None else f"an adapter ({adapter})"
            raise PipelineError(_both(step, source, f"a delta ({delta.RECORD})", beside))
        return delta.read(source, base or open_checkpoint(0, delta.named_base(source)))
    if adapter is not None:
        return lora.read(adapter, base or open_checkpoint(0, lora.named_base(adapter)))
    if model is not None:
        return hf.read(model)
    shards = fsdp.find(source)
    if len(shards) > 1 or (shards and zero_files.holds(source)):
        other = f"those in {shards[1]}" if len(shards) > 1 else "DeepSpeed's *_optim_states.pt"
        raise PipelineError(_both(step, source, f"the FSDP shards in {shards[0]}", other))
    if shards:
        return fsdp.read(shards[0])
    if zero_files.holds(source):
        return zero.read(source, base)
    raise PipelineError(
        f"step {step}: {source}: no weights of a known layout in it: {describe(source)}"
    )


def _model(
    step: int, source: Path, models: Sequence[Path], adapters: Sequence[Path]
) -> Path | None:
    """The folder of the whole model that the checkpoint holds, if any."""
    if len(models) > 1:
        first, *others = (hf.read(folder) for folder in models)
        for folder, other in zip(models[1:], others, strict=True):
            if not hf.alike(first.entries, other.entries):
                raise PipelineError(_both(step, source, models[0], folder))
    # verl writes base and factors unmerged under the name of a model, beside the adapter
    if models and adapters and any(is_factor(n) for n in hf.read(models[0]).entries):
        return None
    return models[0] if models else None


def _adapter(
    step: int, source: Path, models: Sequence[Path], adapters: Sequence[Path]
) -> Path | None:
    """The folder of the adapter that the checkpoint holds, if any."""
    if len(adapters) > 1:
        raise PipelineError(_both(step, source, *adapters[:2]))
    if adapters and models and lora.is_rest(adapters[0], models):
        return None
    return adapters[0] if adapters else None


def _both(step: int, source: Path, first: object, second: object) -> str:
    return (
        f"step {step}: {source}: holds {first} and {second}, which may differ; give the folder of "
        f"the one that is meant, snapshot.checkpoints={{{step}: FOLDER}}, or move the other away"
    )
