"""Faults caught: a loss or a tie sold as a gain, wrong units or signs, numbers rounded to nonsense.

Texts are compared with plain spaces: no-break spaces are a matter of typesetting.
"""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.report import judgement, words

from .synthetic import scores


def plain(text: str) -> str:
    return text.replace("\u00a0", " ").replace("\u202f", " ")


def verdict_of(kind: str, gains: dict[str, float]) -> judgement.Verdict:
    (found,) = [v for v in judgement.verdicts(scores(gains)) if v.kind == kind]
    return found


def test_a_gain_is_told_with_both_scores_and_the_paired_difference() -> None:
    found = verdict_of("logit", {"weight": 0.0, "logit": 0.026})
    assert found.outcome == "better"
    assert plain(found.text) == (
        "Logit extrapolation at α = 1.5 reached 34.9 % [32.2, 37.5] on the test problems of "
        "arithmetic, against 32.3 % [29.6, 34.9] for the last RL checkpoint (step 100): "
        "+2.6 points [0.6, 4.6]. Under the sharpening control, each at the temperature that "
        "validation prefers (greedy decoding here, T = 0.6 for rl-100) it is "
        "+2.6 points [0.6, 4.6]: a gain."
    )


def test_a_loss_is_called_a_loss() -> None:
    found = verdict_of("weight", {"weight": -0.05, "logit": 0.0})
    assert found.outcome == "worse"
    assert "−5.0 points [−7.0, −3.0]. The interval excludes zero: a loss." in plain(found.text)


@pytest.mark.parametrize("gain", [0.019, -0.019, 0.0])
def test_within_noise_no_difference_is_claimed_whichever_way_it_points(gain: float) -> None:
    found = verdict_of("logit", {"weight": 0.0, "logit": gain})
    assert found.outcome == "unclear"
    assert "The interval includes zero: no difference is shown." in found.text
    assert "a gain" not in found.text


def test_alpha_one_is_not_sold_as_extrapolation() -> None:
    data = scores({"weight": 0.0, "logit": 0.0})
    data["chosen"]["logit"] = {"model": "logit-1"}
    for row in data["rows"]:
        row["chosen"] = row["model"] in {"logit-1", "two_point-120"}
    (found,) = [v for v in judgement.verdicts(data) if v.kind == "logit"]
    assert found.text.endswith("α = 1 extrapolates nothing: on validation no larger α did better.")


def test_steps_saved_are_mentioned_only_if_rl_continued() -> None:
    data = scores({"weight": 0.0, "logit": 0.03})
    assert (
        judgement.continued(data, 60)
        == "Extrapolation has seen the first 60 of the 100 RL steps only."
    )
    assert judgement.continued(data, 100) == ""
    assert judgement.continued(data, None) == ""


def test_the_gain_over_the_start_stands_apart_from_the_gain_over_the_run() -> None:
    """Beating the checkpoint it started from must not read as beating the RL that went on."""
    data = scores({"weight": 0.0, "logit": 0.03})
    for row in data["rows"]:
        row["diff_to_start"] = {"diff": 0.08, "ci95": [0.06, 0.1], "p": 0.001}
    assert all("last checkpoint it has seen" not in v.text for v in judgement.verdicts(data))
    data["start"] = "rl-60"
    for found in judgement.verdicts(data):
        assert "for the last RL checkpoint (step 100)" in found.text
        assert "Against rl-60, the last checkpoint it has seen: +8.0" in plain(found.text)


def test_without_the_last_rl_checkpoint_nothing_is_compared() -> None:
    data = scores({"weight": 0.0, "logit": 0.03})
    data["rows"] = [
        {**row, "diff_to_last_rl": None} for row in data["rows"] if row["model"] != "rl-100"
    ]
    for found in judgement.verdicts(data):
        assert found.outcome == "unknown"
        assert "the last RL checkpoint was not evaluated there" in found.text


def test_headline_names_each_kind_with_its_own_outcome() -> None:
    found = judgement.verdicts(scores({"weight": -0.05, "logit": 0.03}))
    assert judgement.headline(found) == (
        "Logit extrapolation beat the last RL checkpoint; "
        "weight extrapolation fell short of the last RL checkpoint"
    )
    found = judgement.verdicts(scores({"weight": 0.0, "logit": 0.0}))
    assert judgement.headline(found) == (
        "Logit and weight extrapolation both showed no difference from the last RL checkpoint"
    )
    assert judgement.headline([]) == "No extrapolation has been judged on test problems yet"


@pytest.mark.parametrize(
    ("outcomes", "text"),
    [
        (
            ["better", "worse", "unclear"],
            "beat the last RL checkpoint on 1 of 3 tasks, fell short on 1, "
            "showed no difference on 1",
        ),
        (
            ["unclear", "worse"],
            "beat the last RL checkpoint on none of 2 tasks, fell short on 1, "
            "showed no difference on 1",
        ),
        (["worse", "worse"], "fell short of the last RL checkpoint on all 2 tasks"),
    ],
)
def test_headline_over_several_tasks_hides_no_loss(
    outcomes: list[judgement.Outcome], text: str
) -> None:
    found = [judgement.Verdict("logit", str(i), o, "") for i, o in enumerate(outcomes)]
    assert judgement.headline(found) == f"Logit extrapolation {text}"


