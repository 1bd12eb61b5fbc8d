"""What the scores show of each chosen extrapolation, and whether it is more than sharpening.

RL makes a model surer of itself, and so does a lower temperature, which costs nothing. What a
trained model reaches too at a lower temperature is therefore called sharpening. A gain is what is
left when every model decodes at the temperature that is best for it on validation problems
(`pipeline.evaluation.controls`). A difference counts only if its 95 % interval excludes zero;
anything else is "no difference is shown", whichever way the point lies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.report.words import Row, chosen_rows, final_step, find, gap, interval, percent

Outcome = Literal["better", "sharpening", "uncontrolled", "worse", "unclear", "unknown"]


@dataclass(frozen=True)
class Verdict:
    """What one chosen extrapolation came to on one task's test split."""

    kind: str
    task: str
    outcome: Outcome
    text: str


def subject(row: Row) -> str:
    """The same model as the subject of a sentence."""
    if row["kind"] == "logit":
        return f"Logit extrapolation at α\u00a0=\u00a0{row['alpha']:g}"
    return f"Weight extrapolation ({row['method']}) to step {row['step']}"


def verdicts(scores: Mapping[str, Any]) -> list[Verdict]:
    """A sentence or two for every chosen extrapolation in `scores.json` on every test split."""
    found = []
    for row in chosen_rows(scores, "test"):
        reference = find(scores["rows"], str(scores["last_rl"]), row)
        control = controlled(scores, row)
        shown = judge(row.get("diff_to_last_rl"), control)
        text = _comparison(row, reference) + _meaning(row, shown, control)
        text += _gain_over_start(row, scores) + _collapsed(row, scores)
        found.append(Verdict(row["kind"], str(row["task"]), shown, text))
    return found


def controlled(scores: Mapping[str, Any], row: Row) -> Mapping[str, Any] | None:
    """The comparison of `row` with the best that a trained model does at any temperature, or None
    where that was not measured."""
    comparisons = (scores.get("controls") or {}).get("comparisons") or []
    same = (c for c in comparisons if (c["model"], c["task"]) == (row["model"], row["task"]))
    return next(same, None)


def judge(difference: Mapping[str, Any] | None, control: Mapping[str, Any] | None) -> Outcome:
    """What the two comparisons of a model show together.

    Args:
        difference: with the last RL checkpoint, both at the evaluation's temperature.
        control: with the best trained model, each at its best temperature.
    """
    if difference is None:
        return "unknown"
    low, high = difference["ci95"]
    plain: Outcome = "better" if low > 0 else "worse" if high < 0 else "unclear"
    if control is None:
        return "uncontrolled" if plain == "better" else plain
    if control["ci95"][0] > 0:
        return "better"
    return "sharpening" if plain == "better" else plain


def summary(scores: Mapping[str, Any]) -> dict[str, Any]:
    """The verdicts for W&B's summary: the headline, and the outcome of each with its control."""
    found = verdicts(scores)
    values: dict[str, Any] = {"verdict": headline(found)}
    for verdict, row in zip(found, chosen_rows(scores, "test"), strict=True):
        place = f"{verdict.task}/{verdict.kind}"
        values[f"{place}/outcome"] = verdict.outcome
        control = controlled(scores, row)
        if control is not None:
            values[f"{place}/controlled_difference"] = control["diff"]
    return values


def _comparison(row: Row, reference: Row | None) -> str:
    reached = (
        f"{subject(row)} reached {percent(row['avg@k'])} {interval(row['ci95'])} "
        f"on the test problems of {row['task']}"
    )
    if reference is None:
        return f"{reached}; the last RL checkpoint was not evaluated there."
    against = (
        f"{reached}, against {percent(reference['avg@k'])} {interval(reference['ci95'])} "
        f"for the last RL checkpoint (step {reference.get('step', 0)})"
    )
    difference = row.get("diff_to_last_rl")
    return f"{against}: {gap(difference)}." if difference is not None else f"{against}."


def temperature(value: float) -> str:
    """A temperature in words: "greedy decoding", "T = 0.6"."""
    return f"T\u00a0=\u00a0{value:g}" if value else "greedy decoding"


