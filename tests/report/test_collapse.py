"""Faults caught: a collapsed model that goes unnoticed, a sound one that is called collapsed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.evaluation.collapse import Judged, judge
from pipeline.evaluation.selection import choose
from pipeline.evaluation.signs import copied, looping
from pipeline.evaluation.tally import Tally, tally

Response = dict[str, Any]  # what differs from a right answer that ends by itself
Make = Callable[[int, int], Response]  # of problem and sample


def rows_of(
    model: str, make: Make, problems: int, k: int, **extra: Any
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Generations and grades of one model on one split."""
    kind = "base" if model == "base" else model.split("-")[0]
    first = {"model": model, "kind": kind, "task": "sums", **extra}
    first.setdefault("split", "test")
    generations, grades = [], []
    for problem in range(problems):
        for sample in range(k):
            made: Response = {
                "tokens": 10,
                "finish_reason": "stop",
                "logprob": -5.0,
                "correct": True,
                "status": "ok",
                "prediction": str(problem),
                **make(problem, sample),
            }
            generations.append({**first, "problem_id": str(problem), "sample": sample, **made})
            grades.append({key: made[key] for key in ("correct", "status", "prediction")})
    return generations, grades


def judged(models: dict[str, Make], problems: int = 100, k: int = 1) -> dict[str, Judged]:
    """What is said of each model; the references' answers are the problems' numbers."""
    generations, grades = [], []
    for model, make in models.items():
        step = int(model.split("-")[1]) if "-" in model else 0
        more = rows_of(model, make, problems, k, step=step)
        generations += more[0]
        grades += more[1]
    groups = tally(generations, grades)
    for group in groups.values():
        group.golds = {problem: problem for problem in group.correct}
    return {model: found for (model, *_), found in judge(groups, "rl-40").items()}


def sound(problem: int, sample: int) -> Response:
    return {}


def cut(share: float, correct: bool = False) -> Make:
    """Responses that end at the limit, on the first `share` of a hundred problems."""
    lost: Response = {"finish_reason": "length", "correct": correct}
    return lambda problem, _: lost if problem < 100 * share else {}


def test_responses_that_hit_the_limit_are_said_with_both_figures() -> None:
    """Catches a flag without its reason, or with the shares of the wrong models."""
    found = judged({"base": cut(0.4), "rl-40": cut(0.02), "weight-600": cut(0.83)})
    said = "83 % of responses hit the limit of tokens (2 % at rl-40)"
    assert found["weight-600"].reasons == (said,)
    assert found["rl-40"].reasons == ()
    assert "base" not in found


def test_ten_responses_are_no_collapse() -> None:
    """Catches a verdict on counts that chance explains at the level of a hundred looks."""
    models = {"base": sound, "rl-40": sound, "weight-600": cut(1.0)}
    assert judged(models, problems=10)["weight-600"].reasons == ()
    assert judged(models, problems=30)["weight-600"].reasons != ()
    three = {"base": sound, "rl-40": sound, "weight-600": cut(0.03)}
    assert judged(three, problems=10)["weight-600"].reasons == ()  # 3 of 10


def noisy(seed: int) -> Make:
    """A model of middling quality: a third cut, a third unanswered, four answers, any length."""

    def make(problem: int, sample: int) -> Response:
        rng = random.Random(f"{seed} {problem} {sample}")
        tokens = int(rng.lognormvariate(4, 1)) + 1
        return {
            "finish_reason": rng.choice(["length", "stop", "stop"]),
            "status": rng.choice(["no_answer", "ok", "ok"]),
            "prediction": rng.choice("0123"),
            "correct": rng.random() < 0.3,
            "tokens": tokens,
            "logprob": -tokens * rng.lognormvariate(0, 1),
        }

    return make


@pytest.mark.parametrize(("problems", "k"), [(12, 1), (30, 1), (30, 4)])
def test_models_that_differ_by_chance_have_not_collapsed(problems: int, k: int) -> None:
    """Catches thresholds that small counts pass by luck: 60 models alike, every sign at play."""
    models = {"base": noisy(0), "rl-40": noisy(1)}
    models |= {f"weight-{seed}": noisy(seed) for seed in range(41, 101)}
    found = judged(models, problems, k)
    assert [name for name, each in found.items() if each.reasons] == []


