"""Faults caught: a step or a summary that stands in metrics.jsonl twice, the values of the run that
was killed instead of those of the run that resumed, and rows that are lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts import append_jsonl, read_jsonl
from pipeline.metrics_file import MetricsFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of a run that was killed in step 5, in the middle of a line."""
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path)
    for step in (1, 2):
        file.add("sft_train", {"step": step, "loss": step})
    file.summarise("sft_train", {"seconds": 1})
    for step in (1, 2, 3, 4):
        file.add("rl_train", {"step": step, "reward": step / 10})
    with open(path, "a") as torn:
        torn.write('{"stage": "rl_tr')
    return path


def steps(path: Path, stage: str) -> list[tuple[Any, Any]]:
    rows = [row for row in read_jsonl(path) if row["stage"] == stage and "step" in row]
    return [(row["step"], row.get("reward", row.get("loss"))) for row in rows]


def test_a_resumed_run_replaces_the_steps_behind_its_checkpoint(path: Path) -> None:
    again = MetricsFile(path)
    assert again.last_step("rl_train") == 4
    for step in (3, 4, 5):
        assert again.add("rl_train", {"step": step, "reward": step / 100})
    assert steps(path, "rl_train") == [(1, 0.1), (2, 0.2), (3, 0.03), (4, 0.04), (5, 0.05)]
    assert steps(path, "sft_train") == [(1, 1), (2, 2)]


def test_steps_that_will_be_trained_again_are_gone_with_the_first_of_them(path: Path) -> None:
    """A run that is killed again just after it resumed: its file must not mix two runs."""
    MetricsFile(path).add("rl_train", {"step": 3, "reward": 0.9})
    assert steps(path, "rl_train") == [(1, 0.1), (2, 0.2), (3, 0.9)]


def test_a_row_that_is_handed_over_again_is_no_news(path: Path) -> None:
    """Ranks' rows come through their metrics file, the ones before the checkpoint too."""
    before = None
    file = MetricsFile(path)
    for step in (1, 2, 3, 4):
        assert not file.add("rl_train", {"step": step, "reward": step / 10})
        before = before or path.read_bytes()
    assert path.read_bytes() == before
    assert file.add("rl_train", {"step": 5, "reward": 0.5})


def test_a_stage_has_one_summary(path: Path) -> None:
    file = MetricsFile(path)
    assert not file.summarise("sft_train", {"seconds": 1})
    assert file.summarise("sft_train", {"seconds": 2})
    rows = [row for row in read_jsonl(path) if "summary" in row]
    assert [(row["stage"], row["summary"]) for row in rows] == [("sft_train", {"seconds": 2})]
    assert len(steps(path, "sft_train")) == 2


def test_a_stage_that_starts_anew_has_no_rows_of_the_one_set_aside(path: Path) -> None:
    file = MetricsFile(path)
    file.forget("rl_train")
    assert [row["stage"] for row in read_jsonl(path)] == ["sft_train"] * 3
    assert file.last_step("rl_train") == -1
    assert file.add("rl_train", {"step": 1, "reward": 0.7})
    assert steps(path, "rl_train") == [(1, 0.7)]


def test_rows_that_stand_there_twice_already_are_put_right(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = [{"stage": "rl_train", "step": step, "reward": reward} for step, reward in
            ((1, 1), (2, 2), (3, 3), (2, 20), (3, 30))]  # fmt: skip
    append_jsonl(path, [*rows, {"stage": "note"}, {"stage": "note"}])
    MetricsFile(path).add("rl_train", {"step": 4, "reward": 40})
    assert steps(path, "rl_train") == [(1, 1), (2, 20), (3, 30), (4, 40)]
    assert sum(row["stage"] == "note" for row in read_jsonl(path)) == 2
