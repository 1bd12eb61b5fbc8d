"""How much of a predicted movement is lost in the dtype that it is written in, from a sample.

RL may move weights by less than half the spacing of bf16 numbers. Rounding then returns most of
them to where they began, or a whole spacing away, so the written model is not the predicted one.
Nothing is lost so where the checkpoints themselves are bf16: they lie on its numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.trajectory.entries import Entry
from pipeline.trajectory.gram import Gram
from pipeline.trajectory.kernels import combine, moments
from pipeline.trajectory.plan import DTYPES, Plan
from pipeline.trajectory.reader import Reader, Values
from pipeline.trajectory.shards import Files
from pipeline.trajectory.stream import Piece

TENSORS, PIECES, SIZE = 48, 4, 1024  # the sample: scalars of a piece, pieces of a tensor


def lost_shares(plan: Plan) -> dict[int, float]:
    """For each target ||rounded - theta*|| / ||theta* - theta_0||, theta* as computed in fp32.

    Estimated from up to 200,000 scalars, spread over tensors and within them. Gates by scalar are
    left out. Targets without movement are missing, and so are all where nothing is rounded.

    Raises:
        PipelineError: a file that cannot be read.
    """
    if DTYPES.get(plan.dtype, torch.float32) == torch.float32:
        return {}
    predicted = [entry for name, entry in plan.last.entries.items() if plan.predicts(name)]
    every = max(1, math.ceil(len(predicted) / TENSORS))
    lost, moved = np.zeros(len(plan.targets)), np.zeros(len(plan.targets))
    with Files() as files:
        reader = Reader(plan.checkpoints, files)
        for entry in predicted[::every]:
            squares = _squares(plan, entry, [_copy(reader, piece) for piece in _spread(entry)])
            lost, moved = lost + squares[0], moved + squares[1]
    pairs = zip(plan.targets, lost, moved, strict=True)
    return {target: math.sqrt(a / b) for target, a, b in pairs if b > 0 and math.isfinite(a / b)}


def _spread(entry: Entry) -> Iterator[Piece]:
    """Pieces at even distances, the whole tensor where it is small."""
    width = max(SIZE, -(-entry.numel // PIECES))
    for start in range(0, entry.numel, width):
        yield Piece(entry.name, start, min(start + SIZE, entry.numel))


def _copy(reader: Reader, piece: Piece) -> Values:
    values = reader.read(piece)
    return Values(values.array.copy(), values.movements)


def _squares(plan: Plan, entry: Entry, sample: list[Values]) -> NDArray[np.float64]:
    """Squares of what is lost and of what moves [2, T] in a tensor, as far as it is finite."""
    gram = Gram.zero(len(plan.checkpoints))
    for values in sample:
        gram.base[0] += moments(values.array, values.movements, gram.matrix)
    squares = np.zeros((2, len(plan.targets)))
    if not math.isfinite(gram.base_squared + gram.matrix.sum()):
        return squares
    rows = [plan.coefficients(entry.name, gram.matrix, target) for target in plan.targets]
    coefficients = np.array([*rows, np.zeros(len(plan.checkpoints))], np.float32)
    for values in sample:
        exact = np.empty((len(coefficients), values.array.shape[1]), np.float32)
        combine(values.array, values.movements, coefficients, exact)
        rounded = torch.from_numpy(exact).to(DTYPES[plan.dtype]).double().numpy()
        wide = exact.astype(np.float64)
        squares[0] += ((rounded - wide)[:-1] ** 2).sum(1)
        squares[1] += ((wide[:-1] - wide[-1]) ** 2).sum(1)
    return squares * (entry.numel / sum(values.array.shape[1] for values in sample))
