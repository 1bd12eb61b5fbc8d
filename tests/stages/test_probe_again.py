"""linear_probe with other settings in the same run: would catch hours of scores that are thrown
away for a filter, scores of other models that are taken for these, and figures that nobody asked
for any more."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline import records
from pipeline.artifacts import read_json, read_jsonl, write_json
from pipeline.inference.hf.engine import HFEngine
from pipeline.stages import linear_probe
from pipeline.stages.base import Context
from pipeline.trajectory import linearity
from tests.stages.contexts import context_of

WRITTEN = ("weights.json", "logprobs.json", "activations.json")


@pytest.fixture
def run_dir(pico_run: Path, tmp_path: Path) -> Path:
    """A copy of the pico run as far as the probe reads and writes it."""
    for name in ("sft_train", "snapshot", "linear_probe"):
        shutil.copytree(pico_run / name, tmp_path / "run" / name)
    shutil.copy(pico_run / "config.yaml", tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with every checkpoint that is scored."""
    calls: list[int] = []
    score = HFEngine.score

    def count(engine: HFEngine, prompts: Any, responses: Any) -> list[list[float]]:
        calls.append(len(prompts))
        return score(engine, prompts, responses)

    monkeypatch.setattr(HFEngine, "score", count)
    return calls


def files(context: Context) -> dict[str, Any]:
    folder = context.stage_dir("linear_probe")
    return {name: read_json(folder / name) for name in WRITTEN if (folder / name).exists()}


def test_other_filters_score_nothing_anew(run_dir: Path, scored: list[int]) -> None:
    first = context_of(run_dir)
    before, drawn = files(first), read_jsonl(run_dir / "linear_probe" / "responses.jsonl")
    other = context_of(
        run_dir, linear_probe__min_logprob_change=0.001, linear_probe__activations=False
    )
    assert records.state(other, records.record(other, "linear_probe")) == "stale"
    linear_probe.run(other)
    assert scored == []
    assert read_jsonl(run_dir / "linear_probe" / "responses.jsonl") == drawn
    found = files(other)
    assert found.keys() == {"weights.json", "logprobs.json"}
    assert found["logprobs.json"]["scalars_kept"] > before["logprobs.json"]["scalars_kept"]
    assert found["weights.json"] == before["weights.json"]
    linear_probe.run(first)
    assert scored == []
    assert files(first) == before


def test_other_filters_of_log_probs_read_no_weights_again(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour of reading for a filter of something else; figures of other filters, of another
    path, or of a file that is broken, that are taken for these."""
    read: list[float] = []
    probe = linearity.probe_weights

    def count(trajectory: Any, min_change: float, min_unique: int) -> dict[str, Any]:
        read.append(min_change)
        return probe(trajectory, min_change, min_unique)

    monkeypatch.setattr(linearity, "probe_weights", count)
    short: dict[str, Any] = {"linear_probe__activations": False}
    before = files(context_of(run_dir))["weights.json"]
    for value in (0.001, 0.5):
        linear_probe.run(context_of(run_dir, linear_probe__min_logprob_change=value, **short))
    assert read == []
    assert files(context_of(run_dir))["weights.json"] == before
    linear_probe.run(context_of(run_dir, linear_probe__min_change=1e-3, **short))
    assert read == [1e-3]
    linear_probe.run(context_of(run_dir, linear_probe__min_unique=4, **short))
    assert len(read) == 2
    (run_dir / "linear_probe" / "weights.json").write_text('{"scalars_total": 1')
    linear_probe.run(context_of(run_dir, **short))
    assert len(read) == 3
    assert files(context_of(run_dir))["weights.json"] == before
    recorded = run_dir / "snapshot" / "trajectory.json"
    write_json(recorded, {**read_json(recorded), "virtual_steps": [0.0, 3.0, 4.0, 9.0]})
    linear_probe.run(context_of(run_dir, **short))
    assert len(read) == 4


def test_hours_of_scores_are_no_reason_to_refuse_another_filter(run_dir: Path) -> None:
    for name in ("done.json", "started.json"):
        path = run_dir / "linear_probe" / name
        write_json(path, read_json(path) | {"seconds": 9999.0, "since": 1.0})
    other = context_of(run_dir, linear_probe__min_change=1e-6)
    wanted = records.record(other, "linear_probe")
    assert records.check_loss(other, wanted, {}) == ["linear_probe.min_change: 1e-7 → 1e-6"]


def test_scores_of_other_models_are_made_anew(run_dir: Path, scored: list[int]) -> None:
    """Each checkpoint by itself: one whose weights have changed, then all in another dtype."""
    context = context_of(run_dir)
    path = run_dir / "snapshot" / "trajectory.json"
    trajectory = read_json(path)
    trajectory["checkpoints"][3]["files"][0]["sha256"] = "0" * 64
    write_json(path, trajectory)
    before = files(context)
    linear_probe.run(context)
    assert len(scored) == 1
    assert files(context) == before
    linear_probe.run(context_of(run_dir, model__dtype="bfloat16"))
    assert len(scored) == 1 + len(trajectory["steps"])
