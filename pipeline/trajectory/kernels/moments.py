"""Blocks of checkpoints in fp32, and the inner products of their movements."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.trajectory.kernels.floats import ZERO, wide
from pipeline.trajectory.kernels.store import compiled

BLOCK = 1024  # fp32 sums run over so many products, the rest is added in fp64


def _sum_of_products(x: Any, y: Any) -> Any:
    total = ZERO
    for j in range(x.shape[0]):
        total += x[j] * y[j]
    return total


dot = compiled(_sum_of_products, fastmath={"reassoc", "contract", "nsz"})


@compiled
def _load(source: Any, row: Any) -> None:
    for j in range(row.shape[0]):
        row[j] = wide(source[j])


@compiled
def _load_movement(source: Any, first: Any, row: Any) -> None:
    """row = source - first (fp32)."""
    for j in range(row.shape[0]):
        row[j] = wide(source[j]) - first[j]


@compiled
def load_rows(values: Any, start: int, stop: int, rows: Any, movements: bool) -> None:
    """rows [K, m] fp32 = theta_0 and the movements from it in one block."""
    _load(values[0, start:stop], rows[0])
    for k in range(1, values.shape[0]):
        if movements:
            _load(values[k, start:stop], rows[k])
        else:
            _load_movement(values[k, start:stop], rows[0], rows[k])


@compiled
def add_gram(rows: Any, gram: Any) -> None:
    """gram [K, K] (lower triangle) += inner products of rows 1..K-1."""
    for k in range(1, rows.shape[0]):
        for i in range(1, k + 1):
            gram[k, i] += dot(rows[k], rows[i])


@compiled
def mirror(gram: Any) -> None:
    for k in range(gram.shape[0]):
        for i in range(k):
            gram[i, k] = gram[k, i]


@compiled
def moments(values: Any, movements: bool, gram: Any) -> float:
    """Add the deltas' inner products to gram fp64 [K, K]; returns ||theta_0||²."""
    count, n = values.shape
    buffer = np.empty(count * BLOCK, np.float32)
    squared = 0.0
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        rows = buffer[: count * (stop - start)].reshape(count, stop - start)
        load_rows(values, start, stop, rows, movements)
        squared += dot(rows[0], rows[0])
        add_gram(rows, gram)
    mirror(gram)
    return squared
