"""Choose method, horizon and alpha on the validation split, and say what speaks against the choice;
the test split only reports."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

KINDS = ("weight", "logit")

_log = logging.getLogger(__name__)


def choose(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The extrapolated model of each kind with the best avg@k on validation.

    Args:
        rows: of scores.json. With several validation tasks the mean over them decides. Of equal
            models one that has not collapsed is taken, then the shorter horizon: it asks less of
            the line; of equal horizons, the method that comes first.

    Returns:
        {"weight": {"model", "validation avg@k", "collapsed", "step", ...}, "logit": {...}}; a kind
        without rows on validation is absent, so nothing is ever chosen on test. Accuracy decides:
        where the best has collapsed it is chosen all the same, and `collapsed` says so.
    """
    chosen: dict[str, dict[str, Any]] = {}
    for kind in KINDS:
        scores: dict[str, list[float]] = {}
        first: dict[str, Mapping[str, Any]] = {}
        lost: set[str] = set()
        for row in rows:
            if row["kind"] == kind and row["split"] == "validation":
                scores.setdefault(row["model"], []).append(row["avg@k"])
                first.setdefault(row["model"], row)
                lost |= {row["model"]} if row.get("collapsed") else set()
        if not scores:
            continue
        means = {model: sum(values) / len(values) for model, values in scores.items()}
        best = max(
            means,
            key=lambda model: (means[model], model not in lost, -first[model].get("step", 0)),
        )
        extra = {k: first[best][k] for k in ("method", "step", "alpha") if k in first[best]}
        chosen[kind] = {"model": best, "validation avg@k": means[best], **extra}
        chosen[kind]["collapsed"] = best in lost
    return chosen


def no_better(rows: Sequence[Mapping[str, Any]], model: str, start: str | None) -> float | None:
    """The validation avg@k of `start`, the last checkpoint seen, where `model` is not above it:
    then nothing speaks for extrapolating. None where it is, or where one was not evaluated.

    Args:
        rows: of scores.json. With several validation tasks the means over them are compared.
    """
    mine, before = (
        {row["task"]: row["avg@k"] for row in rows if _on_validation(row, name)}
        for name in (model, start)
    )
    if not mine or mine.keys() != before.keys() or sum(mine.values()) > sum(before.values()):
        return None
    return float(sum(before.values()) / len(before))


def warn(
    rows: Sequence[Mapping[str, Any]], chosen: Mapping[str, Mapping[str, Any]], start: str
) -> None:
    """Say which models have collapsed, first of all if one of them is chosen, and which choice is
    no better than what was seen."""
    for choice in chosen.values():
        before = no_better(rows, choice["model"], start)
        if before is not None:
            _log.warning(
                "%s is best on validation of what was extrapolated, and no better than %s (%.1f "
                "%% there), the last checkpoint seen: validation says to keep that one",
                choice["model"],
                start,
                100 * before,
            )
    lost: dict[str, str] = {}
    for row in rows:
        if row["collapsed"]:
            lost.setdefault(row["model"], "; ".join(row["collapse"]["reasons"]))
    names = {choice["model"] for choice in chosen.values()}
    for model, reasons in lost.items():
        if model in names:
            _log.warning(
                "%s is best on validation, and has collapsed: %s; look at its responses before "
                "you use it",
                model,
                reasons,
            )
    others = [model for model in lost if model not in names]
    if others:
        _log.warning(
            "collapsed (scores.json and the report say by which signs): %s", ", ".join(others)
        )


def _on_validation(row: Mapping[str, Any], model: str | None) -> bool:
    return bool(row["split"] == "validation" and row["model"] == model)
