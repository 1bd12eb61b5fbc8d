"""Faults caught: a step's failure that hides its success in another part, seeds that change places,
a study that had no time shown as one that found nothing, and sides that were not tuned alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import PipelineError
from studies.gpu import collected, predicted_table, reground_table
from studies.jobs import Curve
from tests.gpu.study import JUMPS, RATES, training, tries


def put(folder: Path, date: str, **steps: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    result = {"machine": {"device": "a GPU", "date": date}, "steps": steps}
    (folder / "results.json").write_text(json.dumps(result))


def row(model: str, value: float, temperature: float = 1.0, split: str = "test") -> dict[str, Any]:
    given = {"model": model, "avg@k": value, "temperature": temperature, "split": split}
    return {**given, "truncated_share": 0.25, "n_problems": 10}


def test_parts_are_put_together_and_what_ended_well_counts(tmp_path: Path) -> None:
    put(tmp_path / "b", "2026-01-01", pico={"state": "ok", "evaluate": 3})
    put(tmp_path / "a", "2026-01-02", pico={"state": "failed"}, zero2={"state": "failed"})
    with pytest.raises(PipelineError, match="study did not end"):
        collected(tmp_path)
    put(tmp_path / "s", "2026-01-03", study={"state": "ok"})
    for seed in (1, 0):
        rows = [row("rl-8", 0.5 + seed / 4), row("rl-8", 0.1, split="validation")]
        scores = {"rows": rows, "controls": {"rows": [row("rl-8", 0.9, 0.0)]}}
        path = tmp_path / "s" / f"predict-{seed}-evaluate-scores.json"
        path.write_text(json.dumps(scores))
    found = collected(tmp_path)
    assert found["steps"]["pico"] == {"state": "ok", "evaluate": 3}
    assert found["steps"]["zero2"] == {"state": "failed"}
    assert found["machine"]["date"] == "2026-01-03"
    assert predicted_table(found["scores"]).splitlines()[2] == (
        "| rl-8 | 50.0 | 75.0 | 62.5 [0.0, 100.0] | 25 |"
    )
    with pytest.raises(PipelineError, match=r"no results\.json"):
        collected(tmp_path / "nothing")


def test_steps_are_told_side_by_side_in_the_order_of_the_seeds() -> None:
    fast, slow = Curve([4, 8], [0.4, 0.8], [1, 2]), Curve([4, 8], [0.2, 0.4], [1, 2])
    lines = reground_table({"a, seed 0": slow, "a, seed 1": fast}).splitlines()
    assert lines[2] == "| a | - / 5.0 | - / 7.0 | - / 8.0 | - / - |"


def test_both_sides_have_as_many_tries() -> None:
    plain, jumping = tries(tiny=False).values()
    assert (len(plain), len(jumping)) == (len(RATES), len(JUMPS))
    assert len(plain) == len(jumping)
    assert not any("reground" in value for values in plain.values() for value in values)
    assert all(any("jump=" in value for value in values) for values in jumping.values())
    assert not any("algorithm.learning_rate" in value for value in training(tiny=False))
