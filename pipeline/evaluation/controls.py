"""The sharpening control: every model at the temperature that is best for it.

RL sharpens a model, and so does a lower temperature. To tell more from the same, the start and the
end of real RL and the chosen extrapolations are sampled at temperatures below the evaluation's as
well. Validation chooses each model's temperature, and the trained model to beat; the comparison is
made on the test problems. The responses lie apart from the evaluation's, in `evaluate/controls/`, a
file a temperature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipeline.evaluation.metrics import compare, score_groups
from pipeline.evaluation.sampling import mixture_works, models_work, sample, sampling
from pipeline.evaluation.scoring import tally_draw
from pipeline.evaluation.tally import Tally

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.config import EvaluateConfig
    from pipeline.evaluation.posing import Posed
    from pipeline.inference.parallel import Candidate, Draw
    from pipeline.subject.found import Subject

OWN = ("named", "mixture")  # kinds of models that the user has named, which are always reported
SHARES = (0.3, 0.6)  # of the evaluation's temperature, where no temperatures are given

Groups = Mapping[tuple[str, str, str], Tally]  # by (model, task, split)


def wanted(evaluate: EvaluateConfig) -> bool:
    """Greedy evaluations need no control: there is no lower temperature."""
    return evaluate.controls and evaluate.temperature > 0


def temperatures(evaluate: EvaluateConfig) -> list[float]:
    """The temperatures below the evaluation's, greedy decoding (0) first."""
    given = evaluate.control_temperatures
    if given is None:
        given = [round(share * evaluate.temperature, 6) for share in SHARES]
    return [0.0, *sorted(set(given))]


def describe(evaluate: EvaluateConfig) -> str:
    """What is done, for the plan."""
    if not wanted(evaluate):
        return ""
    words = ", ".join(f"{t:g}" for t in temperatures(evaluate)[1:])
    return f"; what is reported also greedy{' and at temperature ' + words if words else ''}"


def draws(subject: Subject) -> list[Draw]:
    """How each control temperature is drawn, and its file."""
    from pipeline.inference.parallel import Draw

    folder = subject.stage_dir("evaluate") / "controls"
    evaluate, evaluation = subject.config.evaluate, sampling(subject)
    n = min(evaluate.control_samples, evaluation.n)
    return [
        Draw(
            replace(evaluation, temperature=t, n=n if t else 1),
            folder / f"temperature_{t:g}.jsonl",
        )
        for t in temperatures(evaluate)
    ]


def control(
    subject: Subject,
    candidates: Sequence[Candidate],
    posed: Posed,
    groups: Groups,
    scores: Mapping[str, Any],
    start: Path,
) -> dict[str, Any]:
    """Sample and score the controls; the part `controls` of scores.json.

    Args:
        groups, scores: of the evaluation itself, which has chosen what is reported.
        start: the folder that the engine is started on.
    """
    config = subject.config
    trained = list(dict.fromkeys(["base", str(scores["start"]), str(scores["last_rl"])]))
    predicted = [str(choice["model"]) for choice in scores["chosen"].values()]
    reported = [c for c in candidates if c.name in {*trained, *predicted} or c.kind in OWN]
    lower = draws(subject)
    single = [c for c in reported if c.source is not None]
    mixed = [c for c in reported if c.source is None]
    works = [models_work(subject, lower, single, posed.items, start)]
    sample(subject, [*works, *mixture_works(subject, lower, mixed, posed.items)])
    by_temperature = {config.evaluate.temperature: groups} | {
        each.sampling.temperature: tally_draw(each, reported, posed) for each in lower
    }
    return control_scores(
        by_temperature,
        trained,
        predicted,
        resamples=config.evaluate.bootstrap,
        seed=config.seed,
    )


def control_scores(
    groups: Mapping[float, Groups],
    trained: Sequence[str],
    predicted: Sequence[str],
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> dict[str, Any]:
    """The part `controls` of scores.json.

    Args:
        groups: samples by temperature; the highest temperature is the evaluation's.
        trained: models that training has made, the control is one of them.
        predicted: the chosen extrapolations.

    Returns:
        {"temperatures": those below the evaluation's, "rows": scores there, like those of the
        evaluation; "best": {model: {"temperature", "validation avg@k"}}; "comparisons": for each
        prediction and test task the paired difference to the control on the same problems,
        {"model", "task", "temperature", "control": {"model", "temperature"}, "diff", "ci95", "p"}}.
        Without a validation split nothing is chosen: `best` and `comparisons` are empty.
    """
    options: dict[str, Any] = {"resamples": resamples, "seed": seed}
    evaluation = max(groups)
    lower = sorted(temperature for temperature in groups if temperature < evaluation)
    rows = [
        row | {"temperature": temperature}
        for temperature in lower
        for row in score_groups(groups[temperature], **options)
    ]
    best = {
        model: choice
        for model in dict.fromkeys([*trained, *predicted])
        if (choice := _best(groups, model)) is not None
    }
    rivals = [model for model in trained if model in best]
    comparisons: list[dict[str, Any]] = []
    if rivals:
        # of equals the earlier one: less training, the stronger objection
        control = max(rivals, key=lambda model: best[model]["validation avg@k"])
        comparisons = [
            comparison
            for model in predicted
            if model in best
            for comparison in _compare(groups, best, model, control, options)
        ]
    return {"temperatures": lower, "rows": rows, "best": best, "comparisons": comparisons}


def _best(groups: Mapping[float, Groups], model: str) -> dict[str, Any] | None:
    """The temperature with the highest mean avg@k over the validation tasks; of equal ones the
    highest, which changes least. None if the model has no samples on validation."""
    means: dict[float, float] = {}
    for temperature, at in groups.items():
        shares = [
            float(group.shares(group.correct).mean())
            for (name, _, split), group in at.items()
            if name == model and split == "validation"
        ]
        if shares:
            means[temperature] = sum(shares) / len(shares)
    if not means:
        return None
    temperature = max(means, key=lambda t: (means[t], t))
    return {"temperature": temperature, "validation avg@k": means[temperature]}


def _compare(
    groups: Mapping[float, Groups],
    best: Mapping[str, Mapping[str, Any]],
    model: str,
    control: str,
    options: Mapping[str, Any],
) -> list[dict[str, Any]]:
    own, other = best[model]["temperature"], best[control]["temperature"]
    found = []
    for (name, task, split), group in groups[own].items():
        reference = groups[other].get((control, task, split))
        if name != model or split != "test" or reference is None:
            continue
        difference = compare(group, reference, **options)
        found.append(
            {
                "model": model,
                "task": task,
                "temperature": own,
                "control": {"model": control, "temperature": other},
                **difference,
            }
        )
    return found
