"""Whole models by every method: would catch a delta of the wrong checkpoint or a lost rule."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from pipeline.errors import PipelineError
from pipeline.trajectory import plan, stream, writer
from pipeline.trajectory.coefficients import METHODS
from pipeline.trajectory.combine import write
from pipeline.trajectory.plan import make_plan
from pipeline.trajectory.rule import make_rule
from pipeline.trajectory.sources import discover
from tests.trajectory.pico import load_model, run_tensors, write_run

STEPS = [0, 20, 50, 60, 100]
LAST = 60  # step 100 must not be used


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run in fp32, read in pieces that divide no tensor evenly, written in several shards."""
    monkeypatch.setattr(stream, "PIECE", 29)
    monkeypatch.setattr(plan, "plan_shards", lambda t: writer.plan_shards(t, limit=2000))
    return write_run(tmp_path / "run", run_tensors(STEPS), torch.float32)


def series(root: Path, used: list[int]) -> dict[str, np.ndarray]:
    """theta [K, n] in fp64 by tensor."""
    models = [load_model(root / f"global_step_{s}") for s in used]
    return {n: np.stack([m[n].double().flatten().numpy() for m in models]) for n in models[0]}


def run(root: Path, method: str, **options: Any) -> dict[str, np.ndarray]:
    out = {t: root.parent / f"out/step_{t}" for t in (90, 200)}
    write(
        make_plan(
            discover(root, None), make_rule(method, options), 0, LAST, [90, 200], dtype="float32"
        ),
        out,
    )
    return {n: v.double().flatten().numpy() for n, v in load_model(out[200]).items()}


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_against_fp64(root: Path, method: str) -> None:
    rule = METHODS[method]
    used = [0, LAST] if rule.uses == "ends" else STEPS[:4]
    result = run(root, method)
    for name, theta in series(root, used).items():
        d = theta - theta[0]
        c = make_rule(method).coefficients(used, name, d @ d.T, 200)
        assert np.allclose(result[name], theta[0] + c @ d, rtol=0, atol=3e-7), name
    record = json.loads((root.parent / "out/step_200/extrapolation.json").read_text())
    assert record["steps"] == used
    for row in record["tensors"]:
        theta = series(root, used)[row["name"]]
        moved = np.linalg.norm(theta[-1] - theta[0]) / np.linalg.norm(theta[0])
        assert row["relative_movement"] == pytest.approx(moved, rel=1e-5)
    assert (record["coefficients"] is None) == rule.needs_gram


def test_rank1_is_the_direct_svd_of_each_tensor(root: Path) -> None:
    result = run(root, "rank1")
    used = STEPS[:4]
    for name, theta in series(root, used).items():
        d = theta[1:] - theta[0]
        u, s, vt = np.linalg.svd(d, full_matrices=False)
        line = np.polyfit(used[1:], s[0] * u[:, 0], 1)
        assert np.allclose(result[name], theta[0] + np.polyval(line, 200) * vt[0], atol=3e-7)


def test_gate_by_scalar_uses_each_scalars_r2(root: Path) -> None:
    result = run(root, "gated", by="scalar", line="least_squares")
    used = STEPS[:4]
    for name, theta in series(root, used).items():
        for i, column in enumerate(theta.T[:20]):
            fit = stats.linregress(used, column)
            step = fit.intercept + fit.slope * 200 - column[-1]
            expected = column[-1] + fit.rvalue**2 * step
            assert result[name][i] == pytest.approx(expected, abs=1e-6)


def test_damping_and_alpha_by_tensor(root: Path) -> None:
    rules = {"*embed*": 1.0, "*mlp*": 2.0}
    result = run(root, "two_point", damping=0.5, alpha_by_tensor=rules)
    for name, theta in series(root, [0, LAST]).items():
        alpha = 1.0 if "embed" in name else 2.0 if "mlp" in name else 200 / LAST
        expected = theta[1] + 0.5 * (alpha - 1) * (theta[1] - theta[0])
        assert np.allclose(result[name], expected, atol=3e-7), name
    record = json.loads((root.parent / "out/step_200/extrapolation.json").read_text())
    assert record["coefficients"] is None
    rows = {row["name"]: row["coefficients"] for row in record["tensors"]}
    assert rows["model.embed_tokens.weight"] == [0.0, 1.0]


@pytest.mark.parametrize(("method", "options"), [("two_point", {"damping": 0.1}), ("gated", {})])
def test_a_shortened_step_needs_a_target_beyond(
    root: Path, method: str, options: dict[str, Any]
) -> None:
    out = {40: root.parent / "out"}
    with pytest.raises(PipelineError, match=r"40 is before extrapolation\.last=60"):
        write(
            make_plan(
                discover(root, None), make_rule(method, options), 0, LAST, [40], dtype="same"
            ),
            out,
        )


def test_last_is_the_last_checkpoint_to_the_bit(root: Path) -> None:
    out = root.parent / "last"
    write(
        make_plan(discover(root, None), make_rule("last"), 0, LAST, [90], dtype="same"), {90: out}
    )
    last = load_model(root / f"global_step_{LAST}")
    assert all(torch.equal(v, last[n]) for n, v in load_model(out).items())


@pytest.mark.parametrize(
    ("method", "options", "word"),
    [
        ("two_point", {"alpha_by_tensor": {"*nothing*": 1.0}}, "matches no tensor"),
        ("two_point", {"rank": 2}, "rank: two_point takes damping, max_norm, alpha_by_tensor"),
        ("rank1", {"ranks": 2}, "rank1 takes rank, with_start"),
    ],
)
def test_bad_options(root: Path, method: str, options: dict[str, Any], word: str) -> None:
    with pytest.raises(PipelineError, match=word):
        run(root, method, **options)
