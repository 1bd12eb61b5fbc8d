"""Linearity while training. Faults caught: figures of other weights, steps or moments than those of
the snapshots, and a resumed run that forgets where it came from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.artifacts import read_jsonl
from pipeline.training.live_probe import sampled
from pipeline.training.schema import RegroundConfig
from pipeline.training.worker import run
from pipeline.trajectory.linearity import probe_weights
from pipeline.trajectory.sources import discover
from tests.training.pico import assert_same, rl_spec

FIGURES = {  # ours: linear_probe's
    "relative_movement": lambda probe: probe["relative_movement"],
    "linear_r2": lambda probe: probe["linear_r2"],
    "rank1_share": lambda probe: probe["explained_variance"][0],
    "straightness": lambda probe: probe["straightness"],
    "last_cosine": lambda probe: probe["segment_cosines"][-1],
    "r2_median": lambda probe: probe["unfiltered"]["r2_median"],
    "r2_mean": lambda probe: probe["unfiltered"]["r2_mean"],
    "r2_share_above_0.7": lambda probe: probe["unfiltered"]["r2_share_above_0.7"],
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """A finished run of 6 steps with jumps, a snapshot each; read-only."""
    output = tmp_path_factory.mktemp("linearity")
    run(rl_spec(output, base, snapshot_every=1, reground=RegroundConfig(every=3, jump=1)))
    return output


def logged(output: Path) -> list[dict[str, float]]:
    return [
        {key.removeprefix("linearity_"): row[key] for key in row if key.startswith("linearity_")}
        for row in read_jsonl(output / "metrics.jsonl")
    ]


def test_figures_are_those_of_linear_probe(whole: Path, base: Path) -> None:
    """All weights of a small model: exact, at every length of the path; snapshots are fp32."""
    rows = logged(whole)
    trajectory = discover(whole / "snapshots", base)
    assert set(rows[0]) == {"relative_movement", "rank1_share", "seconds"}
    for last in (2, 4, 6):
        folders = {step: trajectory.checkpoints[step].folder for step in range(1, last + 1)}
        probe = probe_weights(discover(whole / "snapshots", base, folders))
        for name, told in FIGURES.items():
            assert rows[last - 1][name] == pytest.approx(told(probe), rel=1e-5), (last, name)


def test_a_resumed_run_goes_on_with_the_same_figures(
    whole: Path, base: Path, tmp_path: Path
) -> None:
    def stop(row: dict[str, object]) -> None:
        if row["step"] == 5:
            raise KeyboardInterrupt

    spec = rl_spec(tmp_path, base, snapshot_every=1, reground=RegroundConfig(every=3, jump=1))
    with pytest.raises(KeyboardInterrupt):
        run(spec, stop)
    run(spec)
    for ours, theirs in zip(logged(tmp_path), logged(whole), strict=True):
        assert {**ours, "seconds": 0} == {**theirs, "seconds": 0}


def test_a_sample_is_fixed_and_near(whole: Path, base: Path, tmp_path: Path) -> None:
    """And looking changes nothing."""
    spec = rl_spec(tmp_path, base, snapshot_every=1, reground=RegroundConfig(every=3, jump=1))
    spec.rl_train.linearity_scalars = 2000
    run(spec)
    assert_same(tmp_path / "snapshots/step_6", whole / "snapshots/step_6")
    ours, all_ = logged(tmp_path)[-1], logged(whole)[-1]
    for name in ("relative_movement", "linear_r2", "rank1_share", "r2_median"):
        assert ours[name] == pytest.approx(all_[name], rel=0.15), name
    model = torch.nn.Linear(100, 100)
    assert 900 < len(sampled(model, 1000, 0)) <= 1001
    assert torch.equal(sampled(model, 1000, 0), sampled(model, 1000, 0))
    assert not torch.equal(sampled(model, 1000, 0)[:50], sampled(model, 1000, 1)[:50])
    assert len(sampled(model, 20_000, 0)) == 10_100
