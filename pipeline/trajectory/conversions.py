"""Stored tensors and the parameters that transformers makes of them: fused, split and renamed ones.

transformers holds some models under other names than their files, experts fused into one tensor
for one, and its conversion tables say how. Here the tables' own operations are run on row numbers
in place of weights, which shows from which rows of which stored tensors each parameter comes. Two
spellings of a model are then compared through the parameters that both give.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.artifacts import read_object
from pipeline.errors import PipelineError, first_line

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Segment:
    """Rows [start, start + count) of a tensor are rows [first, first + count) of `source`.

    A row is all that the last dimension holds; in a vector, one element.
    """

    start: int
    source: str
    first: int
    count: int


@dataclass(frozen=True)
class Whole:
    """A tensor is all of `source`."""

    source: str


Origin = Whole | tuple[Segment, ...]


def rows_of(shape: tuple[int, ...]) -> int:
    """How many rows a tensor of this shape has."""
    return int(np.prod(shape[:-1], dtype=np.int64)) if len(shape) > 1 else int(np.prod(shape))


def meta_model(folder: Path) -> Any | None:
    """The model of a folder's config.json without weights; None if transformers has no such class.

    The model's own code is not run.
    """
    import transformers
    from huggingface_hub.errors import StrictDataclassError

    named = read_object(folder / "config.json").get("architectures") or [""]
    try:
        settings = transformers.AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        made = getattr(transformers, str(named[0]), None)
        with torch.device("meta"):
            if made is None:
                return transformers.AutoModelForCausalLM.from_config(settings)
            return made(settings)
    except (
        *(ValueError, KeyError, OSError, TypeError, AttributeError, ImportError, RuntimeError),
        StrictDataclassError,
    ):
        return None


def origins(model: Any, stored: Shapes) -> tuple[dict[str, Origin], list[str]]:
    """Where each parameter of a model comes from.

    Args:
        model: of transformers, on any device.
        stored: names and shapes of a checkpoint's tensors.

    Returns:
        By parameter or buffer its origin; and the stored names that the model has no place for.

    Raises:
        PipelineError: two tensors for one parameter, or an operation that moves elements within
            rows, which is not followed here.
    """
    groups, unknown = _groups(model, stored)
    places = model.state_dict()
    numbers = _Numbers(stored)
    found: dict[str, Origin] = {}
    for place, (converter, sources) in groups.items():
        if converter is None or _nothing_to_do(converter, stored[sources[0][0]], places[place]):
            if len(sources) > 1:
                raise PipelineError(f"tensors {sources[0][0]} and {sources[1][0]} are both {place}")
            found[place] = Whole(sources[0][0])
            continue
        for name, pattern in sources:
            converter.add_tensor(place, name, pattern, numbers.of(name))
        try:
            made = converter.convert(place, model=model, config=model.config)
        except (ValueError, RuntimeError, KeyError, IndexError, TypeError) as error:
            raise PipelineError(
                f"tensor {place} cannot be made of {sources[0][0]} and {len(sources) - 1} others: "
                f"{first_line(error)}"
            ) from None
        for name, value in made.items():
            tensor = value[0] if isinstance(value, list) else value
            wanted = tuple(places[name].shape) if name in places else ()
            rows = (*wanted[:-1], 1) if len(wanted) > 1 else wanted
            if tuple(tensor.shape) != rows:
                raise PipelineError(
                    f"tensor {name}: made of {sources[0][0]} and {len(sources) - 1} others in a "
                    "way that is not followed here; convert the checkpoint with save_pretrained"
                )
            found[name] = tuple(numbers.segments(tensor.flatten().numpy()))
    return found, unknown


def _nothing_to_do(converter: Any, shape: tuple[int, ...], place: torch.Tensor) -> bool:
    """True where the operation is only done on tensors of another shape than the model's."""
    asks = all(getattr(operation, "check_dims", False) for operation in converter.operations)
    return asks and tuple(place.shape) == shape


