"""Faults caught: a model that a lower temperature makes as good sold as a gain, and a model that is
better at every temperature not called one.

The worlds are exact: a model is, for each problem, scores of four possible answers, and sampling at
a temperature is softmax(scores / T). What the page says of them is read back from its words.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.artifacts import write_json
from pipeline.evaluation.controls import control_scores
from pipeline.evaluation.metrics import score_groups
from pipeline.evaluation.selection import choose
from pipeline.evaluation.tally import Tally
from pipeline.report import judgement
from pipeline.report.page import write_page

from .drawing import undrawn
from .synthetic import write_run

PROBLEMS, SAMPLES = 400, 8
STEPS = {"base": 0, "rl-60": 60, "rl-100": 100}
Logits = np.ndarray  # [problems, answers]; answer 0 is right


def model_logits(sharpness: float, solved: float) -> Logits:
    """A model that ranks the right answer first in a share `solved` of the problems."""
    rng = np.random.default_rng(3)
    logits = rng.standard_normal((PROBLEMS, 4))
    order = rng.permutation(PROBLEMS) < solved * PROBLEMS
    best = logits.argmax(axis=1)
    swap = np.where(order, 0, 1 + rng.integers(0, 3, PROBLEMS))
    rows = np.arange(PROBLEMS)
    logits[rows, best], logits[rows, swap] = logits[rows, swap], logits[rows, best]
    return sharpness * logits


def groups_of(models: Mapping[str, Logits], temperature: float) -> dict[Any, Tally]:
    groups: dict[Any, Tally] = {}
    for number, (name, logits) in enumerate(models.items()):
        kind = "base" if name == "base" else name.split("-")[0].replace("two_point", "weight")
        extra: dict[str, dict[str, Any]] = {
            "weight": {"method": "two_point", "step": 120},
            "logit": {"alpha": 3.0},
        }
        first: dict[str, Any] = {
            "model": name,
            "kind": kind,
            **extra.get(kind, {"step": STEPS.get(name, 0)}),
        }
        for split, half in (("validation", range(200)), ("test", range(200, PROBLEMS))):
            rng = np.random.default_rng([number, int(100 * temperature), len(split)])
            tally = Tally(
                {**first, "task": "world", "split": split}, defaultdict(list), defaultdict(list), []
            )
            for problem in half:
                n = SAMPLES if temperature else 1
                if temperature:
                    weights = np.exp(logits[problem] / temperature)
                    drawn = rng.choice(4, n, p=weights / weights.sum())
                else:
                    drawn = np.array([logits[problem].argmax()])
                tally.correct[str(problem)] = [bool(answer == 0) for answer in drawn]
                tally.predictions[str(problem)] = [str(answer) for answer in drawn]
                tally.answers[str(problem)] = [str(answer) for answer in drawn]
                tally.tokens += [5] * n
            groups[name, "world", split] = tally
    return groups


@cache
def world(sharpness: float, solved: float) -> dict[str, Any]:
    """scores.json of a run in which RL has only sharpened the base, and one prediction."""
    prediction = model_logits(sharpness, solved)
    models = {
        "base": model_logits(1.0, 0.6),
        "rl-60": model_logits(1.4, 0.6),
        "rl-100": model_logits(1.8, 0.6),
        "logit-3": prediction,
    }
    groups = {t: groups_of(models, t) for t in (0.0, 0.3, 0.6, 1.0)}
    rows = score_groups(groups[1.0], last_rl="rl-100", start="rl-60", resamples=500)
    chosen = choose(rows)
    for row in rows:
        row |= {"temperature": 1.0, "chosen": row["model"] == "logit-3"}
    controls = control_scores(groups, ["base", "rl-60", "rl-100"], ["logit-3"], resamples=500)
    scores = {"last_rl": "rl-100", "start": "rl-60", "chosen": chosen, "rows": rows}
    return scores | {"controls": controls}


def page_of(scores: dict[str, Any], folder: Path) -> str:
    run = write_run(folder)
    write_json(run / "evaluate" / "scores.json", scores)
    with undrawn():
        return write_page(run).read_text().replace("\u00a0", " ")


def test_a_sharpened_model_is_called_that(tmp_path: Path) -> None:
    """The world of a tiny demo: +20 points at T = 1 that greedy decoding of the base has, too."""
    scores = world(6.0, 0.6)
    (found,) = judgement.verdicts(scores)
    assert found.outcome == "sharpening"
    assert "This is sharpening, not a gain: each at the temperature that validation" in found.text
    assert judgement.headline([found]) == (
        "Logit extrapolation only sharpened, as a lower temperature does"
    )
    page = page_of(scores, tmp_path)
    verdict = page[page.index('<div class="verdict') : page.index("</div>")]
    assert "only sharpened" in verdict
    assert ">gain<" not in verdict
    assert "a gain." not in verdict
    assert judgement.summary(scores)["world/logit/outcome"] == "sharpening"


def test_a_model_that_is_better_at_every_temperature_is_a_gain(tmp_path: Path) -> None:
    scores = world(2.5, 0.8)
    (found,) = judgement.verdicts(scores)
    assert found.outcome == "better"
    page = page_of(scores, tmp_path)
    verdict = page[page.index('<div class="verdict') : page.index("</div>")]
    assert ">gain<" in verdict
    assert "Under the sharpening control, each at the temperature" in verdict
    (comparison,) = scores["controls"]["comparisons"]
    assert comparison["diff"] == pytest.approx(0.2, abs=0.08)
    assert judgement.summary(scores)["world/logit/controlled_difference"] == comparison["diff"]


def test_a_sharpened_model_that_is_worse_inside_loses(tmp_path: Path) -> None:
    """Sharper and yet less often right: the control's difference is below zero and is told."""
    scores = world(9.0, 0.5)
    (found,) = judgement.verdicts(scores)
    assert found.outcome == "sharpening"
    assert scores["controls"]["comparisons"][0]["ci95"][1] < 0
    assert "points [−" in found.text.replace("\u00a0", " ")


def test_without_controls_nothing_is_called_a_gain() -> None:
    scores = {key: value for key, value in world(6.0, 0.6).items() if key != "controls"}
    (found,) = judgement.verdicts(scores)
    assert found.outcome == "uncontrolled"
    assert "this may be sharpening" in found.text


def test_temperatures_are_chosen_on_validation_alone() -> None:
    """A temperature, or the model to beat, picked by its test score."""
    models = {"base": model_logits(1.0, 0.6), "rl-100": model_logits(1.8, 0.6)}
    groups = {t: groups_of(models, t) for t in (0.0, 1.0)}
    wanted = control_scores(groups, ["base", "rl-100"], [], resamples=10)["best"]
    for at in groups.values():
        for (_, _, split), tally in at.items():
            if split == "test":
                for samples in tally.correct.values():
                    samples[:] = [True] * len(samples)
    assert control_scores(groups, ["base", "rl-100"], [], resamples=10)["best"] == wanted
    assert wanted["base"]["temperature"] == 0.0
    validation = {t: {k: g for k, g in at.items() if k[2] == "test"} for t, at in groups.items()}
    assert control_scores(validation, ["base"], ["rl-100"], resamples=10)["best"] == {}
