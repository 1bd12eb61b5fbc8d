"""How straight the path is: R² of every scalar on the step, none left out, in one streaming read.

R² is the squared Pearson correlation of a scalar's value with the step number over K checkpoints
(arXiv 2601.04537, section on linearity). A scalar counts if it moves by more than `min_change` and
takes at least `min_unique` distinct values; since that filter biases R² upward, the figures over
all scalars stand beside it. A scalar that never moves has no correlation; among all scalars it
counts as R² = 0, and `constant` says how many there are.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import PipelineError
from pipeline.progress import bar
from pipeline.trajectory import kernels, stream
from pipeline.trajectory.entries import Entry
from pipeline.trajectory.fits import Spot, line_fit, spread, weight_fit
from pipeline.trajectory.gram import Gram, describe, rank1_curve, segment_cosines, straightness
from pipeline.trajectory.histogram import R2Counts
from pipeline.trajectory.measure import GramTable
from pipeline.trajectory.reader import Reader, Values
from pipeline.trajectory.shards import Files
from pipeline.trajectory.sources import Trajectory
from pipeline.trajectory.stream import Piece, counted, pieces, run


@dataclass(frozen=True)
class Filters:
    """A scalar counts if it moves by more than `min_change` over at least `min_unique` values."""

    min_change: float
    min_unique: int


@dataclass
class Tally:
    """What is known of one tensor, or of the whole model, so far."""

    r2: R2Counts = field(default_factory=R2Counts)
    constant: int = 0
    spot: Spot | None = None

    def add(self, other: Tally) -> None:
        self.r2.add(other.r2)
        self.constant += other.constant
        self.spot = min(filter(None, (self.spot, other.spot)), default=None)


def probe_weights(
    trajectory: Trajectory, min_change: float = 1e-4, min_unique: int = 4
) -> dict[str, Any]:
    """Linearity of every scalar of every floating-point tensor, over the virtual steps of a run
    that jumped.

    Returns:
        The content of weights.json: figures filtered and `unfiltered`, `histogram`, one row a
        tensor, and a few example fits; medians are exact to 5e-5 (see `R2Counts`). From the Gram
        matrix of the deltas, of each tensor and of the model: `relative_movement`
        ||theta_K - theta_0|| / ||theta_0||, `linear_r2` (R² weighted by movement) and
        `explained_variance` of rank 1, 2, ...; of the model also the coefficient of the leading
        direction at each step, the cosines between successive segments, `straightness`, and the
        Gram matrix itself with the `squared_norms` ||theta_i||² (see `prospects`).

    Raises:
        PipelineError: fewer than 3 checkpoints; NaN or infinity in one.
    """
    steps = trajectory.times
    _check_count(len(steps))
    filters = Filters(min_change, min_unique)
    fixed = trajectory.fixed  # buffers of infinities, which never change
    entries = [e for e in trajectory.base.entries.values() if e.is_float and e.name not in fixed]
    probe = _Probe(trajectory, filters, entries)
    total = sum(e.numel for e in entries)
    with Files() as files, bar(total, "linear_probe", "weights", scale=True) as progress:
        run(list(pieces(entries)), lambda: counted(probe.worker(files), progress, 1))
        spots = [probe.spots[e.name] for e in entries if e.name in probe.spots]
        examples = [weight_fit(trajectory, files, spot) for spot in spread(spots)]
    rows = [probe.rows[e.name] for e in entries if e.name in probe.rows]
    grams, gram = probe.table.settle(), Gram.zero(len(steps))
    for row in rows:
        gram.add(grams[row["name"]])
        row |= describe(steps, grams[row["name"]])
    return {
        **probe.total.r2.report(probe.total.constant, steps, asdict(filters)),
        **describe(steps, gram),
        "rank1_curve": rank1_curve(gram.matrix),
        "segment_cosines": segment_cosines(gram.matrix),
        "straightness": straightness(steps, gram.matrix),
        "gram": gram.matrix.tolist(),
        "squared_norms": gram.squared_norms,
        "tensors": rows,
        "examples": examples,
    }


class _Probe:
    """Tallies by tensor, filled by several threads; a tensor is folded in when it is done."""

    def __init__(self, trajectory: Trajectory, filters: Filters, entries: Sequence[Entry]) -> None:
        self.checkpoints = [trajectory.checkpoints[step] for step in trajectory.steps]
        self.steps = trajectory.times
        self.filters = filters
        self.left = {e.name: e.numel for e in entries}
        self.tallies: dict[str, Tally] = {}  # of the tensors in work: each holds a histogram
        self.rows: dict[str, dict[str, Any]] = {}
        self.spots: dict[str, Spot] = {}
        self.table = GramTable()
        self.total = Tally()
        self.lock = threading.Lock()

    def worker(self, files: Files) -> Callable[[Piece], None]:
        reader, kernel = (
            Reader(self.checkpoints, files),
            _Kernel(self.steps, self.filters, stream.PIECE),
        )

        def work(piece: Piece) -> None:
            values = reader.read(piece)
            r2, flags, gram = kernel.measure(values)
            self.table.add(piece, gram, reader)
            self.fold(piece, _tally(piece, r2, flags))

        return work

    def fold(self, piece: Piece, tally: Tally) -> None:
        with self.lock:
            if piece.name in self.tallies:
                self.tallies[piece.name].add(tally)
            else:
                self.tallies[piece.name] = tally
            self.left[piece.name] -= len(piece)
            if self.left[piece.name] == 0:
                done = self.tallies.pop(piece.name)
                self.rows[piece.name] = {"name": piece.name, **done.r2.figures()}
                if done.spot is not None:
                    self.spots[piece.name] = done.spot
                self.total.add(done)


def path_so_far(values: NDArray[np.float32], steps: Sequence[float]) -> dict[str, float]:
    """A few of the same figures, of scalars that are held in memory: for a run that is at work.

    Args:
        values: [K, N], K at least 2, one row a checkpoint.

    Returns:
        relative_movement, rank1_share (of `explained_variance`) and, from 3 checkpoints on,
        straightness (the cosine of the path's halves), last_cosine (of its last two segments),
        linear_r2 and the R² of all scalars, none filtered out; what is not defined, as where
        nothing moves, is left out.
    """
    rows = Values(np.ascontiguousarray(values, np.float32), movements=False)
    counts, figures = R2Counts(), {}
    if len(steps) > 2:
        r2, flags, gram = _Kernel(steps, Filters(0.0, 1), values.shape[1]).measure(rows)
        counts.add_values(r2, flags)
        figures = counts.summary(filtered=False)
    else:
        gram = Gram.zero(len(steps))
        gram.base[0] = kernels.moments(rows.array, rows.movements, gram.matrix)
    told = describe(steps, gram)
    cosines, ranks = segment_cosines(gram.matrix), told["explained_variance"]
    figures |= {key: told[key] for key in ("relative_movement", "linear_r2")}
    figures["rank1_share"] = ranks[0] if ranks else None
    figures["straightness"] = straightness(steps, gram.matrix)
    figures["last_cosine"] = cosines[-1] if cosines else None
    return {key: float(value) for key, value in figures.items() if value is not None}


def _tally(piece: Piece, r2: NDArray[np.float32], flags: NDArray[np.uint8]) -> Tally:
    counts = R2Counts()
    counts.add_values(r2, flags)
    spot = None
    if piece.start == 0 and counts.kept:
        places = np.flatnonzero(flags & kernels.KEPT)
        spot = Spot(piece.name, int(places[len(places) // 2]))
    return Tally(counts, _constant(flags), spot)


def _constant(flags: NDArray[np.uint8]) -> int:
    return len(flags) - int(np.count_nonzero(flags & kernels.MOVING))


class _Kernel:
    """`kernels.linearity` with its buffers, for up to `size` scalars at once."""

    def __init__(self, steps: Sequence[float], filters: Filters, size: int) -> None:
        self._weights = kernels.step_weights(steps)
        self._filters = filters
        self._r2 = np.empty(size, np.float32)
        self._flags = np.empty(size, np.uint8)

    def measure(self, values: Values) -> tuple[NDArray[np.float32], NDArray[np.uint8], Gram]:
        """R² [n] and flags [n] (overwritten by the next call), and the Gram of the piece."""
        count, n = values.array.shape
        r2, flags, gram = self._r2[:n], self._flags[:n], Gram.zero(count)
        filters = float(self._filters.min_change), int(self._filters.min_unique)
        kernels.linearity(
            values.array,
            values.movements,
            self._weights,
            *filters,
            r2,
            flags,
            gram.base,
            gram.matrix,
        )
        return r2, flags, gram


def series_r2(
    values: NDArray[np.floating[Any]], steps: Sequence[float]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """R² [N] of each column of `values` [K, N] on the steps, and which are constant [N]."""
    r2, flags = _measure_series(values, steps, Filters(0.0, 1))
    return r2, (flags & kernels.MOVING) == 0


def _measure_series(
    values: NDArray[np.floating[Any]], steps: Sequence[float], filters: Filters
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    _check_count(len(steps))
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise PipelineError(f"{bad} values of the series are NaN or infinite; score them again")
    plain = Values(np.ascontiguousarray(values, np.float32), movements=False)
    r2, flags, _ = _Kernel(steps, filters, values.shape[1]).measure(plain)
    return r2, flags


def probe_series(
    values: NDArray[np.floating[Any]],
    steps: Sequence[float],
    min_change: float,
    min_unique: int = 1,
) -> dict[str, Any]:
    """Linearity of N series, e.g. the log-probs of tokens.

    Args:
        values: [K, N], one row a checkpoint.
        steps: K step numbers.
        min_change: least |last - first|, as the paper filters tokens.
        min_unique: least number of distinct values.

    Returns:
        The same form as weights.json, `tensors` empty; `examples` have the series' `index`.

    Raises:
        PipelineError: fewer than 3 checkpoints; NaN or infinity.
    """
    r2, flags = _measure_series(values, steps, Filters(0.0, min_unique))
    narrow = np.asarray(values, np.float32)
    flags[~(np.abs(narrow[-1] - narrow[0]) > min_change)] &= ~kernels.KEPT
    counts = R2Counts()
    counts.add_values(r2, flags)
    spots = [Spot("", int(i)) for i in np.flatnonzero(flags & kernels.KEPT)]
    filters = {"min_change": min_change, "min_unique": min_unique}
    return counts.report(_constant(flags), steps, filters) | {
        "tensors": [],
        "examples": [
            {"index": spot.index, **line_fit(steps, np.asarray(values)[:, spot.index].tolist())}
            for spot in spread(spots)
        ],
    }


def _check_count(count: int) -> None:
    if count < 3:
        raise PipelineError(
            f"linearity needs at least 3 checkpoints, there are {count}: two points always lie on "
            "a line"
        )
