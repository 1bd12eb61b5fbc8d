"""Faults caught: a horizon that is chosen on test, a difference of other seeds, an outcome that is
called a collapse though the interval says nothing."""

from __future__ import annotations

from typing import Any

import pytest

from studies.horizon import Rows, asked, choice, curve, indexed
from studies.jobs import over_seeds
from studies.linearity import summary
from studies.rule import outcome

Scores = dict[str, tuple[float, float]]  # model: validation, test


def rows(scores: Scores) -> Rows:
    return indexed(
        [
            {"model": model, "split": split, "temperature": 0.0, "avg@k": value, **PAIRED}
            for model, pair in scores.items()
            for split, value in zip(("validation", "test"), pair, strict=True)
        ]
    )


PAIRED = {"ci95": [0.0, 1.0], "against_seen": {"diff": 0.1}, "against_rival": {"diff": -0.1}}
REAL: Scores = {"rl-120": (0.4, 0.4), "rl-240": (0.9, 0.9)}


def test_the_horizon_is_chosen_on_validation_and_reported_on_test() -> None:
    found = [
        rows({**REAL, "m 160": (0.6, 0.5), "m 240": (0.5, 0.8)}),
        rows({**REAL, "m 160": (0.5, 0.6), "m 240": (0.6, 0.7)}),
    ]
    made = choice(found, {"160": "m 160", "240": "m 240"}, 0.0)
    assert made["chosen"] == ["160", "240"]
    assert made["best on test"] == ["240", "240"]
    assert made["score"]["values"] == [0.5, 0.7]
    assert made["over problems"] == [PAIRED, PAIRED]
    assert made["minus best"]["values"] == pytest.approx([-0.3, 0.0])
    assert made["minus rl-120"]["values"] == pytest.approx([0.1, 0.3])
    assert made["minus rl-240"]["values"] == pytest.approx([-0.4, -0.2])
    assert curve(found, {"160": "m 160"}, 0.0)["160"]["mean"] == pytest.approx(0.55)


def test_the_interval_over_seeds_is_students() -> None:
    found = over_seeds([1.0, 2.0, 3.0])  # by hand: t = 4.303 at 2 degrees, deviation 1
    assert found["mean"] == 2.0
    assert found["ci95"] == pytest.approx([2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5], abs=1e-3)
    assert "ci95" not in over_seeds([1.0])


def test_every_prediction_has_a_name_of_its_own() -> None:
    names = [one.name for each in asked().values() for one in each]
    assert len(set(names)) == len(names)


def test_a_collapse_is_a_loss_of_more_than_half() -> None:
    def predicted(value: float, low: float, high: float) -> dict[str, Any]:
        rest = {"entropy": 0.1, "extraction_failures": 0, "truncated_share": 0.0}
        return {"avg@k": value, "against_seen": {"ci95": [low, high]}, **rest}

    seen = {"avg@k": 0.4, "entropy": 0.2}
    kinds = ("gains", "loses", "collapses")
    told = [
        tuple(outcome(seen, predicted(*each))[kind] for kind in kinds)
        for each in ((0.5, 0.01, 0.2), (0.45, -0.01, 0.1), (0.3, -0.2, -0.01), (0.1, -0.4, -0.2))
    ]
    assert told == [
        (True, False, False),
        (False, False, False),
        (False, True, False),
        (False, True, True),
    ]


def test_seeds_are_compared_with_themselves() -> None:
    def run(value: float) -> dict[str, dict[str, float]]:
        figures = {"r2_median": value, "r2_median_unfiltered": value / 2}
        return {"fp32": figures, "bf16": figures}

    found = summary({"RL": [run(0.8), run(0.6)], "SFT": [run(0.5), run(0.4)], "one": [run(0.1)]})
    assert found["SFT"]["RL minus this"]["fp32 r2_median"]["values"] == pytest.approx([0.3, 0.2])
    assert "RL minus this" not in found["one"]