def test_one_answer_for_everything() -> None:
    """Catches a constant answer that nothing else shows, graded right or wrong."""
    for right in (True, False):
        one: Response = {"prediction": "7", "correct": right}
        models: dict[str, Make] = {
            "base": sound,
            "rl-40": sound,
            "logit-600": lambda p, s, one=one: one if p < 90 else {},  # type: ignore[misc]
        }
        [reason] = judged(models)["logit-600"].reasons
        assert reason.startswith("90 % of responses give one answer, 7, whatever the problem (1 %")


def test_one_answer_that_is_asked_for_is_none_for_everything() -> None:
    """Catches a good model on problems whose answers are alike (is it prime? mostly no)."""
    generations, grades = [], []
    models: dict[str, Make] = {
        "base": lambda p, s: {"prediction": "yes", "correct": False},
        "rl-40": lambda p, s: {"prediction": "yes" if p < 60 else "no", "correct": p >= 60},
        "weight-600": lambda p, s: {"prediction": "no"},
    }
    for model, make in models.items():
        more = rows_of(model, make, 100, 1, step=40)
        generations += more[0]
        grades += more[1]
    groups = tally(generations, grades)
    for group in groups.values():
        group.golds = dict.fromkeys(group.correct, "no")
    found = judge(groups, "rl-40")["weight-600", "sums", "test"]
    assert found.reasons == ()
    assert "one answer, no" in found.without_labels[0]  # there nobody knows what is asked for


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        ({"status": "no_answer", "prediction": None, "correct": False}, "hold no answer"),
        ({"looping": True}, "end in a loop"),
        ({"copied": True}, "only repeat the question"),
    ],
)
def test_other_signs_in_responses(lost: Response, words: str) -> None:
    """Catches a sign that is counted and never said."""
    models = {"base": sound, "rl-40": sound, "logit-600": lambda p, s: lost if p < 70 else {}}
    [reason] = judged(models)["logit-600"].reasons
    assert reason == f"70 % of responses {words} (0 % at rl-40)"


def test_a_model_that_gains_may_be_cut_more_often() -> None:
    """Catches longer thought called collapse, and a majority of cut responses excused by it."""
    wrong: Make = lambda p, s: {"correct": p >= 50}  # noqa: E731
    models = {"base": wrong, "rl-40": wrong, "rl-80": cut(0.3, True), "rl-90": cut(0.6, True)}
    found = judged(models)
    assert found["rl-80"].reasons == ()
    assert "30 % of responses hit the limit" in found["rl-80"].without_labels[0]
    assert "60 % of responses hit the limit" in found["rl-90"].reasons[0]


def test_entropy_and_length() -> None:
    """Catches sharpening called collapse; what costs accuracy, and what is noise, is."""
    models: dict[str, Make] = {
        "base": sound,
        "rl-40": sound,  # 0.5 nats per token, 10 tokens
        "logit-1": lambda p, s: {"logprob": -0.1},
        "logit-2": lambda p, s: {"logprob": -0.1, "correct": p > 30},
        "logit-3": lambda p, s: {"logprob": -40.0},
        "logit-4": lambda p, s: {"tokens": 2, "logprob": -1.0},
        "logit-5": lambda p, s: {"tokens": 2, "logprob": -1.0, "correct": p > 30},
    }
    found = judged(models)
    assert found["logit-1"].reasons == ()
    assert found["logit-2"].reasons == (
        "the entropy is 0.01 nats per token (0.5 at rl-40), and accuracy fell",
    )
    assert found["logit-3"].reasons == ("the entropy is 4 nats per token (0.5 at rl-40)",)
    assert found["logit-4"].reasons == ()
    assert found["logit-5"].reasons == (
        "responses have 2 tokens on average (10 at rl-40), and accuracy fell",
    )
    assert found["logit-1"].without_labels != ()
    assert found["logit-4"].without_labels != ()


def test_greedy_decoding_and_rows_without_log_probs_have_no_entropy_to_judge() -> None:
    """Catches a division by an entropy of zero, and a crash on rows of earlier versions."""
    for logprob in (0.0, None):
        models: dict[str, Make] = {
            name: lambda p, s, value=logprob: {"logprob": value, "correct": False}  # type: ignore[misc]
            for name in ("base", "rl-40", "weight-600")
        }
        assert judged(models)["weight-600"].reasons == ()


