"""Models that exist as a recipe score exactly as the written ones."""

from __future__ import annotations

import shutil
from pathlib import Path

from pipeline.artifacts import read_json, read_jsonl
from tests.conftest import PICO, on_checkpoints, run_pipeline


def test_recipes_are_evaluated_like_written_models(pico_run: Path, tmp_path: Path) -> None:
    """Would catch weights in memory that differ from those on disk: the same samples come out."""
    run_dir = tmp_path / "run"
    for stage in ("sft_train", "rl_train", "snapshot"):
        shutil.copytree(pico_run / stage, run_dir / stage)
    done = run_pipeline(
        *PICO,
        f"run.dir={run_dir}",
        "weight_extrap.write=false",
        "stages=[snapshot,weight_extrap,evaluate]",
        f"snapshot.source={run_dir / 'rl_train' / 'snapshots'}",
        f"snapshot.base={run_dir / 'sft_train' / 'model'}",
        "evaluate.checkpoints=[4]",
    )
    assert done.returncode == 0, done.stderr
    for step in (5, 6):
        folder = run_dir / "weight_extrap" / "two_point" / f"step_{step}"
        assert [path.name for path in folder.iterdir()] == ["extrapolation.json"]
        assert read_json(folder / "extrapolation.json")["alpha"] == step / 4

    def texts(folder: Path) -> set[tuple[str, ...]]:
        rows = read_jsonl(folder / "evaluate" / "generations.jsonl")
        keys = ("model", "split", "problem_id", "sample", "text")
        return {tuple(str(r[k]) for k in keys) for r in rows if r["kind"] == "weight"}

    assert texts(run_dir) == texts(pico_run)


def test_weights_that_are_no_sum_of_checkpoints_are_refused(pico_run: Path, tmp_path: Path) -> None:
    """Would catch a recipe that stands for other weights than the method's, or a refusal that
    comes when the checkpoints have been read."""
    done = run_pipeline(
        *on_checkpoints(pico_run),
        "extrapolation=gated",
        "extrapolation.options.by=scalar",
        "weight_extrap.write=false",
        f"run.dir={tmp_path / 'run'}",
    )
    assert done.returncode == 1
    assert "extrapolation.options.by=scalar" in done.stderr
    assert not (tmp_path / "run").exists()
