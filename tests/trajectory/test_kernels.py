"""The compiled arithmetic against plain numpy and torch: would catch a lost tail or a wrong bit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.trajectory import kernels
from pipeline.trajectory.gram import Gram

SIZES = [1, 7, 1024, 5000]


def bf16(values: torch.Tensor) -> np.ndarray:
    return values.to(torch.bfloat16).view(torch.uint16).numpy()


def random(count: int, n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, n, generator=torch.Generator().manual_seed(seed)).to(torch.bfloat16)


@pytest.mark.parametrize("n", SIZES)
def test_moments_are_fp64_inner_products(n: int) -> None:
    """And fp32 sums that swallow the difference of near-parallel rows."""
    rng = np.random.default_rng(n)
    drift = rng.normal(size=n)
    rows = [rng.normal(size=n), drift, drift + 1e-3 * rng.normal(size=n), -2 * drift]
    values = np.stack(rows).astype(np.float32)
    gram = np.zeros((4, 4))
    squared = kernels.moments(values, True, gram)
    wide = values.astype(np.float64)
    assert np.allclose(gram[1:, 1:], wide[1:] @ wide[1:].T, rtol=1e-7)
    assert squared == pytest.approx(wide[0] @ wide[0], rel=1e-6)
    assert not gram[0].any()
    assert not gram[:, 0].any()


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("wide", [False, True])
def test_combine_is_torch_to_the_bit(n: int, wide: bool) -> None:
    """Three targets, one of them with a checkpoint left out, in bf16 and in fp32."""
    theta = random(4, n).float()
    c = np.array([[0, 0.3, -1.7, 2.4], [0, 0, 0, 1.5], [0, 0, 0, 0]], np.float32)
    out = np.empty((3, n), np.float32 if wide else np.uint16)
    assert kernels.combine(theta.numpy() if wide else bf16(theta), False, c, out)
    d = theta - theta[0]
    expected = [
        d[1] * 0.3 + d[2] * -1.7 + d[3] * 2.4 + theta[0],
        d[3] * 1.5 + theta[0],
        theta[0],
    ]
    for row, value in zip(out, expected, strict=True):
        assert np.array_equal(row, value.numpy() if wide else bf16(value))


@pytest.mark.parametrize("movements", [False, True])
@pytest.mark.parametrize("terms", [0, 1, 3])
def test_zeros_keep_their_sign(movements: bool, terms: int) -> None:
    """-0 + 0 is 0, -0 + -0 and -0 alone are -0: would catch a sum that begins with a 0 that torch
    has not, or a movement that is taken as its opposite."""
    signs = torch.tensor([[(i >> k) & 1 for i in range(16)] for k in range(4)])
    theta = torch.where(signs.bool(), -0.0, 0.0)
    c = torch.tensor([0.0, *[0.5, -2.0, 1.5][:terms], *[0.0] * (3 - terms)])
    out = np.empty((1, 16), np.float32)
    assert kernels.combine(theta.numpy(), movements, c[None].numpy(), out)
    deltas = theta if movements else theta - theta[0]
    expected = theta[0]
    if terms:
        steps = [deltas[k] * c[k] for k in range(1, terms + 1)]
        expected = sum(steps[1:], start=steps[0]) + theta[0]
    assert np.array_equal(out[0].view(np.uint32), expected.numpy().view(np.uint32))


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("movements", [False, True])
def test_the_probe_is_plain_numpy_to_the_bit(n: int, movements: bool) -> None:
    """Blocks and their tails, filters, and sums in the order of the checkpoints, all in fp32."""
    rng = np.random.default_rng(n)
    values = np.cumsum(rng.integers(-2, 3, (5, n)), 0).astype(np.float32) * np.float32(1e-3)
    weights = kernels.step_weights([0, 10, 40, 50, 90])
    r2, flags, gram = np.empty(n, np.float32), np.empty(n, np.uint8), Gram.zero(5)
    kernels.linearity(values, movements, weights, 2e-3, 3, r2, flags, gram.base, gram.matrix)
    seen = values.copy()
    if movements:
        seen[0] = 0
    change = seen.max(0) - seen.min(0)
    distinct = np.array([len(np.unique(column)) for column in seen.T])
    kept = (change > np.float32(2e-3)) & (distinct >= 3)
    assert np.array_equal(flags, kernels.MOVING * (change > 0) + kernels.KEPT * kept)
    scale = np.float32(1) / np.maximum(change, np.finfo(np.float32).tiny)
    series = (seen[1:] if movements else seen[1:] - seen[0]) * scale
    total, slope, square = (np.zeros(n, np.float32) for _ in range(3))
    for row, weight in zip(series, weights[1:], strict=True):
        total, slope, square = total + row, slope + row * weight, square + row * row
    square = np.maximum(square - total * total * np.float32(0.2), np.finfo(np.float32).tiny)
    assert np.array_equal(r2, np.minimum(slope * slope / square, np.float32(1)))
    theta = values.astype(np.float64)
    theta[1:] += theta[0] if movements else 0
    assert gram.squared_norms == pytest.approx((theta**2).sum(1), rel=1e-6)


@pytest.mark.parametrize("n", [5, 300])
def test_the_gate_is_plain_numpy_to_the_bit(n: int) -> None:
    """theta_K + R² (line - theta_K), each scalar by the R² that the probe finds for it."""
    rng = np.random.default_rng(n)
    values = np.cumsum(rng.normal(size=(4, n)), 0).astype(np.float32)
    weights = kernels.step_weights([0, 1, 3, 4])
    d = values - values[0]
    end, steps = values[0] + d[3], np.stack([values[0], *d[1:]])
    r2, flags, gram = np.empty(n, np.float32), np.empty(n, np.uint8), Gram.zero(4)
    kernels.linearity(steps, True, weights, 0.0, 1, r2, flags, gram.base, gram.matrix)
    c = np.array([[0, 0.5, 0, 2.0], [0, 0, 0, 0]], np.float32)
    out = np.empty((2, n), np.float32)
    assert kernels.combine_gated(values, False, c, weights, out)
    lines = d[1] * c[0, 1] + d[3] * c[0, 3] + values[0], values[0]
    for row, line in zip(out, lines, strict=True):
        assert np.array_equal(row, (line - end) * r2 + end)


STORED = """
import sys, numpy as np
from pipeline.trajectory import kernels
values, out = np.ones((2, 5), np.uint16), np.empty((1, 5), np.uint16)
kernels.combine(values, False, np.zeros((1, 2), np.float32), out)
assert (out == 1).all()
print("numba.np.linalg" in sys.modules)
kernels.moments(np.ones((2, 5)), True, np.zeros((2, 2)))  # float64: not in the store
"""


def test_a_later_process_loads_kernels_without_the_compiler() -> None:
    """Numba imports all that it can compile, scipy too, even to load what is compiled: longer than
    a small model takes. What is not stored yet is still compiled."""
    for said in ("", "False"):
        done = subprocess.run([sys.executable, "-c", STORED], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert said in done.stdout


def test_movements_are_used_as_they_are() -> None:
    """A movement far below the base's own spacing, which a sum with the base would lose."""
    values = np.array([[1.0, 256.0], [2.0**-20, 2.0**-16]], np.float32)
    out, gram = np.empty((1, 2), np.float32), np.zeros((2, 2))
    kernels.combine(values, True, np.array([[0, 2.0**10]], np.float32), out)
    assert out.tolist() == [[1.0 + 2.0**-10, 256.0 + 2.0**-6]]
    kernels.moments(values, True, gram)
    assert gram[1, 1] == 2.0**-40 + 2.0**-32


