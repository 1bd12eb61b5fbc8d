"""The files of one DeepSpeed ZeRO checkpoint: which folder, and one file for each rank.

A folder may hold several checkpoints (tags), or what two launches with other numbers of ranks
left; whatever leaves open which values are meant is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.trajectory.pickles import load_records

OPTIMIZER = "*_optim_states.pt"
RANK = re.compile(r"(?P<kind>(?:bf16_)?zero_pp_rank)_(?P<rank>\d+)_mp_rank_(?P<part>\d+)_\w+\.pt")
SLICES = "param_slice_mappings"  # of each group: name -> where its part lies in this rank's
CONVERT = "convert it with DeepSpeed's ds_to_universal or the trainer's own exporter first"


def holds(source: Path) -> bool:
    """True if optimizer files of DeepSpeed lie in `source` or in a folder in it."""
    return any(True for pattern in (OPTIMIZER, f"*/{OPTIMIZER}") for _ in source.glob(pattern))


def tag_folder(source: Path) -> Path:
    """The folder with the files: `source` itself, or the tag in it that `latest` names.

    Raises:
        PipelineError: `latest` names a folder that is not there, or there are several tags and no
            `latest`.
    """
    if any(source.glob(OPTIMIZER)):
        return source
    tags = sorted({path.parent for path in source.glob(f"*/{OPTIMIZER}")})
    names = ", ".join(tag.name for tag in tags)
    latest = source / "latest"
    if latest.is_file():
        named = source / latest.read_text(encoding="utf-8", errors="replace").strip()
        if named not in tags:
            raise PipelineError(
                f"{latest}: names {named.name}, of which no {OPTIMIZER} is here (there is "
                f"{names}); copy that folder, or name the one that is meant in snapshot.checkpoints"
            )
        return named
    if len(tags) > 1:
        raise PipelineError(
            f"{source}: several DeepSpeed checkpoints ({names}) and no file `latest`; name the one "
            "that is meant in snapshot.checkpoints"
        )
    return tags[0]


def optimizer_states(folder: Path) -> list[dict[str, Any]]:
    """The optimizer's state of rank 0, 1, ...

    Raises:
        PipelineError: files missing, more than the ranks that they count, or tensor-parallel ones.
    """
    paths = _by_rank(folder, sorted(folder.glob(OPTIMIZER)))
    states = []
    for path in paths:
        record = load_records(path)
        state = record.get("optimizer_state_dict") if isinstance(record, dict) else None
        if not isinstance(state, dict) or not state.keys() & {"zero_stage", SLICES}:
            raise PipelineError(f"{path}: not a ZeRO checkpoint; save it as HF safetensors")
        states.append(state)
    worlds = {_world_size(path, state): path for path, state in zip(paths, states, strict=True)}
    world = _world_size(paths[0], states[0])
    if len(paths) > world or len(worlds) > 1:
        counts = ", ".join(f"{path.name} counts {n}" for n, path in sorted(worlds.items()))
        raise PipelineError(
            f"{folder}: {len(paths)} {OPTIMIZER} files"
            + (f", more than the {world} ranks that rank 0 counts" if len(paths) > world else "")
            + f": files of several launches ({counts}); remove those that are not meant"
        )
    if len(paths) < world:
        raise PipelineError(
            f"{folder}: {len(paths)} of {world} {OPTIMIZER} files; copy the missing ones"
        )
    return states


def model_states(folder: Path, stage: int, world: int) -> list[dict[str, Any]]:
    """The model's state: one file, or at stage 3 one of each rank.

    Raises:
        PipelineError: files missing, or more than the ranks.
    """
    paths = sorted(folder.glob("*_model_states.pt"))
    odd = [p for p in paths if not RANK.fullmatch(p.name) and not p.name.startswith("mp_rank_")]
    if odd or any(folder.glob("layer_*-model_*")):
        raise PipelineError(
            f"{folder}: saved under expert or pipeline parallelism "
            f"({odd[0].name if odd else 'layer_*'}); {CONVERT}"
        )
    if stage <= 2:
        single = folder / "mp_rank_00_model_states.pt"
        if not single.exists():
            raise PipelineError(f"{single}: no such file; copy it as well")
        return [_model_state(single)]
    ranked = _by_rank(folder, [path for path in paths if RANK.fullmatch(path.name)])
    if len(ranked) != world:
        more = "more than" if len(ranked) > world else "of"
        raise PipelineError(
            f"{folder}: {len(ranked)} *_model_states.pt files, {more} the {world} ranks; "
            + ("remove those of the other launch" if len(ranked) > world else "copy the missing")
        )
    return [_model_state(path) for path in ranked]


def _model_state(path: Path) -> dict[str, Any]:
    state = load_records(path)
    if not isinstance(state, dict) or not {"module", "param_shapes"} <= state.keys():
        raise PipelineError(f"{path}: no model's state of DeepSpeed; copy it again")
    if not state["param_shapes"]:
        raise PipelineError(f"{path}: no parameters in it that were trained; copy it again")
    return state


def _by_rank(folder: Path, paths: Sequence[Path]) -> list[Path]:
    """In order of rank; the ranks are of one kind and no rank is left out."""
    matches = {path: RANK.fullmatch(path.name) for path in paths}
    kinds: dict[str, Path] = {}
    ranks: dict[int, Path] = {}
    for path, match in matches.items():
        if match is None or int(match["part"]):
            raise PipelineError(
                f"{path}: saved under tensor or expert parallelism, which is not read; {CONVERT}"
            )
        kinds[match["kind"]] = path
        ranks[int(match["rank"])] = path
    if len(kinds) > 1:
        names = " and ".join(path.name for path in kinds.values())
        raise PipelineError(
            f"{folder}: files of several launches ({names}); remove those of the other launch"
        )
    return [ranks[rank] for rank in sorted(ranks)]


def _world_size(path: Path, state: dict[str, Any]) -> int:
    """Over how many ranks the parameters were cut."""
    count = state.get("partition_count")
    counts = set(count) if isinstance(count, list) else {count}
    if len(counts) > 1:
        raise PipelineError(f"{path}: saved under expert parallelism, which is not read; {CONVERT}")
    world = counts.pop() if counts else None
    if not isinstance(world, int):
        raise PipelineError(f"{path}: not a ZeRO checkpoint (no partition_count); copy it again")
    return world
