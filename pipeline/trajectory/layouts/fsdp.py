"""verl's FSDP shards: `model_world_size_W_rank_R.pt`, a state dict of DTensors for each rank.

A tensor sharded on its first dimension is the ranks' local rows, one after the other: byte ranges
again, so nothing is merged. How many ranks there were is in `fsdp_config.json`; a folder that a
second launch wrote into, with other ranks, is read by that or not at all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.artifacts import read_json
from pipeline.errors import PipelineError
from pipeline.trajectory.checkpoint import Found
from pipeline.trajectory.entries import Entry
from pipeline.trajectory.pickles import Opaque, Stored, load_records
from pipeline.trajectory.spellings import unwrapped

SHARD = re.compile(r"model_world_size_(\d+)_rank_(\d+)\.pt")
CONFIG = "fsdp_config.json"


def find(source: Path) -> list[Path]:
    """`source` or its folder `actor`, where shards are."""
    return [folder for folder in (source, source / "actor") if _worlds(folder)]


def read(folder: Path) -> Found:
    """The shards in `folder`, put together.

    Raises:
        PipelineError: a rank's file is missing, or the files are of two launches.
    """
    states = [load_records(path) for path in _rank_files(folder)]
    config = next((c for c in (folder / "huggingface", folder) if c.is_dir()), None)
    return Found("verl fsdp", config, _merge(folder, states))


def _worlds(folder: Path) -> dict[int, dict[int, Path]]:
    """The files by world size and rank."""
    found: dict[int, dict[int, Path]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = SHARD.fullmatch(path.name)
        if match is not None:
            found.setdefault(int(match[1]), {})[int(match[2])] = path
    return found


def _rank_files(folder: Path) -> list[Path]:
    """The files of ranks 0, 1, ... of the launch that wrote last."""
    worlds = _worlds(folder)
    world = _world_size(folder, worlds)
    ranks = worlds[world]
    for rank in range(world):
        if rank not in ranks:
            raise PipelineError(
                f"{folder}/model_world_size_{world}_rank_{rank}.pt: no such file; copy the missing "
                "shard here"
            )
    if len(ranks) > world:
        raise PipelineError(
            f"{ranks[max(ranks)]}: more ranks than the {world} of its world size; remove what is "
            "of another launch"
        )
    return [ranks[rank] for rank in range(world)]


def _world_size(folder: Path, worlds: Mapping[int, Mapping[int, Path]]) -> int:
    """The number of ranks, which verl writes beside the shards.

    Raises:
        PipelineError: it says another number than the files, or it is not there and the files are
            of several launches.
    """
    held = " and ".join(
        f"{len(ranks)} of world size {world} ({next(iter(ranks.values())).name}, ...)"
        for world, ranks in sorted(worlds.items())
    )
    path = folder / CONFIG
    if not path.exists():
        if len(worlds) > 1:
            raise PipelineError(
                f"{folder}: shards of several launches: {held}; no {CONFIG} says which was last: "
                "move the others away"
            )
        return next(iter(worlds))
    config = read_json(path)
    world = config.get("world_size") if isinstance(config, dict) else None
    if not isinstance(world, int):
        raise PipelineError(f"{path}: no world_size in it; copy it again")
    if world not in worlds:
        raise PipelineError(
            f"{path}: world_size is {world}, but the shards here are {held}; copy those of the "
            "launch that is meant"
        )
    return world


def _merge(folder: Path, states: Sequence[Any]) -> dict[str, Entry]:
    first = states[0]
    if not all(isinstance(state, dict) for state in states):
        raise PipelineError(f"{folder}: a rank's file is no state dict; copy the shards again")
    extra = [key for state in states for key in state if key not in first]
    if extra:
        raise PipelineError(f"{folder}: tensor {extra[0]} is missing in rank 0's file")
    copied = _is_copied(states)
    entries = {}
    for key, value in first.items():
        name = unwrapped(key)
        if isinstance(value, Stored) or (isinstance(value, Opaque) and "_extra_state" not in key):
            try:
                parts = [state[key] for state in states]
            except KeyError:
                raise PipelineError(f"{folder}: tensor {key} is missing in a rank's file") from None
            entries[name] = _join(folder, name, parts, copied)
    return entries


def _is_dtensor(value: Any) -> bool:
    return isinstance(value, Opaque) and value.name.endswith(".DTensor")


def _is_copied(states: Sequence[dict[str, Any]]) -> bool:
    """Whether what is no DTensor is whole on every rank; else each rank holds its own rows.

    So it is beside DTensors, and where all matrices begin alike on all ranks.
    """
    if any(_is_dtensor(value) for value in states[0].values()):
        return True
    matrices = [k for k, v in states[0].items() if isinstance(v, Stored) and len(v.shape) > 1]
    return all(
        len({_beginning(state[key]) for state in states if isinstance(state.get(key), Stored)}) == 1
        for key in matrices
    )


def _beginning(part: Stored) -> bytes:
    extent = part.extent()
    with open(extent.path, "rb") as file:
        file.seek(extent.offset)
        return file.read(min(extent.nbytes, 256))


def _join(folder: Path, name: str, parts: Sequence[Any], copied: bool) -> Entry:
    """The whole tensor out of every rank's part of it.

    Args:
        copied: what is no DTensor is whole on every rank.
    """
    if all(isinstance(part, Stored) for part in parts):
        first = parts[0]
        if not first.shape or copied:
            if any((p.shape, p.dtype) != (first.shape, first.dtype) for p in parts):
                raise PipelineError(f"{folder}: tensor {name} differs in shape between the ranks")
            return first.entry(name)
        shape = (sum(p.shape[0] for p in parts), *first.shape[1:])
        return Entry(name, first.dtype, shape, tuple(p.extent() for p in parts))
    if not all(_is_dtensor(part) for part in parts):
        kinds = ", ".join(sorted({getattr(part, "name", "a plain tensor") for part in parts}))
        raise PipelineError(
            f"{folder}: tensor {name} is stored as {kinds}; only DTensors are read here: merge the "
            "checkpoint with verl's model merger"
        )
    shape = tuple(parts[0].args[2])
    if any(tuple(part.args[2]) != shape for part in parts):
        raise PipelineError(f"{folder}: tensor {name} differs in shape between the ranks")
    local = [part.attributes["_local_tensor"] for part in parts]
    if any(tensor.dtype != local[0].dtype for tensor in local):
        raise PipelineError(f"{folder}: tensor {name} differs in dtype between the ranks")
    if not _sharded_on_rows(folder, name, parts[0].attributes["_spec"].attributes["placements"]):
        return Entry(name, local[0].dtype, shape, (local[0].extent(),))
    extents, rows = [], 0
    for tensor in local:  # with replicas, the first group of ranks fills the tensor
        if rows < shape[0]:
            extents.append(tensor.extent())
            rows += tensor.shape[0]
    if rows != shape[0]:
        raise PipelineError(f"{folder}: tensor {name}: the ranks hold {rows} of {shape[0]} rows")
    return Entry(name, local[0].dtype, shape, tuple(extents))


def _sharded_on_rows(folder: Path, name: str, placements: Sequence[Opaque]) -> bool:
    kinds = [placement.name.rsplit(".", 1)[-1] for placement in placements]
    shards = [p for p, kind in zip(placements, kinds, strict=True) if kind == "Shard"]
    known = all(kind in ("Shard", "Replicate") for kind in kinds) and len(shards) <= 1
    if not known or (shards and _dimension(shards[0]) != 0):
        raise PipelineError(
            f"{folder}: tensor {name} is placed as {', '.join(kinds)}; only sharding by rows is "
            "read here: merge the checkpoint with verl's model merger"
        )
    return bool(shards)


def _dimension(shard: Opaque) -> int:
    return int(shard.attributes["dim"] if "dim" in shard.attributes else shard.args[0])
