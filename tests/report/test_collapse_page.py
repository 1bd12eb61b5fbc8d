"""Faults caught: a collapse that the page keeps to itself, and a choice without labels that it
confuses with the other.
"""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.report import collapse
from pipeline.report.html import Album
from pipeline.report.inputs import read_artefacts
from pipeline.report.judgement import verdicts
from pipeline.report.sections import file_names
from pipeline.report.tables import score_table

from .synthetic import write_run
from .test_page import load


def test_collapsed_models_are_said_with_their_signs(finished_run: Path) -> None:
    """Catches a collapse that the page keeps to itself, and one of a model that has none."""
    text = load(finished_run).text
    said = (
        "Collapsed on arithmetic, test: 83 % of responses hit the limit of tokens (0.2 % at rl-60)."
    )
    assert text.count(said) == 2
    assert (finished_run / "report" / "collapse_step.png").exists()
    assert (finished_run / "report" / "collapse_alpha.png").exists()


def test_a_collapsed_choice_is_in_the_verdict(tmp_path: Path) -> None:
    """Catches a verdict that recommends a model whose responses are cut in four of five cases."""
    run = write_run(tmp_path)
    path = run / "evaluate" / "scores.json"
    scores = json.loads(path.read_text())
    for row in scores["rows"]:
        if row["model"] == "two_point-120" and row["split"] == "validation":
            reasons = ["70 % of responses end in a loop (0 % at rl-60)"]
            row |= {"collapsed": True, "collapse": {"against": "rl-60", "reasons": reasons}}
    [said] = [v.text for v in verdicts(scores) if v.kind == "weight"]
    lost = "70\u00a0% of responses end in a loop (0\u00a0% at rl-60)"
    assert said.endswith(f" It has collapsed (arithmetic, validation): {lost}.")


def test_the_choice_without_labels_stands_beside_the_other(finished_run: Path) -> None:
    """Catches a regret or a test difference that is printed for another model."""
    text = load(finished_run).text
    assert (
        "weights, two_point to step 100, 33.9 % on validation; with labels weights, two_point to "
        "step 120, regret +0.4 points [−0.3, 1.1]. On test, arithmetic: −0.1 points [−1.0, 0.8] to "
        "that one. Rank correlation with accuracy 0.80 over 3 candidates. 1 left out for signs of "
        "collapse."
    ) in text


def test_scores_of_an_earlier_version_still_give_a_page(tmp_path: Path) -> None:
    """Catches a page that needs what earlier evaluations did not write."""
    run = write_run(tmp_path)
    path = run / "evaluate" / "scores.json"
    scores = json.loads(path.read_text())
    del scores["label_free"]
    for row in scores["rows"]:
        for key in ("collapsed", "collapse", "looping_share", "no_answer_share"):
            del row[key]
    path.write_text(json.dumps(scores))
    found = read_artefacts(run)
    assert not collapse.section(found, Album(tmp_path)).present
    assert not collapse.without_labels(found).present
    score_table(found)


def test_tasks_whose_names_are_alike_have_figures_of_their_own() -> None:
    """Catches a figure that overwrites that of a task whose name differs in a sign or in case."""
    assert file_names(["aime24", "aime24-a", "aime24_a", "AIME24"]) == [
        "aime24",
        "aime24_a",
        "aime24_a_",
        "AIME24_",
    ]
