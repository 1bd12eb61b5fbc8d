"""The sharpening control: every model at the temperature that is best for it.

RL sharpens a model, and so does a lower temperature. To tell more from the same, the start and the
end of real RL and the chosen extrapolations are sampled at temperatures below the evaluation's as
well. Validation chooses each model's temperature, and the trained model to beat; the comparison is
made on the test problems.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.evaluation.metrics import compare, score_groups
from pipeline.evaluation.tally import Tally

Groups = Mapping[tuple[str, str, str], Tally]  # by (model, task, split)


def control_scores(
    groups: Mapping[float, Groups],
    trained: Sequence[str],
    predicted: Sequence[str],
    *,
    confidence: float = 0.95,
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
    options: dict[str, Any] = {"confidence": confidence, "resamples": resamples, "seed": seed}
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
