"""A run whose snapshots are deltas, through every stage that reads checkpoints."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.artifacts import read_json, read_jsonl
from tests.conftest import PICO, run_pipeline

STAGES = "stages=[rl_train,snapshot,linear_probe,weight_extrap,logit_extrap,evaluate]"


def test_deltas_give_what_whole_snapshots_give(pico_run: Path, tmp_path: Path) -> None:
    """Would catch an engine that is given the base in place of base + delta, or a stage that needs
    whole folders: the samples of all models are those of the same run with fp32 snapshots."""
    run_dir = tmp_path / "run"
    shutil.copytree(pico_run / "sft_train", run_dir / "sft_train")
    arguments = [*PICO, f"run.dir={run_dir}", "rl_train.snapshot_dtype=delta_float32"]
    done = run_pipeline(*arguments, STAGES)
    assert done.returncode == 0, done.stderr
    recorded = read_json(run_dir / "snapshot" / "trajectory.json")
    assert [c["layout"] for c in recorded["checkpoints"]] == ["safetensors", *["delta"] * 6]
    for name in ("weights", "logprobs", "activations"):
        ours, whole = (read_json(d / "linear_probe" / f"{name}.json") for d in (run_dir, pico_run))
        assert ours["r2_median"] == pytest.approx(whole["r2_median"], abs=0.01), name
    assert _texts(run_dir) == _texts(pico_run)
    for stage in ("weight_extrap", "evaluate"):
        shutil.rmtree(run_dir / stage)
    recipes = run_pipeline(
        *arguments, "weight_extrap.write=false", "stages=[weight_extrap,evaluate]"
    )
    assert recipes.returncode == 0, recipes.stderr
    assert not list((run_dir / "weight_extrap").rglob("*.safetensors"))
    assert _texts(run_dir) == _texts(pico_run)


def _texts(run_dir: Path) -> dict[str, set[tuple[str, ...]]]:
    found: dict[str, set[tuple[str, ...]]] = {}
    for row in read_jsonl(run_dir / "evaluate" / "generations.jsonl"):
        keys = ("split", "problem_id", "sample", "text")
        found.setdefault(row["model"], set()).add(tuple(str(row[key]) for key in keys))
    return found
