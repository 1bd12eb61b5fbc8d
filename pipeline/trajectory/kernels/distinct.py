"""How many distinct values a scalar takes, as far as it matters.

A scalar's values are kept as they are met, the first one apart, until there are enough of them: a
value is new if it is none of those. Places that are not filled yet hold the first value once more.
What is met after there are enough may be counted twice, which no longer decides anything.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.trajectory.kernels.fits import FINE, WANTED
from pipeline.trajectory.kernels.floats import ONE, ZERO, wide
from pipeline.trajectory.kernels.store import compiled

_SEEN, _NEW, _SECOND, _THIRD = range(0, 4 * FINE, FINE)  # rows of `kept`, as `fits` has them
KEPT_ROWS = 4 * FINE


@compiled
def _begin(first: Any, kept: Any, more: Any) -> None:
    for j in range(first.shape[0]):
        kept[_SEEN + j] = ONE
        kept[_SECOND + j] = first[j]
        kept[_THIRD + j] = first[j]
    for i in range(more.shape[0]):
        row = more[i, : first.shape[0]]
        for j in range(row.shape[0]):
            row[j] = first[j]


@compiled
def _meet(source: Any, first: Any, kept: Any) -> None:
    """new = 1 where the value is none of the first three kept, else 0; kept if there is room."""
    for j in range(source.shape[0]):
        value, seen = wide(source[j]), kept[_SEEN + j]
        second, third = kept[_SECOND + j], kept[_THIRD + j]
        new = ONE if value != first[j] else ZERO
        fills = new if seen == np.float32(1) else ZERO
        kept[_SECOND + j] = value if fills > ZERO else second
        new = new if value != second else ZERO
        fills = new if seen == np.float32(2) else ZERO
        kept[_THIRD + j] = value if fills > ZERO else third
        kept[_NEW + j] = new if value != third else ZERO


@compiled
def _meet_more(source: Any, place: Any, other: Any, number: Any, kept: Any) -> None:
    """The same with two further places, of which the first is filled by value `number` + 1."""
    following = np.float32(number + ONE)
    for j in range(source.shape[0]):
        value, seen, new = wide(source[j]), kept[_SEEN + j], kept[_NEW + j]
        held, last = place[j], other[j]
        fills = new if seen == number else ZERO
        place[j] = value if fills > ZERO else held
        new = new if value != held else ZERO
        fills = new if seen == following else ZERO
        other[j] = value if fills > ZERO else last
        kept[_NEW + j] = new if value != last else ZERO


@compiled
def _count_new(first: Any, least: Any, kept: Any, work: Any) -> bool:
    """seen += new; True if some scalar that is wanted has not taken `least` values yet."""
    short = np.int32(0)
    for j in range(first.shape[0]):
        seen = kept[_SEEN + j] + kept[_NEW + j]
        kept[_SEEN + j] = seen
        missing = np.float32(work[WANTED + j] * least - seen)
        short = max(short, missing.view(np.int32))  # of floats above 0, and of no others, above 0
    return bool(short > np.int32(0))


@compiled
def filter_distinct(
    values: Any, start: int, stop: int, first: Any, least: Any, kept: Any, more: Any, work: Any
) -> None:
    """wanted = 0 where `first` and rows 1..K-1 take fewer than `least` distinct values.

    Args:
        kept: fp32 [KEPT_ROWS], overwritten,
        more: and fp32 [P, FINE], see `places`.
        work: see `fits`.
    """
    _begin(first, kept, more)
    for k in range(1, values.shape[0]):
        source = values[k, start:stop]
        _meet(source, first, kept)
        for i in range(0, more.shape[0], 2):
            place, other = more[i, : stop - start], more[i + 1, : stop - start]
            _meet_more(source, place, other, np.float32(i + 3), kept)
        if not _count_new(first, least, kept, work):
            return
    for j in range(first.shape[0]):
        work[WANTED + j] = work[WANTED + j] if kept[_SEEN + j] >= least else ZERO


@compiled
def places(count: int, min_unique: int) -> int:
    """Rows that `filter_distinct` needs beside three, for `count` checkpoints; an even number."""
    rest = max(min(min_unique, count) - 4, 0)
    return rest + rest % 2
