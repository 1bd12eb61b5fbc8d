"""Faults caught: a choice that looks at labels or test problems, one that a collapsed model wins,
and a judgement of it that flatters.
"""

from __future__ import annotations

import json
import math
import random
import statistics
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import spearmanr

from pipeline.artifacts import append_jsonl, iter_jsonl
from pipeline.evaluation.collapse import judge
from pipeline.evaluation.label_free import choices, spearman
from pipeline.evaluation.metrics import score_groups
from pipeline.evaluation.posing import Posed
from pipeline.evaluation.scoring import score, tally_draw
from pipeline.evaluation.selection import choose
from pipeline.evaluation.tally import Tally, tally
from pipeline.evaluation.voting import agreement
from pipeline.inference.interface import Sampling, sampling_hash
from pipeline.inference.parallel import Candidate, Draw
from pipeline.inference.run import PromptItem
from pipeline.tasks import Problem, TaskConfig
from tests.stages.contexts import context_of

PROBLEMS, K = 60, 4
SURE = {"base": 0.3, "rl-40": 0.4, "weight-50": 0.5, "weight-60": 0.7, "weight-70": 0.6}


def answered(
    certainty: dict[str, float], *, labels: bool = True, splits: tuple[str, ...] = ("validation",)
) -> dict[tuple[str, str, str], Tally]:
    """Models that give the right answer with their certainty, else one of many wrong ones.

    Args:
        labels: whether what is right is graded right; else all is graded wrong.
    """
    generations: list[dict[str, Any]] = []
    grades: list[dict[str, Any]] = []
    for model, sure in certainty.items():
        kind, _, step = model.partition("-")
        for split in splits:
            rng = random.Random(f"{model} {split}")
            for problem, sample in ((p, s) for p in range(PROBLEMS) for s in range(K)):
                right = rng.random() < abs(sure)
                prediction = str(problem) if right else f"wrong {rng.randrange(1000)}"
                if sure < 0:
                    prediction = "0"  # one answer to everything
                generations.append(
                    {
                        "model": model,
                        "kind": kind,
                        "step": int(step or 0),
                        "task": "sums",
                        "split": split,
                        "problem_id": str(problem),
                        "sample": sample,
                        "tokens": 10,
                        "finish_reason": "stop",
                        "logprob": -10 * (1 - abs(sure)),
                    }
                )
                correct = labels and right and sure > 0
                grades.append({"correct": correct, "status": "ok", "prediction": prediction})
    return tally(generations, grades)


def chosen_without(groups: dict[tuple[str, str, str], Tally]) -> dict[str, dict[str, Any]]:
    """As the stage puts it together."""
    rows = score_groups(groups, start="rl-40")
    judged = judge(groups, "rl-40")
    for row in rows:
        found = judged.get((row["model"], row["task"], row["split"]))
        row["collapsed"] = bool(found and found.reasons)
        row["collapse"] = found and asdict(found)
    return choices(groups, rows, choose(rows), resamples=500)


def test_the_surest_is_chosen_and_judged_by_the_labels() -> None:
    """Catches the wrong direction of a criterion, and a correlation of the wrong things."""
    found = chosen_without(answered(SURE))["weight"]
    for criterion in ("agreement", "entropy", "perplexity"):
        choice = found[criterion]
        assert (choice["model"], choice["labelled"]) == ("weight-60", "weight-60")
        assert choice["regret"] == {"diff": 0.0, "ci95": [0.0, 0.0]}
        assert choice["rank_correlation"] == 1.0
        assert (choice["candidates"], choice["left_out"]) == (3, 0)
    assert found["entropy"]["value"] == pytest.approx(0.3)
    assert found["perplexity"]["value"] == pytest.approx(math.exp(0.3), abs=5e-5)


def test_labels_do_not_change_the_choice() -> None:
    """Catches an answer that is merged, or a collapse that is told, by what is graded right."""
    with_them = chosen_without(answered(SURE))["weight"]
    without = chosen_without(answered(SURE, labels=False))["weight"]
    for criterion, choice in with_them.items():
        assert without[criterion]["model"] == choice["model"]
        assert without[criterion]["value"] == choice["value"]


def test_a_model_with_one_answer_for_everything_is_not_chosen() -> None:
    """Catches perfect agreement taken for quality."""
    found = chosen_without(answered(SURE | {"weight-900": -1.0}))["weight"]
    for choice in found.values():
        assert choice["model"] == "weight-60"
        assert (choice["candidates"], choice["left_out"]) == (3, 1)
    alone = {name: SURE[name] for name in ("base", "rl-40")} | {"weight-900": -1.0}
    none = chosen_without(answered(alone))["weight"]["agreement"]
    assert (none["model"], none["regret"], none["test"]) == (None, None, [])


def test_regret_is_what_the_labels_would_have_gained() -> None:
    """Catches a regret with the wrong sign: here the criterion prefers a worse model."""
    groups = answered(SURE, splits=("validation", "test"))
    for split in ("validation", "test"):
        surest = groups["weight-60", "sums", split]
        surest.correct = {p: [False] * K for p in surest.correct}  # sure of what is wrong
    choice = chosen_without(groups)["weight"]["agreement"]
    assert (choice["model"], choice["labelled"]) == ("weight-60", "weight-70")
    best = groups["weight-70", "sums", "validation"]
    assert choice["regret"]["diff"] == pytest.approx(best.shares(best.correct).mean())
    assert choice["regret"]["ci95"][0] > 0
    [test] = choice["test"]
    assert test["diff"] < 0