def _meaning(row: Row, shown: Outcome, control: Mapping[str, Any] | None) -> str:
    """What the differences amount to."""
    if row["kind"] == "logit" and row["alpha"] == 1:
        return " α = 1 extrapolates nothing: on validation no larger α did better."
    plain = {
        "worse": " The interval excludes zero: a loss.",
        "unclear": " The interval includes zero: no difference is shown.",
        "unknown": " No paired difference was computed.",
        "uncontrolled": " The interval excludes zero, but no trained model was tried at a lower "
        "temperature: this may be sharpening.",
    }
    if control is None:
        return plain[shown]
    other = control["control"]
    under = (
        f"each at the temperature that validation prefers ({temperature(control['temperature'])} "
        f"here, {temperature(other['temperature'])} for {other['model']}) it is {gap(control)}"
    )
    if shown == "better":
        return f" Under the sharpening control, {under}: a gain."
    if shown == "sharpening":
        return f" This is sharpening, not a gain: {under}."
    return f"{plain[shown]} Under the sharpening control, {under}."


def _gain_over_start(row: Row, scores: Mapping[str, Any]) -> str:
    """The difference to the last checkpoint that was seen, where real RL continued beyond it."""
    start, difference = scores.get("start"), row.get("diff_to_start")
    if start in (None, scores["last_rl"]) or difference is None:
        return ""
    return f" Against {start}, the last checkpoint it has seen: {gap(difference)}."


def _collapsed(row: Row, scores: Mapping[str, Any]) -> str:
    """A warning if the model has collapsed on any problems, those that it was chosen on first."""
    mine = [r for r in scores["rows"] if r["model"] == row["model"] and r.get("collapsed")]
    mine.sort(key=lambda r: r["split"] != "validation")
    if not mine:
        return ""
    reasons = "; ".join(mine[0]["collapse"]["reasons"]).replace(" %", "\u00a0%")
    return f" It has collapsed ({mine[0]['task']}, {mine[0]['split']}): {reasons}."


def continued(scores: Mapping[str, Any], last: int | None) -> str:
    """Whether real RL continued beyond what extrapolation has seen; "" if not.

    Args:
        scores: `scores.json`.
        last: the last step that extrapolation may see (None: unknown).
    """
    final = final_step(scores)
    if last is None or last >= final:
        return ""
    return f"Extrapolation has seen the first {last} of the {final} RL steps only."


def headline(found: Sequence[Verdict]) -> str:
    """The verdicts in one line, each kind of extrapolation with its own outcome."""
    if not found:
        return "No extrapolation has been judged on test problems yet"
    clauses = {}
    for kind in ("logit", "weight"):
        mine = [verdict.outcome for verdict in found if verdict.kind == kind]
        if mine:
            clauses[kind] = _summary(mine)
    if len(clauses) == 2 and clauses["logit"] == clauses["weight"]:
        return f"Logit and weight extrapolation both {clauses['logit']}"
    text = "; ".join(f"{kind} extrapolation {clause}" for kind, clause in clauses.items())
    return text[0].upper() + text[1:]


_PHRASES: dict[Outcome, str] = {
    "better": "beat the last RL checkpoint",
    "sharpening": "only sharpened, as a lower temperature does",
    "uncontrolled": "scored above the last RL checkpoint, with no control for sharpening",
    "worse": "fell short of the last RL checkpoint",
    "unclear": "showed no difference from the last RL checkpoint",
    "unknown": "could not be compared with the last RL checkpoint",
}
_COUNTED: dict[Outcome, str] = {  # after the share of tasks that were won
    "sharpening": "only sharpened on",
    "uncontrolled": "was above it, with no control for sharpening, on",
    "worse": "fell short on",
    "unclear": "showed no difference on",
    "unknown": "could not be compared on",
}


def _summary(outcomes: Sequence[Outcome]) -> str:
    if len(set(outcomes)) == 1:
        where = f" on all {len(outcomes)} tasks" if len(outcomes) > 1 else ""
        return _PHRASES[outcomes[0]] + where
    better = outcomes.count("better")
    parts = [f"beat the last RL checkpoint on {better or 'none'} of {len(outcomes)} tasks"]
    parts += [
        f"{phrase} {outcomes.count(kind)}" for kind, phrase in _COUNTED.items() if kind in outcomes
    ]
    return ", ".join(parts)
