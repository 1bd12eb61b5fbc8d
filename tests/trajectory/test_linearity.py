"""Linearity: would catch sampling, unstable sums, positions for steps, and lost filters."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from pipeline.errors import PipelineError
from pipeline.trajectory import kernels, stream
from pipeline.trajectory.linearity import probe_series, probe_weights, series_r2
from pipeline.trajectory.sources import discover
from tests.trajectory.pico import load_model, run_tensors, write_run

STEPS = [0, 10, 40, 50, 90, 100]  # uneven: a position is not a step


def reference(values: np.ndarray, steps: list[int]) -> np.ndarray:
    """R² by scipy in fp64, one column at a time; 0 where constant."""
    out = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for column in values.astype(np.float64).T:
            constant = column.max() == column.min()
            out.append(0.0 if constant else stats.linregress(steps, column).rvalue ** 2)
    return np.array(out)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_every_scalar_agrees_with_linregress(
    tmp_path: Path, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_tensors(STEPS)
    for step in STEPS:  # frozen: constant in every scalar
        run[step]["model.layers.0.mlp.up_proj.weight"] = run[0]["model.layers.0.mlp.up_proj.weight"]
    root = write_run(tmp_path, run, dtype)
    monkeypatch.setattr(stream, "PIECE", 31)
    report = probe_weights(discover(root, None), min_change=4e-3, min_unique=6)
    models = [load_model(root / f"global_step_{s}") for s in STEPS]
    r2_all, kept_all = [], []
    for row in report["tensors"]:
        values = np.stack([m[row["name"]].float().flatten().numpy() for m in models])
        r2 = reference(values, STEPS)
        unique = np.array([len(np.unique(c)) for c in values.T])
        kept = (values.max(0) - values.min(0) > 4e-3) & (unique >= 6)
        assert (row["kept"], row["total"]) == (kept.sum(), len(kept))
        if kept.any():
            assert row["r2_mean"] == pytest.approx(r2[kept].mean(), abs=1e-5)
            assert row["r2_median"] == pytest.approx(np.median(r2[kept]), abs=1e-4)
        else:
            assert row["r2_mean"] is None
        v = values.astype(np.float64)
        moved = np.linalg.norm(v[-1] - v[0]) / np.linalg.norm(v[0])
        assert row["relative_movement"] == pytest.approx(moved, rel=1e-5)
        r2_all.append(r2)
        kept_all.append(kept)
    r2, kept = np.concatenate(r2_all), np.concatenate(kept_all)
    assert 0 < kept.sum() < len(kept)
    assert report["scalars_total"] == len(r2) == discover(root, None).parameters
    assert report["scalars_kept"] == kept.sum()
    assert report["unfiltered"]["constant"] == (reference_constant(models)).sum()
    for part, chosen in ((report, r2[kept]), (report["unfiltered"], r2)):
        assert part["r2_mean"] == pytest.approx(chosen.mean(), abs=1e-5)
        assert part["r2_median"] == pytest.approx(np.median(chosen), abs=1e-4)
        assert part["r2_share_above_0.7"] == pytest.approx((chosen > 0.7).mean(), abs=1e-9)
    counts, edges = np.histogram(r2[kept], bins=1000, range=(0, 1))
    assert np.abs(np.array(report["histogram"]["counts"]) - counts).sum() <= 2  # on an edge
    assert np.allclose(report["histogram"]["edges"], edges)
    assert sum(report["histogram"]["counts_unfiltered"]) == len(r2)


def reference_constant(models: list[dict[str, torch.Tensor]]) -> np.ndarray:
    stacked = [torch.stack([m[n].float().flatten() for m in models]) for n in models[0]]
    return torch.cat([(s.amax(0) == s.amin(0)) for s in stacked]).numpy()


def test_median_is_exact_to_its_cell() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(5, 20001)).cumsum(0)
    report = probe_series(values, [0, 1, 2, 3, 4], min_change=0.0)
    r2, _ = series_r2(values, [0, 1, 2, 3, 4])
    assert report["unfiltered"]["r2_median"] == pytest.approx(np.median(r2), abs=1e-4)


@pytest.mark.parametrize("offset", [0.0, 1.0, 1000.0])
@pytest.mark.parametrize("size", [1e-25, 1e-6, 1.0])
def test_r2_is_stable(offset: float, size: float) -> None:
    """A large common offset or a tiny movement must not cost digits (of what fp32 still holds)."""
    rng = np.random.default_rng(1)
    steps = [100, 200, 300, 350, 1000]
    movement = (rng.normal(size=(5, 200)).cumsum(0) * size).astype(np.float32)
    values = (movement + np.float32(offset)).astype(np.float32)
    r2, constant = series_r2(values, steps)
    assert np.allclose(r2, reference(values, steps), atol=2e-5)
    assert constant.sum() == (values.max(0) == values.min(0)).sum()


def test_exact_lines_and_constants() -> None:
    steps = [0, 100, 250]
    x = np.array(steps, float)
    values = np.stack([3 - 0.5 * x, 0 * x + 7, x * 1e-3], axis=1)
    r2, constant = series_r2(values, steps)
    assert r2 == pytest.approx([1, 0, 1], abs=1e-6)
    assert constant.tolist() == [False, True, False]


@pytest.mark.parametrize(("min_change", "min_unique"), [(0.5, 2), (0.0, 4)])
def test_filter_edges(min_change: float, min_unique: int) -> None:
    """max-min must exceed min_change, not reach it; equal zeros of either sign are one value."""
    columns = [[0.0, 0.25, 0.5, 0.125], [0.0, -0.0, 0.25, 0.75]]
    values = np.array([columns[i % 2] for i in range(2500)], np.float32).T.copy()
    r2, flags = np.empty(2500, np.float32), np.empty(2500, np.uint8)
    weights = kernels.step_weights([0, 1, 2, 3])
    products = np.zeros(4), np.zeros((4, 4))
    kernels.linearity(values, False, weights, min_change, min_unique, r2, flags, *products)
    assert (flags & kernels.MOVING).all()
    kept = [False, True] if min_unique == 2 else [True, False]  # 4 distinct values, and 3
    assert ((flags & kernels.KEPT) > 0).tolist() == kept * 1250


def test_series_filter_is_last_minus_first() -> None:
    """There and back again is no change for a token."""
    values = np.array([[0.0, 0.0], [1.0, 0.2], [0.1, 0.4]])
    report = probe_series(values, [0, 5, 10], min_change=0.2)
    assert report["scalars_kept"] == 1
    assert [e["index"] for e in report["examples"]] == [1]
    assert report["examples"][0]["slope"] == pytest.approx(0.04)


def test_examples_are_fits_of_real_scalars(tmp_path: Path) -> None:
    root = write_run(tmp_path, run_tensors(STEPS), torch.float32)
    report = probe_weights(discover(root, None), 1e-4, 4)
    assert report["examples"]
    models = [load_model(root / f"global_step_{s}") for s in STEPS]
    for example in report["examples"]:
        values = [float(m[example["name"]].flatten()[example["index"]]) for m in models]
        assert example["values"] == values
        fit = stats.linregress(STEPS, values)
        assert example["slope"] == pytest.approx(fit.slope)
        assert example["intercept"] == pytest.approx(fit.intercept)
        assert example["r2"] == pytest.approx(fit.rvalue**2)


def test_too_few_and_not_finite(tmp_path: Path) -> None:
    run = run_tensors([0, 10, 20])
    root = write_run(tmp_path / "two", {s: run[s] for s in (0, 10)})
    with pytest.raises(PipelineError, match="at least 3"):
        probe_weights(discover(root, None))
    run[10]["model.norm.weight"][1] = float("inf")
    root = write_run(tmp_path / "three", run)
    with pytest.raises(PipelineError, match=r"global_step_10: tensor model\.norm\.weight: 1 of 8"):
        probe_weights(discover(root, None))
    with pytest.raises(PipelineError, match="1 values of the series"):
        probe_series(np.array([[0.0], [np.nan], [1.0]]), [0, 1, 2], 0.1)


def test_same_inputs_same_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads finish in any order; would catch floating-point sums that follow that order."""
    monkeypatch.setattr(stream, "PIECE", 7)
    trajectory = discover(write_run(tmp_path, run_tensors(STEPS), torch.float32), None)
    assert probe_weights(trajectory) == probe_weights(trajectory)
