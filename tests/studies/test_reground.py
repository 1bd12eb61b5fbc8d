"""Faults caught: steps to an accuracy that are off by a measurement, seconds that count the
measuring or leave out the jumps, an interval of another distribution."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from pipeline.artifacts import append_jsonl
from studies.jobs import Curve, curve
from studies.reground import interval, jumps, plain, rank, summary


def test_a_curve_is_read_from_metrics(tmp_path: Path) -> None:
    rows = [{"step": step, "seconds": 2.0} for step in range(1, 5)]
    rows[1] |= {"validation_accuracy": 0.2, "validation_seconds": 50.0}
    rows[3] |= {"validation_accuracy": 0.6, "validation_seconds": 50.0}
    append_jsonl(tmp_path / "rl_train" / "metrics.jsonl", rows)
    found = curve(tmp_path)
    assert found == Curve([2, 4], [0.2, 0.6], [4.0, 8.0])
    assert found.first(0.1) == (2.0, 4.0)
    assert found.first(0.5) == pytest.approx((3.5, 7.0))
    assert found.first(0.7) is None


def test_who_never_arrives_is_tuned_away() -> None:
    slow, never = Curve([5, 10], [0.1, 0.9], [1, 2]), Curve([5, 10], [0.8, 0.85], [1, 2])
    assert rank(slow) < rank(never)


def test_the_interval_is_students() -> None:
    """Three seeds that need 2, 2.5 and 2 times fewer steps, by hand: t = 4.303 at 2 degrees."""
    logs = [math.log(2), math.log(2.5), math.log(2)]
    mean = sum(logs) / 3
    deviation = math.sqrt(sum((x - mean) ** 2 for x in logs) / 2)
    half = 4.303 * deviation / math.sqrt(3)
    wanted = [math.exp(mean), math.exp(mean - half), math.exp(mean + half)]
    assert interval(logs) == pytest.approx(wanted, abs=1e-3)


def test_ratios_compare_the_same_seed_and_need_all_of_them() -> None:
    def line(slope: float) -> Curve:
        return Curve([10, 20], [slope * 10, slope * 20], [10.0, 20.0])

    curves = {"plain": [line(0.025), line(0.05)], "jumps": [line(0.05), line(0.05)]}
    rows = {(row["side"], row["accuracy"]): row for row in summary(curves, "plain")}
    assert rows["jumps", 0.5]["steps"] == [10.0, 10.0]
    assert rows["plain", 0.5]["steps"] == [20.0, 10.0]
    assert rows["jumps", 0.5]["fewer_steps"][0] == pytest.approx(math.sqrt(2), abs=1e-3)
    assert rows["jumps", 0.8]["fewer_steps"] is None  # one plain seed never gets there


def test_both_sides_differ_by_the_jumps_alone() -> None:
    assert set(jumps("4e-5", 5, 15, 1).overrides) - set(plain("4e-5", 1).overrides) == {
        "rl_train.reground.every=5",
        "rl_train.reground.jump=15",
    }