def test_who_is_compared_with_whom() -> None:
    """Catches an earlier checkpoint blamed for what training has cured, and a collapse of the
    training itself that hides that of everything after it."""
    found = judged({"base": cut(0.5), "rl-20": cut(0.5), "rl-40": sound, "named-0": cut(0.5)})
    assert {name: (each.against, each.reasons) for name, each in found.items()} == {
        "rl-20": ("base", ()),
        "rl-40": ("base", ()),
        "named-0": ("base", ()),
    }
    lost = judged({"base": sound, "rl-40": cut(0.9), "weight-600": cut(0.95)})
    assert lost["rl-40"].reasons
    assert lost["weight-600"].against == "base"
    assert lost["weight-600"].reasons


def test_each_split_is_judged_by_itself() -> None:
    """Catches responses of one split that count in another."""
    generations, grades = [], []
    for split, share in (("validation", 0.0), ("test", 0.9)):
        for model, make in {"base": sound, "rl-40": sound, "weight-9": cut(share)}.items():
            more = rows_of(model, make, 100, 1, step=40, split=split)
            generations += more[0]
            grades += more[1]
    found = judge(tally(generations, grades), "rl-40")
    assert not found["weight-9", "sums", "validation"].reasons
    assert found["weight-9", "sums", "test"].reasons


def test_accuracy_decides_and_the_choice_says_that_it_has_collapsed() -> None:
    """Catches a collapsed model chosen in silence, or a better one passed over; of equals the
    sound one is taken."""

    def row(model: str, score: float, collapsed: bool, step: int) -> dict[str, Any]:
        fixed = {"kind": "weight", "split": "validation", "step": step}
        return {"model": model, "avg@k": score, "collapsed": collapsed, **fixed}

    best = choose([row("a", 0.5, False, 50), row("b", 0.6, True, 60)])["weight"]
    assert (best["model"], best["collapsed"]) == ("b", True)
    best = choose([row("a", 0.6, True, 50), row("b", 0.6, False, 60)])["weight"]
    assert (best["model"], best["collapsed"]) == ("b", False)


UNITS = ["7", "12, ", "Wait, let me check.\n", "so x = 2 and y = 3, " * 3, "答案是七。", "😀\n"]


@pytest.mark.parametrize("unit", UNITS)
def test_loops_of_any_length_and_script(unit: str) -> None:
    """Catches a loop that is seen for one letter only, or at the start of a response only."""
    assert looping("First we add 12 and 30 to find 42. " + unit * (6000 // len(unit)))


def test_loops_that_vary() -> None:
    """Catches a test for exact copies: such loops often count up."""
    assert looping("".join(f"Wait, step {n}: that is not right. " for n in range(200)))


@pytest.mark.parametrize("text", ["", "7", "7" * 40, ">45411", "\n" * 30, "\ud800" * 3])
def test_short_responses_are_no_loops(text: str) -> None:
    """Catches an answer of many equal digits, and a crash on what cannot be encoded."""
    assert not looping(text)


@pytest.mark.parametrize(
    ("name", "key"),
    [("math500", "solution"), ("gsm8k", "problem"), ("humaneval", "canonical_solution")],
)
def test_no_solution_that_people_wrote_is_a_loop(name: str, key: str, data_dir: Path) -> None:
    """Catches a threshold that ordinary mathematics or code passes."""
    lines = (data_dir / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [str(json.loads(line)[key]) for line in lines]
    assert not any(map(looping, texts))


def test_copies_of_the_question() -> None:
    """Catches an echo that is taken for an answer, and an answer that is taken for an echo."""
    asked = "What is the largest of 97, 36 or 52? Answer with the number only."
    assert copied("The largest of 97, ", asked)
    assert copied("what is  the largest of 97,\n36 or 52?", asked)
    assert not copied("97", asked)
    assert not copied("36 is less than 52, which is less than 97, so it is 97.", asked)
    assert not copied(asked + " The three numbers in order are 36 < 52 < 97, hence 97.", asked)
    long = "Natalia sold clips to 48 of her friends in April, and then half as many in May. " * 9
    assert copied(long, long)
    assert not copied(long + "72", long)
    assert not copied("", asked)
    assert not copied("anything at all, really", "")


def test_marks_are_those_of_the_responses() -> None:
    """Catches flat lists that do not line up with their problems where samples are out of order."""
    generations, grades = rows_of("weight-600", cut(0.5), 100, 2)
    order = list(range(200))
    random.Random(0).shuffle(order)
    groups = tally([generations[i] for i in order], [grades[i] for i in order])
    group: Tally = groups["weight-600", "sums", "test"]
    shares = group.by_problem(group.marks["truncated"])
    assert shares == {str(p): float(p < 50) for p in range(100)}
