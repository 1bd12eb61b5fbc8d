"""DeepSpeed ZeRO 1, 2 and 3 checkpoints: the fp32 master weights in the optimizer's files.

They lie flattened and cut at arbitrary elements over the ranks' files; each parameter is a few
byte ranges of them. Read without DeepSpeed and without merging anything; DeepSpeed's own
conversion (`zero_to_fp32`) is what the tests compare with. It cannot read what stage 1 saves where
gradients are summed in fp32 (DeepSpeed's BF16_Optimizer); this can.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.trajectory.checkpoint import Checkpoint, Found
from pipeline.trajectory.entries import Entry, Extent
from pipeline.trajectory.layouts.zero_files import (
    SLICES,
    model_states,
    optimizer_states,
    tag_folder,
)
from pipeline.trajectory.pickles import Stored

STAGES = {"disabled": 0, "optimizer_states": 1, "gradients": 2, "weights": 3}  # DeepSpeed's enum


def read(source: Path, base: Checkpoint | None) -> Found:
    """The ZeRO checkpoint in `source`, or in the tag folder in it (`latest` says which).

    Raises:
        PipelineError: files missing, of several launches, or cut otherwise than by ZeRO alone.
    """
    return Found("deepspeed zero", source, _read_folder(tag_folder(source), base))


def stage_of(value: Any) -> int:
    """The ZeRO stage in an optimizer file: a number, or DeepSpeed's enum as an inert record.

    Some releases of Python 3.11 (Debian 12's 3.11.2 among them) pickle a member of an enum by its
    name, as an attribute of its class; the others by its number.

    Raises:
        PipelineError: a name that DeepSpeed's enum does not have.
    """
    if not isinstance(value, type):
        return int(getattr(value, "args", (value,))[0])
    name = str(getattr(value, "name", value)).rpartition(".")[2]
    if name not in STAGES:
        raise PipelineError(f"ZeRO stage {name!r} is not known; known are {', '.join(STAGES)}")
    return STAGES[name]


def _read_folder(folder: Path, base: Checkpoint | None) -> dict[str, Entry]:
    states = optimizer_states(folder)
    # not said where gradients are summed in fp32
    stage = stage_of(states[0].get("zero_stage", 1))
    models = model_states(folder, stage, len(states))
    model = models[0]
    entries = {
        name: stored.entry(name)
        for name, stored in model["module"].items()
        if name in (model.get("buffer_names") or ()) and isinstance(stored, Stored)
    }
    if stage <= 2:
        entries |= {n: s.entry(n) for n, s in (model.get("frozen_param_fragments") or {}).items()}
        layout = _stage_2 if "zero_stage" in states[0] else _sliced
        entries |= layout(folder, states, model["param_shapes"])
    else:
        entries |= _stage_3_frozen(models)
        entries |= _stage_3(folder, states, model["param_shapes"])
    for name, same in dict(model.get("shared_params") or {}).items():
        if same in entries:
            entries[name] = replace(entries[same], name=name)
    if stage < 2:  # frozen parameters are only in the model's state, which DeepSpeed's script omits
        for name, stored in model["module"].items():
            known = base is None or name in base.entries
            if known and name not in entries and isinstance(stored, Stored):
                entries[name] = stored.entry(name)
    return entries


def _stage_2(folder: Path, states: Sequence[Any], shapes: Sequence[Any]) -> dict[str, Entry]:
    """Each group's parameters lie one after the other in the ranks' partitions, joined."""
    entries = {}
    paddings = states[0].get("param_alignment_paddings")
    for group, named in enumerate(shapes):
        partitions = [state["single_partition_of_fp32_groups"][group] for state in states]
        position = 0
        for index, (name, shape) in enumerate(named.items()):
            count = math.prod(shape)
            extents = _cut(partitions, position, count)
            entries[name] = _entry(folder, name, partitions[0], tuple(shape), extents)
            position += count + (paddings[group][index] if paddings else 0)
        unit = 2 * len(states)  # DeepSpeed pads a group to a multiple of this
        held = sum(math.prod(partition.shape) for partition in partitions)
        if math.ceil(position / unit) != math.ceil(held / unit):
            raise PipelineError(_unlike(folder, position, held))
    return entries


def _sliced(folder: Path, states: Sequence[Any], shapes: Sequence[Any]) -> dict[str, Entry]:
    """Each rank says where in its own partition its part of a parameter lies."""
    entries = {}
    named = {name: tuple(shape) for group in shapes for name, shape in group.items()}
    held: dict[str, list[Extent]] = {}
    like = states[0]["single_partition_of_fp32_groups"][0]
    for state in states:
        partitions = state["single_partition_of_fp32_groups"]
        for partition, slices in zip(partitions, state[SLICES], strict=True):
            for name, place in slices.items():
                at = place.attributes
                held.setdefault(name, []).append(partition.extent(at["start"], at["numel"]))
    if named.keys() != held.keys():
        values = sum(extent.nbytes for extents in held.values() for extent in extents)
        wanted = sum(math.prod(shape) for shape in named.values())
        raise PipelineError(_unlike(folder, wanted, values // like.dtype.itemsize))
    for name, shape in named.items():
        entries[name] = _entry(folder, name, like, shape, held[name])
    return entries


def _unlike(folder: Path, named: int, held: int) -> str:
    return (
        f"{folder}: the model's state names {named} values, the optimizer's files hold {held}: "
        "files of several launches; copy those of one again"
    )


def _stage_3(folder: Path, states: Sequence[Any], shapes: Sequence[Any]) -> dict[str, Entry]:
    """Each parameter is cut into equal parts, one in each rank's flat groups, padded at the end."""
    entries = {}
    groups = [state["fp32_flat_groups"] for state in states]
    position = 0
    for named in shapes:
        for name, shape in named.items():
            count = math.prod(shape)
            part = math.ceil(count / len(groups))
            extents: list[Extent] = []
            for rank, flat in enumerate(groups):
                wanted = min(part, count - rank * part)  # the rest is padding
                if wanted > 0:
                    extents += _cut(flat, position, wanted)
            entries[name] = _entry(folder, name, groups[0][0], tuple(shape), extents)
            position += part
    held = sum(math.prod(flat.shape) for flat in groups[0])
    if position != held:
        raise PipelineError(_unlike(folder, position, held))
    return entries


def _stage_3_frozen(models: Sequence[Any]) -> dict[str, Entry]:
    entries = {}
    for name, shape in (models[0].get("frozen_param_shapes") or {}).items():
        parts = [model["frozen_param_fragments"][name] for model in models]
        extents = _cut(parts, 0, math.prod(shape))
        entries[name] = Entry(name, parts[0].dtype, tuple(shape), tuple(extents))
    return entries


def _cut(parts: Sequence[Stored], begin: int, count: int) -> list[Extent]:
    """Elements [begin, begin + count) of flat tensors laid end to end."""
    extents = []
    for part in parts:
        size = math.prod(part.shape)
        low, high = max(begin, 0), min(begin + count, size)
        if low < high:
            extents.append(part.extent(low, high - low))
        begin -= size
    return extents


def _entry(
    folder: Path, name: str, like: Stored, shape: tuple[int, ...], extents: Sequence[Extent]
) -> Entry:
    entry = Entry(name, like.dtype, shape, tuple(extents))
    held = sum(extent.nbytes for extent in extents)
    if held != entry.nbytes:
        raise PipelineError(
            f"{folder}: tensor {name}: the ranks hold {held} of its {entry.nbytes} bytes; the "
            "checkpoint is incomplete"
        )
    return entry
