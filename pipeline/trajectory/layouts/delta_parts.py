"""A delta snapshot in several files, one from each rank: an index says which elements each holds.

`delta-I-of-N.safetensors` has rank I's part [n] of every tensor of which it owns one, flattened;
`delta.safetensors.index.json` has the shapes of all tensors, and for each file the element at which
its part of a tensor begins. Parts lie wherever ZeRO cuts, so a tensor may be in several files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.artifacts import read_json, write_json
from pipeline.errors import PipelineError
from pipeline.trajectory.entries import Entry
from pipeline.trajectory.shards import read_header

INDEX = "delta.safetensors.index.json"
COPY = "copy the snapshot again, with all its files"


def part_name(rank: int, world: int) -> str:
    """The file of one rank."""
    return f"delta-{rank + 1:05d}-of-{world:05d}.safetensors"


def write_parts_index(
    folder: Path,
    shapes: Mapping[str, tuple[int, ...]],
    parts: Mapping[str, Mapping[str, int]],
) -> None:
    """Write the index of files that are all there.

    Args:
        parts: by file name, the first element of each tensor's part in it.

    Raises:
        PipelineError: a file is missing or damaged, or the parts do not make up the tensors.
    """
    _join(folder, shapes, parts)
    write_json(folder / INDEX, {"shapes": {n: list(s) for n, s in shapes.items()}, "parts": parts})


def read_parts(folder: Path) -> dict[str, Entry]:
    """The tensors of the snapshot, each as byte ranges of the files.

    Raises:
        PipelineError: no such index, or files that do not make up what it says.
    """
    path = folder / INDEX
    index = read_json(path)
    try:
        shapes = {str(n): tuple(int(size) for size in s) for n, s in index["shapes"].items()}
        parts = {
            str(file): {str(name): int(start) for name, start in starts.items()}
            for file, starts in index["parts"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PipelineError(f"{path}: no index of a snapshot ({error!r}); {COPY}") from None
    return _join(folder, shapes, parts)


def _join(
    folder: Path,
    shapes: Mapping[str, tuple[int, ...]],
    parts: Mapping[str, Mapping[str, int]],
) -> dict[str, Entry]:
    found: dict[str, list[tuple[int, Entry]]] = {name: [] for name in shapes}
    for file, starts in parts.items():
        held = read_header(folder / file)
        if held.keys() != starts.keys() or not held.keys() <= found.keys():
            raise PipelineError(f"{folder / file}: holds other tensors than {INDEX} says; {COPY}")
        for name, start in starts.items():
            found[name].append((start, held[name]))
    return {name: _joined(folder, name, shape, found[name]) for name, shape in shapes.items()}


def _joined(folder: Path, name: str, shape: tuple[int, ...], parts: list[Any]) -> Entry:
    position, extents, dtypes = 0, [], set()
    for start, part in sorted(parts, key=lambda part: (part[0], part[1].numel)):
        if start != position:
            break
        position += part.numel
        extents += part.extents
        dtypes.add(part.dtype)
    if position != math.prod(shape) or len(dtypes) != 1:
        raise PipelineError(
            f"{folder}: tensor {name}: the parts hold {position} elements in order of its "
            f"{math.prod(shape)}; {COPY}"
        )
    return Entry(name, dtypes.pop(), shape, tuple(extents))