def test_only_what_validation_chose_is_judged() -> None:
    data = scores({"weight": 0.0, "logit": 0.03})
    assert [row["model"] for row in words.chosen_rows(data, "test")] == [
        "logit-1.5",
        "two_point-120",
    ]
    unchosen = {**data, "chosen": {}, "rows": [{**r, "chosen": False} for r in data["rows"]]}
    assert judgement.verdicts(unchosen) == []


def test_a_choice_without_validation_scores_is_said_to_be_unproven() -> None:
    data = scores({"weight": 0.0, "logit": 0.03})
    row = words.chosen_rows(data, "test")[0]
    assert "best on validation (36.5 %" in plain(words.choice(data, row))
    data["rows"] = [r for r in data["rows"] if r["split"] == "test"]
    assert "no validation score" in words.choice(data, row)


@pytest.mark.parametrize(("seen", "kept"), [(0.30, False), (0.365, True), (0.50, True)])
def test_a_choice_that_is_no_better_than_what_was_seen_says_so(seen: float, kept: bool) -> None:
    """Would catch a chosen horizon that reads as a gain where validation prefers none."""
    data = scores({"weight": 0.0, "logit": 0.03})
    row = words.chosen_rows(data, "test")[0]
    (mine,) = (r for r in data["rows"] if r["split"] == "validation" and r["model"] == row["model"])
    before = {**mine, "model": "rl-60", "kind": "rl", "step": 60, "avg@k": seen}
    data = {**data, "start": "rl-60", "rows": [*data["rows"], before]}
    text = plain(words.choice(data, row))
    assert (f"rl-60, the last checkpoint seen, has {100 * seen:.1f} % there" in text) == kept


@pytest.mark.parametrize(
    ("difference", "text"),
    [
        ({"diff": 0.026, "ci95": [0.004, 0.048]}, "+2.6 points [0.4, 4.8]"),
        ({"diff": -0.031, "ci95": [-0.05, -0.012]}, "−3.1 points [−5.0, −1.2]"),
        ({"diff": 0.02, "ci95": [0.0002, 0.04]}, "+2.00 points [0.02, 4.00]"),
        ({"diff": 0.0, "ci95": [0.0, 0.0]}, "0.0 points [0.0, 0.0]"),
        ({"diff": -0.00001, "ci95": [-0.02, 0.02]}, "0.0 points [−2.0, 2.0]"),
    ],
)
def test_differences_keep_their_sign_and_enough_digits(
    difference: dict[str, Any], text: str
) -> None:
    assert plain(words.gap(difference)) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (950, "950 weights"),
        (31_000, "31 000 weights"),
        (999_999, "1 million weights"),
        (1_048_576, "1.05 million weights"),
        (1_780_000_000, "1.78 billion weights"),
    ],
)
def test_counts(value: int, text: str) -> None:
    assert plain(words.count(value, "weights")) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.42, "0.4 s"), (59.99, "1 min 00 s"), (192, "3 min 12 s"), (7530, "2 h 06 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text


def probe(**changes: Any) -> dict[str, Any]:
    return {
        "scalars_total": 1000,
        "scalars_kept": 250,
        "r2_mean": 0.7,
        "r2_median": 0.81,
        "r2_share_above_0.7": 0.6,
        "unfiltered": {"r2_mean": 0.4, "r2_median": 0.33, "r2_share_above_0.7": 0.2},
        **changes,
    }


def test_linearity_always_shows_what_was_dropped_and_the_unfiltered_figure() -> None:
    assert plain(words.linearity(probe(), "weights")) == (
        "Median R² is 0.81 (mean 0.70) over the 250 weights that pass the filter; 60.0 % of them "
        "lie above 0.7. The filter dropped 75.0 % of 1 000, which raises R²: without it the "
        "median is 0.33 and 20.0 % lie above 0.7."
    )


def test_scalars_that_never_move_are_named() -> None:
    rest = {"r2_mean": 0.4, "r2_median": 0.33, "r2_share_above_0.7": 0.2, "constant": 100}
    text = plain(words.linearity(probe(unfiltered=rest), "weights"))
    assert text.endswith("20.0 % lie above 0.7 (the 10.0 % that never move count as 0).")


def test_linearity_of_nothing() -> None:
    empty = probe(scalars_kept=0, r2_mean=None, r2_median=None, **{"r2_share_above_0.7": None})
    assert plain(words.linearity(empty, "weights")) == (
        "None of the 1 000 weights passed the filter. Without it the median is 0.33 "
        "and 20.0 % lie above 0.7."
    )
    few = {**empty, "steps": [0, 40, 80], "filters": {"min_change": 1e-4, "min_unique": 4}}
    assert "since it asks for 4 distinct values and there are 3 checkpoints." in words.linearity(
        few, "weights"
    )
    empty["unfiltered"] = {"r2_mean": None, "r2_median": None, "r2_share_above_0.7": None}
    assert words.linearity(empty, "weights").endswith("Without it there is no R² either.")