def _groups(
    model: Any, stored: Shapes
) -> tuple[dict[str, tuple[Any | None, list[tuple[str, str]]]], list[str]]:
    """By place in the model: its converter, if any, and (stored name, pattern) of what it takes."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import (
        WeightConverter,
        WeightRenaming,
        dot_natural_key,
        rename_source_key,
    )

    table = get_model_conversion_mapping(model)
    renamings = [entry for entry in table if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in table if isinstance(entry, WeightConverter)]
    by_pattern = {pattern: c for c in converters for pattern in c.source_patterns}
    places, prefix = model.state_dict(), model.base_model_prefix
    groups: dict[str, tuple[Any | None, list[tuple[str, str]]]] = {}
    unknown = []
    for name in sorted(stored, key=dot_natural_key):
        place, pattern = rename_source_key(name, renamings, converters, prefix, places)
        if place not in places and name in places:  # under the model's own name already
            place, pattern = name, None
        if place not in places:
            unknown.append(name)
        elif pattern is None:
            groups.setdefault(place, (None, []))[1].append((name, ""))
        else:
            made = groups.setdefault(place, (deepcopy(by_pattern[pattern]), []))
            made[1].append((name, pattern))
    return groups, unknown


class _Numbers:
    """A number for every row of every stored tensor."""

    def __init__(self, stored: Shapes) -> None:
        self._stored = stored
        self._names = list(stored)
        counts = [rows_of(shape) for shape in stored.values()]
        self._starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        self._begin = dict(zip(self._names, self._starts.tolist(), strict=False))

    def of(self, name: str) -> torch.Tensor:
        """The rows' numbers, int64, in the tensor's shape with a last dimension of 1."""
        shape = self._stored[name]
        begin = self._begin[name]
        numbers = torch.arange(begin, begin + rows_of(shape))
        return numbers.view(*shape[:-1], 1) if len(shape) > 1 else numbers.view(shape)

    def segments(self, numbers: NDArray[np.int64]) -> Iterator[Segment]:
        """What rows with these numbers are, in as few segments as there are."""
        which = np.searchsorted(self._starts, numbers, side="right") - 1
        breaks = (np.diff(numbers) != 1) | (np.diff(which) != 0)
        begins = np.concatenate([[0], np.flatnonzero(breaks) + 1])
        ends = np.concatenate([begins[1:], [len(numbers)]])
        for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
            name = self._names[int(which[begin])]
            yield Segment(begin, name, int(numbers[begin]) - self._begin[name], end - begin)


def translate(model: Any, stored: Shapes, wanted: Shapes) -> tuple[dict[str, Origin], list[str]]:
    """Where the tensors of one spelling are in another.

    Args:
        model: of transformers, which knows both.
        stored: names and shapes that a checkpoint has.
        wanted: names and shapes under which it is to be read.

    Returns:
        By wanted name its origin in `stored`, without names that have none; and the stored names
        that have no counterpart.

    Raises:
        PipelineError: rows of a tensor are missing, or a stored tensor would be used in part.
    """
    have, unknown = origins(model, stored)
    want, other = origins(model, wanted)
    found: dict[str, Origin] = {name: Whole(name) for name in other if name in set(unknown)}
    used = {name: rows_of(stored[name]) for name in found}
    parts: dict[str, list[Segment]] = {}
    for place, target in want.items():
        source = have.get(place)
        if source is None:
            continue
        if isinstance(source, Whole) and isinstance(target, Whole):
            found[target.source] = source
            used[source.source] = rows_of(stored[source.source])
            continue
        for name, piece in _compose(_segments(target, wanted), _segments(source, stored), place):
            parts.setdefault(name, []).append(piece)
            used[piece.source] = used.get(piece.source, 0) + piece.count
    for name, pieces in parts.items():
        found[name] = _complete(name, pieces, rows_of(wanted[name]))
    for name, rows in used.items():
        if rows != rows_of(stored[name]):
            raise PipelineError(f"tensor {name}: a part of it has no counterpart in the base")
    return found, [name for name in stored if name not in used]


def _segments(origin: Origin, shapes: Shapes) -> tuple[Segment, ...]:
    if isinstance(origin, Whole):
        return (Segment(0, origin.source, 0, rows_of(shapes[origin.source])),)
    return origin


def _compose(
    target: tuple[Segment, ...], source: tuple[Segment, ...], place: str
) -> Iterator[tuple[str, Segment]]:
    """(wanted name, its rows in a stored tensor), by way of the rows of one parameter."""
    sizes = [sum(segment.count for segment in side) for side in (target, source)]
    if sizes[0] != sizes[1]:
        raise PipelineError(f"tensor {place}: {sizes[1]} of its {sizes[0]} rows are there")
    bounds = sorted({s.start for s in (*target, *source)} | {sizes[0]})
    first, second = iter(target), iter(source)
    one, two = next(first), next(second)
    for begin, end in pairwise(bounds):
        while one.start + one.count <= begin:
            one = next(first)
        while two.start + two.count <= begin:
            two = next(second)
        start, row = one.first + begin - one.start, two.first + begin - two.start
        yield one.source, Segment(start, two.source, row, end - begin)


def _complete(name: str, pieces: list[Segment], rows: int) -> Origin:
    """The pieces of a tensor in order, joined where they can be.

    Raises:
        PipelineError: they do not cover it exactly once.
    """
    joined: list[Segment] = []
    position = 0
    for piece in sorted(pieces, key=lambda p: p.start):
        if piece.start != position:
            raise PipelineError(f"tensor {name}: its rows are not there, or twice")
        position += piece.count
        last = joined[-1] if joined else None
        if last and last.source == piece.source and last.first + last.count == piece.first:
            joined[-1] = Segment(last.start, last.source, last.first, last.count + piece.count)
        else:
            joined.append(piece)
    if position != rows:
        raise PipelineError(f"tensor {name}: {position} of its {rows} rows are there")
    return tuple(joined)
