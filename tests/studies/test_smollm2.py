"""Faults caught: sides that differ by more than the jumps, a row of another curve, a step to an
accuracy that was never reached."""

from __future__ import annotations

from studies.jobs import Curve
from studies.smollm2 import RATES, jobs, table


def test_both_sides_have_the_same_rates_and_differ_by_the_jumps_alone() -> None:
    plain, jumping = jobs().values()
    assert list(plain) == list(jumping) == list(RATES)
    for rate in RATES:
        assert set(jumping[rate].overrides) - set(plain[rate].overrides) == {
            "rl_train.reground.every=3",
            "rl_train.reground.jump=3",
        }
    assert len({job.name for side in (plain, jumping) for job in side.values()}) == 2 * len(RATES)


def test_a_row_says_where_each_accuracy_is_reached() -> None:
    slow = Curve([3, 6], [0.3, 0.45], [1.0, 2.0])
    fast = Curve([3, 6], [0.5, 0.7], [1.0, 2.0])
    lines = table({"plain RL": {"2e-5": fast, "1e-5": slow}}).splitlines()
    assert lines[2] == "| plain RL | 1e-5 | 30.0 | 45.0 | 5 | - | - |"
    assert lines[3] == "| plain RL | 2e-5 | 50.0 | 70.0 | 3 | 3 | 4.5 |"
