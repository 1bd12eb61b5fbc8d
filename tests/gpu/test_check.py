"""The GPU check's driver, on any machine. Faults caught: a step that fails or hangs and takes the
rest of the lent time with it, a child that outlives its step, and logs of any length."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.gpu import check
from tests.gpu.bench import LOG_LINES, Bench, StepError
from tests.gpu.steps import STEPS


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    (tmp_path / "work").mkdir()
    return Bench(tmp_path / "work", True, tmp_path / "steps.log")


def gone(pid: int) -> bool:
    """Whether a child of ours that was waited for is no more."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_step_that_hangs_is_ended_and_told(bench: Bench) -> None:
    pids = []

    def hangs(bench: Bench) -> dict[str, Any]:
        process = bench.start("long", "-c", "import signal; signal.pause()")
        pids.append(process.pid)
        bench.deadline = time.monotonic() + 1
        bench.wait("long", process)
        return {}

    result = check.attempt(bench, hangs, 60)
    assert result["state"] == "failed"
    assert "long: out of time" in result["why"]
    assert gone(pids[0])


def test_a_command_that_fails_says_its_last_words(bench: Bench) -> None:
    code = f"print('\\n' * 5 + 'word\\n' * {2 * LOG_LINES}); raise SystemExit('the end')"

    def fails(bench: Bench) -> dict[str, Any]:
        bench.run("bad", "-c", code)
        return {}

    result = check.attempt(bench, fails, 60)
    assert (result["state"], result["why"].split()[-2:]) == ("failed", ["the", "end"])
    assert len(bench.log.read_text().splitlines()) == LOG_LINES + 1


def test_results_of_another_form_fail_the_step_alone(bench: Bench) -> None:
    def reads(bench: Bench) -> dict[str, Any]:
        return {"figure": json.loads("{}")["missing"]}

    result = check.attempt(bench, reads, 60)
    assert result["state"] == "failed"
    assert "missing" in result["why"]
    assert check.attempt(bench, reads, 2)["state"] == "no time"


def test_every_step_has_a_row_whatever_became_of_those_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bad(bench: Bench) -> dict[str, Any]:
        raise StepError("this | that")

    monkeypatch.setattr(check, "STEPS", {"one": (bad, 9), "two": (lambda bench: {"x": 0.5}, 9)})
    monkeypatch.setattr("sys.argv", ["check", "--out", str(tmp_path / "out")])
    assert check.main() == 1
    found = json.loads((tmp_path / "out/results.json").read_text())["steps"]
    assert {name: result["state"] for name, result in found.items()} == {
        "one": "failed",
        "two": "ok",
    }
    table = (tmp_path / "out/table.md").read_text().splitlines()
    assert all(line.count("|") == 5 for line in table[2:])


def test_the_steps_fit_the_time_of_a_lent_machine() -> None:
    """Each limit alone, and what is worth most before the rest."""
    assert list(STEPS) == ["pico", "zero2", "published", "weights", "mixture", "study"]
    assert sum(limit for _, limit in list(STEPS.values())[:3]) < 520