def test_nothing_is_chosen_on_test_problems_nor_on_one_sample() -> None:
    """Catches a choice without a validation split, and a sample that agrees with itself."""
    assert chosen_without(answered(SURE, splits=("test",))) == {}
    groups = answered(SURE)
    for group in groups.values():
        for lists in (group.correct, group.answers, group.predictions):
            for problem in lists:
                del lists[problem][1:]
        for sign in group.marks:
            group.marks[sign] = group.marks[sign][::K]
        group.tokens, group.places = group.tokens[::K], group.places[::K]
        group.logprobs = group.logprobs[::K]
    assert list(chosen_without(groups)["weight"]) == ["entropy", "perplexity"]


def test_a_few_long_responses_do_not_make_a_model_sure() -> None:
    """Catches a perplexity that is the entropy again: one response in five is long and sure."""
    groups = answered(SURE)
    odd = groups["weight-50", "sums", "validation"]
    for i in range(0, PROBLEMS * K, 5):
        odd.tokens[i], odd.logprobs[i] = 40, 0.0
    found = chosen_without(groups)["weight"]
    assert found["entropy"]["model"] == "weight-50"
    assert found["perplexity"]["model"] == "weight-60"
    assert odd.perplexity == pytest.approx(math.exp(0.8 * 0.5), abs=5e-5)
    odd.logprobs.pop()  # a row of an engine that does not say
    assert odd.perplexity is None


def test_perplexity_is_that_of_the_rows(pico_run: Path) -> None:
    """Of every model of a run, from its file; and the lowest on validation is chosen."""
    scores = json.loads((pico_run / "evaluate" / "scores.json").read_text())
    rates = defaultdict(list)
    for row in iter_jsonl(pico_run / "evaluate" / "generations.jsonl"):
        rates[row["model"], row["split"]].append(-row["logprob"] / row["tokens"])
    wanted = {place: math.exp(statistics.fmean(values)) for place, values in rates.items()}
    found = {(row["model"], row["split"]): row["perplexity"] for row in scores["rows"]}
    assert found == pytest.approx(wanted, abs=6e-5)
    assert len(found) == 22
    mine = {m: found[m, "validation"] for m in ("two_point-5", "two_point-6")}
    choice = scores["label_free"]["weight"]["perplexity"]
    assert choice["model"] == min(mine, key=lambda model: mine[model])
    assert choice["value"] == mine[choice["model"]]
    assert choice["same"] == (choice["model"] == scores["chosen"]["weight"]["model"])


def test_greedy_responses_choose_nothing(pico_run: Path) -> None:
    """Catches a choice by figures that are the same for every model."""
    config = context_of(pico_run, evaluate__temperature=0.0)
    groups = answered(SURE)
    assert score(config, groups, "rl-40", "rl-40")["label_free"] == {}
    assert score(context_of(pico_run), groups, "rl-40", "rl-40")["label_free"] != {}


def test_agreement() -> None:
    """Catches missing answers that agree with one another."""
    assert agreement(["1", "1", "2", None]) == 0.5
    assert agreement([None, None]) == 0.0
    assert agreement(["1"]) == 1.0


def test_rank_correlation_is_spearmans() -> None:
    """Catches ties that are broken by place; against scipy."""
    rng = random.Random(0)
    for size in (2, 5, 9):
        for _ in range(20):
            a, b = ([rng.randrange(4) for _ in range(size)] for _ in range(2))
            found = spearman(a, b)
            if len(set(a)) == 1 or len(set(b)) == 1:
                assert found is None
            else:
                assert found == pytest.approx(spearmanr(a, b).statistic, abs=1e-6)


def test_what_the_responses_files_show_reaches_the_tally(tmp_path: Path) -> None:
    """Catches marks, answers and references that are lost between the rows and the scores."""
    task = TaskConfig(name="addition", kind="addition")
    asked = "What is 2 plus 3? Answer with the number."
    problem = Problem("p", asked, "5", "test", task="addition")
    item = PromptItem("addition", "test", "p", (1, 2))
    draw = Draw(Sampling(n=4), tmp_path / "generations.jsonl")
    texts = ["5", "the same again " * 20, "What is 2 plus 3?", ""]
    row = {
        "task": "addition",
        "split": "test",
        "problem_id": "p",
        "model": "rl-1",
        "kind": "rl",
        "fingerprint": "f",
        "sampling": sampling_hash(draw.sampling),
        "prompt": item.prompt,
        "tokens": 3,
        "finish_reason": "stop",
    }
    append_jsonl(draw.path, [{**row, "sample": n, "text": text} for n, text in enumerate(texts)])
    candidates = [Candidate(name, "rl", "f", None, {"step": 1}) for name in ("rl-1", "alias")]
    groups = tally_draw(draw, candidates, Posed({"addition": task}, [problem], [item]))
    assert set(groups) == {("rl-1", "addition", "test"), ("alias", "addition", "test")}
    for group in groups.values():
        assert group.marks["looping"] == [False, True, False, False]
        assert group.marks["copied"] == [False, False, True, False]
        assert group.marks["no_answer"][-1]
        assert group.golds == {"p": "5"}
        assert group.answers["p"][0] == "5"
        assert group.entropy is None