@pytest.mark.parametrize("bits", [0x7F800000, 0xFF800000, 0x7FC00000, 0x7FFFFFFF, 0xFFFFFFFF])
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("place", [0, 1500])
def test_what_is_not_finite_is_seen(bits: int, wide: bool, place: int) -> None:
    """Infinities and NaNs, among them those that rounding to bf16 turns into numbers."""
    values = np.ones((2, 1501), np.float32)
    values[0].view(np.uint32)[place] = bits
    out = np.empty((1, 1501), np.float32 if wide else np.uint16)
    for c in ([[0, 1.0]], [[0, 0]]):
        assert kernels.combine(values, True, np.array(c, np.float32), out) is False


def test_overflow_on_rounding_is_seen() -> None:
    """The largest fp32 number is finite and rounds to infinity in bf16."""
    values = np.array([[np.finfo(np.float32).max], [0.0]], np.float32)
    for dtype, finite in ((np.float32, True), (np.uint16, False)):
        out = np.empty((1, 1), dtype)
        assert kernels.combine(values, True, np.zeros((1, 2), np.float32), out) is finite


def test_rounding_is_torchs() -> None:
    """Ties to even, subnormals, both zeros."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 1 << 32, 20000, dtype=np.uint32)
    bits[:4] = [0x3F808000, 0x3F818000, 0x00008001, 0x80000000]
    values = bits.view(np.float32).reshape(1, -1)
    values = np.where(np.isfinite(values), values, 0).astype(np.float32)
    out = np.empty((1, 20000), np.uint16)
    kernels.combine(values, True, np.zeros((1, 1), np.float32), out)
    assert np.array_equal(out[0], bf16(torch.from_numpy(values[0])))


def test_cells_are_counted_by_filter() -> None:
    r2 = np.array([0.0, 0.5, 0.5, 1.0], np.float32)
    flags = np.array([0, kernels.KEPT, kernels.MOVING, kernels.KEPT | kernels.MOVING], np.uint8)
    counts = np.zeros((2, 10), np.int64)
    assert kernels.count_cells(r2, flags, counts) == (0.5, 1.5)
    assert counts[0].nonzero()[0].tolist() == [0, 5]
    assert counts[1].nonzero()[0].tolist() == [5, 9]  # R² = 1 lies in the last cell


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(2, 16),
    least=st.integers(1, 18),
    spread=st.integers(1, 20),
    narrow=st.booleans(),
    movements=st.booleans(),
    seed=st.integers(0, 1 << 30),
)
def test_flags_are_those_of_numpys_distinct_values(
    count: int, least: int, spread: int, narrow: bool, movements: bool, seed: int
) -> None:
    """A value that is kept in the wrong place, counted twice, or compared with a place that is
    still free; blocks that end early; both zeros, which are one value."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, spread, (count, 300)).astype(np.float32)
    values[rng.random(values.shape) < 0.1] = -0.0
    stored = bf16(torch.from_numpy(values)) if narrow else values
    r2, flags = np.empty(300, np.float32), np.empty(300, np.uint8)
    weights = kernels.step_weights(range(count))
    gram = Gram.zero(count)
    kernels.linearity(stored, movements, weights, 1.0, least, r2, flags, gram.base, gram.matrix)
    seen = np.concatenate([np.zeros((1, 300)), values[1:]]) if movements else values
    distinct = np.array([len(np.unique(column)) for column in seen.T])
    kept = (np.ptp(seen, 0) > 1.0) & (distinct >= least)
    assert np.array_equal((flags & kernels.KEPT) > 0, kept)


def test_stored_machine_code_is_of_one_state_of_all_files() -> None:
    """Kernels of one file are compiled into those of others: after a change of the one, code of
    the others that is stored would still have the old one in it."""
    store = kernels.moments._cache
    names = {path.name for path in Path(store._py_func.__code__.co_filename).parent.glob("*.py")}
    assert {name for name, _, _ in store._cache_file._source_stamp} == names
    kernels.moments(np.ones((2, 5), np.float32), True, np.zeros((2, 2)))
    fresh = type(store)(store._py_func)
    assert fresh._cache_file._load_index()
    (name, time, size), *others = fresh._cache_file._source_stamp
    fresh._cache_file._source_stamp = ((name, time, size + 1), *others)
    assert not fresh._cache_file._load_index()
