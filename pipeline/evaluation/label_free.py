"""Method, horizon and alpha chosen without a reference answer, and how far that can be trusted.

Three figures need no labels and no further pass of a model: how often the samples of a problem
agree (self-consistency), and how sure the model is of what it says, by the token (entropy) and by
the response (perplexity of its own responses). A collapsed model agrees with itself perfectly and
is sure of it, so those that have signs of collapse (collapse.py, without its looks at labels) are
out; of the others the sharpest still has the lowest entropy and perplexity, right or wrong. The
choice is made on the validation problems; labels only judge it, and the test problems are only
reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.evaluation.intervals import Array, difference_interval
from pipeline.evaluation.metrics import compare
from pipeline.evaluation.selection import KINDS
from pipeline.evaluation.tally import Tally

CRITERIA = {
    "agreement": 1,
    "entropy": -1,
    "perplexity": -1,
}  # a row's figure, and which way is better

Key = tuple[str, str, str]  # model, task, split
Row = Mapping[str, Any]


def choices(
    groups: Mapping[Key, Tally],
    rows: Sequence[Row],
    chosen: Mapping[str, Row],
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """The part `label_free` of scores.json.

    Args:
        groups: samples by (model, task, split).
        rows: of scores.json, with `collapse`.
        chosen: what the labels choose (`selection.choose`).

    Returns:
        {kind: {criterion: {"model" (None if all are out), "value", "validation avg@k",
        "labelled": the model that the labels choose, "same", "regret": {"diff", "ci95"}: by how
        much the labelled choice is better on validation, "rank_correlation": Spearman's, of
        criterion and accuracy over the candidates that are not out (None if undefined),
        "candidates": their number, "left_out", "test": [{"task", "diff", "ci95", "p"}]: this
        choice against the labelled one on test problems}}}. A kind or criterion without figures on
        validation is absent.
    """
    found: dict[str, dict[str, Any]] = {}
    for kind in KINDS:
        if kind not in chosen:
            continue
        models = _models(rows, kind)
        for criterion, sign in CRITERIA.items():
            if any(row[criterion] is None for mine in models.values() for row in mine):
                continue
            options = {"resamples": resamples, "seed": seed}
            picked = _pick(models, criterion, sign)
            judged = _judge(groups, picked["model"], chosen[kind]["model"], options)
            found.setdefault(kind, {})[criterion] = picked | judged
    return found


def _models(rows: Sequence[Row], kind: str) -> dict[str, list[Row]]:
    """The validation rows of each candidate of a kind."""
    models: dict[str, list[Row]] = {}
    for row in rows:
        if row["kind"] == kind and row["split"] == "validation":
            models.setdefault(row["model"], []).append(row)
    return models


def _pick(models: Mapping[str, Sequence[Row]], criterion: str, sign: int) -> dict[str, Any]:
    """The best by the criterion; of equal ones the shorter horizon, as with labels."""
    standing = {m: mine for m, mine in models.items() if not any(map(_suspect, mine))}
    values = {m: sum(r[criterion] for r in mine) / len(mine) for m, mine in standing.items()}
    scores = {m: sum(r["avg@k"] for r in mine) / len(mine) for m, mine in standing.items()}
    best = max(
        values, key=lambda m: (sign * values[m], -standing[m][0].get("step", 0)), default=None
    )
    return {
        "model": best,
        "value": None if best is None else values[best],
        "validation avg@k": None if best is None else scores[best],
        "rank_correlation": spearman(
            [sign * value for value in values.values()], list(scores.values())
        ),
        "candidates": len(standing),
        "left_out": len(models) - len(standing),
    }


def _suspect(row: Row) -> bool:
    return bool(row["collapse"] and row["collapse"]["without_labels"])


def _judge(
    groups: Mapping[Key, Tally], model: str | None, labelled: str, options: Mapping[str, Any]
) -> dict[str, Any]:
    """What the choice is worth beside the labelled one."""
    result: dict[str, Any] = {"labelled": labelled, "same": model == labelled}
    if model is None:
        return result | {"regret": None, "test": []}
    pairs = [
        (task, split, group, groups[labelled, task, split])
        for (name, task, split), group in groups.items()
        if name == model and (labelled, task, split) in groups
    ]
    validation = [(mine, other) for _, split, mine, other in pairs if split == "validation"]
    none = {"diff": 0.0, "ci95": [0.0, 0.0]}
    return result | {
        "regret": none if model == labelled else _regret(validation),
        "test": [
            {"task": task, **compare(mine, other, **options)}
            for task, split, mine, other in pairs
            if split == "test" and model != labelled
        ],
    }


def _regret(pairs: Sequence[tuple[Tally, Tally]]) -> dict[str, Any]:
    """Accuracy of the labelled choice above this one, over the problems of all validation tasks."""
    own = np.concatenate([mine.shares(mine.correct) for mine, _ in pairs])
    other = np.concatenate([best.shares(mine.correct) for mine, best in pairs])
    samples = max(len(c) for pair in pairs for g in pair for c in g.correct.values())
    low, high = difference_interval(other, own, samples)
    return {"diff": float((other - own).mean()), "ci95": [float(low), float(high)]}


def spearman(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Spearman's rank correlation, equal values sharing their mean rank; None where fewer than two
    values differ."""
    one, other = (_ranks(np.asarray(values, dtype=np.float64)) for values in (a, b))
    if any(r.size < 2 or float(np.ptp(r)) == 0 for r in (one, other)):
        return None
    return round(float(np.corrcoef(one, other)[0, 1]), 6)


def _ranks(values: Array) -> Array:
    """Mean ranks, [values]."""
    below = (values[:, None] > values).sum(-1).astype(np.float64)
    equal = (values[:, None] == values).sum(-1).astype(np.float64)
    return below + (equal + 1) / 2
