"""The compiled arithmetic against plain numpy and torch: would catch a lost tail or a wrong bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.trajectory import kernels

SIZES = [1, 7, 1024, 5000]
NO_GATE = np.empty(0, np.float32)


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
    gram = np.zeros((4, 4))
    squared, finite = kernels.combine(
        theta.numpy() if wide else bf16(theta), False, c, NO_GATE, out, gram
    )
    assert finite
    d = theta - theta[0]
    expected = [
        d[1] * 0.3 + d[2] * -1.7 + d[3] * 2.4 + theta[0],
        d[3] * 1.5 + theta[0],
        theta[0],
    ]
    for row, value in zip(out, expected, strict=True):
        assert np.array_equal(row, value.numpy() if wide else bf16(value))
    alone = np.zeros((4, 4))
    assert squared == kernels.moments(theta.numpy(), False, alone)
    assert np.array_equal(gram, alone)


def test_movements_are_used_as_they_are() -> None:
    """A movement far below the base's own spacing, which a sum with the base would lose."""
    values = np.array([[1.0, 256.0], [2.0**-20, 2.0**-16]], np.float32)
    out, gram = np.empty((1, 2), np.float32), np.zeros((2, 2))
    kernels.combine(values, True, np.array([[0, 2.0**10]], np.float32), NO_GATE, out, gram)
    assert out.tolist() == [[1.0 + 2.0**-10, 256.0 + 2.0**-6]]
    assert gram[1, 1] == 2.0**-40 + 2.0**-32


@pytest.mark.parametrize("bits", [0x7F800000, 0xFF800000, 0x7FC00000, 0x7FFFFFFF, 0xFFFFFFFF])
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("place", [0, 1500])
def test_what_is_not_finite_is_seen(bits: int, wide: bool, place: int) -> None:
    """Infinities and NaNs, among them those that rounding to bf16 turns into numbers."""
    values = np.ones((2, 1501), np.float32)
    values[0].view(np.uint32)[place] = bits
    out = np.empty((1, 1501), np.float32 if wide else np.uint16)
    c, gram = np.array([[0, 1.0]], np.float32), np.zeros((2, 2))
    assert kernels.combine(values, True, c, NO_GATE, out, gram)[1] is False


def test_overflow_on_rounding_is_seen() -> None:
    """The largest fp32 number is finite and rounds to infinity in bf16."""
    values = np.array([[np.finfo(np.float32).max], [0.0]], np.float32)
    c, gram = np.zeros((1, 2), np.float32), np.zeros((2, 2))
    for dtype, finite in ((np.float32, True), (np.uint16, False)):
        out = np.empty((1, 1), dtype)
        assert kernels.combine(values, True, c, NO_GATE, out, gram)[1] is finite


def test_rounding_is_torchs() -> None:
    """Ties to even, subnormals, both zeros."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 1 << 32, 20000, dtype=np.uint32)
    bits[:4] = [0x3F808000, 0x3F818000, 0x00008001, 0x80000000]
    values = bits.view(np.float32).reshape(1, -1)
    values = np.where(np.isfinite(values), values, 0).astype(np.float32)
    out, gram = np.empty((1, 20000), np.uint16), np.zeros((1, 1))
    kernels.combine(values, True, np.zeros((1, 1), np.float32), NO_GATE, out, gram)
    assert np.array_equal(out[0], bf16(torch.from_numpy(values[0])))


def test_cells_are_counted_by_filter() -> None:
    r2 = np.array([0.0, 0.5, 0.5, 1.0], np.float32)
    flags = np.array([0, kernels.KEPT, kernels.MOVING, kernels.KEPT | kernels.MOVING], np.uint8)
    counts = np.zeros((2, 10), np.int64)
    assert kernels.count_cells(r2, flags, counts) == (0.5, 1.5)
    assert counts[0].nonzero()[0].tolist() == [0, 5]
    assert counts[1].nonzero()[0].tolist() == [5, 9]  # R² = 1 lies in the last cell
