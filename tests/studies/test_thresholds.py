"""Faults caught: a rule that has seen what it is tested on, a cut on the wrong side, an interval
that treats the points of one run as independent."""

from __future__ import annotations

import numpy as np

from studies.thresholds import balanced, fit, judged, left_out


def test_one_threshold_is_found_with_its_side() -> None:
    values = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    table = {"noise": np.array([3.0, 1.0, 2.0, 1.0, 2.0, 3.0]), "reach": values}
    above = fit(table, values > 0.35, 1)
    assert str(above) == "reach > 0.35"
    below = fit(table, values < 0.15, 1)
    assert str(below) == "reach <= 0.15"
    assert below.says(table).tolist() == (values < 0.15).tolist()


def test_two_thresholds_where_one_is_not_enough_and_one_where_it_is() -> None:
    a, b = (np.ravel(grid) for grid in np.meshgrid(np.arange(4.0), np.arange(4.0)))
    table = {"a": a, "b": b}
    truth = (a > 1) & (b > 1)
    assert str(fit(table, truth, 2)) == "a > 1.5 and b > 1.5"
    assert str(fit(table, a > 1, 2)) == "a > 1.5"


def test_pairs_are_scored_as_by_trying_each() -> None:
    rng = np.random.default_rng(3)
    table = {key: rng.normal(size=40) for key in "abc"}
    truth = rng.random(40) < 0.3
    score = balanced(fit(table, truth, 2).says(table), truth)
    cuts = {key: np.sort(values) for key, values in table.items()}
    sides = [
        (key, table[key] > cut if above else table[key] <= cut)
        for key in table
        for cut in (cuts[key][1:] + cuts[key][:-1]) / 2
        for above in (True, False)
    ]
    best = max(balanced(x & y, truth) for k, x in sides for j, y in sides if k != j)
    assert best - 0.1 < score <= best + 1e-12  # of fewer cuts, but of the same measure


def test_balanced_is_the_mean_of_both_shares() -> None:
    truth = np.array([True, True, False, False, False, False])
    said = np.array([True, False, False, False, False, True])
    assert balanced(said, truth) == (0.5 + 0.75) / 2
    assert balanced(said, np.ones(6, bool)) == 2 / 6


def test_a_group_is_judged_by_rules_that_have_not_seen_it() -> None:
    """Each group's points have a value of its own: whoever has seen a group can tell its outcome,
    who has not cannot."""
    groups = [str(i // 4) for i in range(24)]
    values = np.repeat([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 4)
    truth = np.repeat([True, False, True, False, True, False], 4)
    said = left_out({"x": values}, truth, groups, 1)
    assert balanced(said, truth) <= 0.5


def test_the_interval_is_over_groups() -> None:
    """Of two groups one is hit and one missed, whatever their number of points."""
    truth, said = np.zeros(200, bool), np.repeat([False, True], 100)
    found = judged(said, truth, ["a"] * 100 + ["b"] * 100)
    assert found["hit_rate"] == 0.5
    assert found["hit_rate_ci95"] == [0.0, 1.0]
    assert found["always_the_same"] == 1.0
    assert found["right_of_yes_said"] == 0.0
    assert found["found_of_yes"] is None
