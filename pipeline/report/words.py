"""Turns numbers into sentences that say what they show and no more.

A difference is called a gain or a loss only if its 95 % interval excludes zero; anything else is
"no difference is shown", whichever way the point lies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Row = Mapping[str, Any]
Outcome = Literal["better", "worse", "unclear", "unknown"]


@dataclass(frozen=True)
class Verdict:
    """What one chosen extrapolation came to on one task's test split."""

    kind: str
    task: str
    outcome: Outcome
    text: str


def percent(share: float, digits: int = 1) -> str:
    """0.349 → "34.9 %" (with a no-break space)."""
    return f"{100 * share:.{digits}f}\u00a0%".replace("-", "−")


def interval(bounds: Sequence[float], digits: int = 1) -> str:
    """Shares as percent in brackets: "[32.1, 37.6]" (with a no-break space)."""
    low, high = (f"{100 * bound:.{digits}f}".replace("-", "−") for bound in bounds)
    return f"[{low},\u00a0{high}]"


def points(difference: float, digits: int = 1) -> str:
    """0.026 → "+2.6 points"."""
    text = f"{100 * difference:+.{digits}f}".replace("-", "−")
    return f"{'0.' + '0' * digits if not float(text[1:]) else text}\u00a0points"


def gap(difference: Mapping[str, Any]) -> str:
    """A paired difference with its interval: "+2.6 points [0.4, 4.8]".

    A bound that is not zero is never printed as 0.0: it gets the digits it needs.
    """
    low, high = difference["ci95"]
    digits = 1
    while digits < 3 and any(
        bound and abs(100 * bound) < 0.5 * 10**-digits for bound in (low, high)
    ):
        digits += 1
    return f"{points(difference['diff'], digits)} {interval((low, high), digits)}"


def outcome(difference: Mapping[str, Any] | None) -> Outcome:
    """What a paired difference shows; "unknown" if there is none."""
    if difference is None:
        return "unknown"
    low, high = difference["ci95"]
    return "better" if low > 0 else "worse" if high < 0 else "unclear"


def count(number: float, unit: str = "") -> str:
    """1_780_000_000 → "1.78 billion"; exact with thin spaces below a million."""
    for size, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if number >= 0.9995 * size:
            return f"{number / size:.3g} {word} {unit}".rstrip()
    return f"{number:,.0f} {unit}".replace(",", "\u202f").rstrip()


def duration(seconds: float) -> str:
    """Wall time as a person would say it: "0.4 s", "3 min 12 s", "2 h 05 min"."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def model_label(row: Row) -> str:
    """A model in a few words, for tables and axes: "real RL, step 600", "logits, α = 1.5"."""
    if row["kind"] == "rl":
        return f"real RL, step {row['step']}"
    if row["kind"] == "weight":
        return f"weights, {row['method']} to step {row['step']}"
    if row["kind"] == "logit":
        return f"logits, α\u00a0=\u00a0{row['alpha']:g}"
    if row["kind"] == "named":
        return str(row["model"])
    return "base" if row["model"] == "base" else f"base ({row['model']})"


def subject(row: Row) -> str:
    """The same model as the subject of a sentence."""
    if row["kind"] == "logit":
        return f"Logit extrapolation at α\u00a0=\u00a0{row['alpha']:g}"
    return f"Weight extrapolation ({row['method']}) to step {row['step']}"


def chosen_rows(scores: Mapping[str, Any], split: str) -> list[Row]:
    """The rows of the chosen models on `split`: logits first, then weights, by task."""
    ids = {
        str(choice["model"])
        for choice in (scores.get("chosen") or {}).values()
        if choice is not None
    }
    rows = [
        row
        for row in scores["rows"]
        if row["split"] == split
        and row["kind"] in {"weight", "logit"}
        and (row["model"] in ids or row.get("chosen"))
    ]
    return sorted(rows, key=lambda row: (row["kind"], str(row["model"]), str(row["task"])))


def verdicts(scores: Mapping[str, Any]) -> list[Verdict]:
    """A sentence or two for every chosen extrapolation in `scores.json` on every test split."""
    found = []
    for row in chosen_rows(scores, "test"):
        reference = find(scores["rows"], str(scores["last_rl"]), row)
        shown = outcome(row.get("diff_to_last_rl"))
        text = _comparison(row, reference) + _meaning(row, shown) + _gain_over_start(row, scores)
        found.append(Verdict(row["kind"], str(row["task"]), shown, text))
    return found


def find(rows: Sequence[Row], model: str, like: Row) -> Row | None:
    """The row of `model` on the task and split of `like`, or None."""
    same = [r for r in rows if r["model"] == model]
    return next((r for r in same if (r["task"], r["split"]) == (like["task"], like["split"])), None)


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


def _meaning(row: Row, shown: Outcome) -> str:
    """What the difference amounts to."""
    if row["kind"] == "logit" and row["alpha"] == 1:
        return " α = 1 extrapolates nothing: on validation no larger α did better."
    return {
        "better": " The interval excludes zero: a gain.",
        "worse": " The interval excludes zero: a loss.",
        "unclear": " The interval includes zero: no difference is shown.",
        "unknown": " No paired difference was computed.",
    }[shown]


def _gain_over_start(row: Row, scores: Mapping[str, Any]) -> str:
    """The difference to the last checkpoint that was seen, where real RL went on beyond it."""
    start, difference = scores.get("start"), row.get("diff_to_start")
    if start in (None, scores["last_rl"]) or difference is None:
        return ""
    return f" Against {start}, the last checkpoint it has seen: {gap(difference)}."


def final_step(scores: Mapping[str, Any]) -> int:
    """The last step of real RL that was evaluated, 0 if none was."""
    return max((int(row["step"]) for row in scores["rows"] if row["kind"] == "rl"), default=0)


def continued(scores: Mapping[str, Any], last: int | None) -> str:
    """Whether real RL went on beyond what extrapolation has seen; "" if not.

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


def _summary(outcomes: Sequence[Outcome]) -> str:
    reference = "the last RL checkpoint"
    if len(set(outcomes)) == 1:
        where = f" on all {len(outcomes)} tasks" if len(outcomes) > 1 else ""
        return {
            "better": f"beat {reference}",
            "worse": f"fell short of {reference}",
            "unclear": f"showed no difference from {reference}",
            "unknown": f"could not be compared with {reference}",
        }[outcomes[0]] + where
    better, worse = outcomes.count("better"), outcomes.count("worse")
    rest = len(outcomes) - better - worse
    parts = [f"beat {reference} on {better or 'none'} of {len(outcomes)} tasks"]
    if worse:
        parts.append(f"fell short on {worse}")
    if rest:
        parts.append(f"showed no difference on {rest}")
    return ", ".join(parts)


def filtered(probe: Mapping[str, Any], unit: str) -> str:
    """How many scalars the filter dropped, in a sentence."""
    total, kept = probe["scalars_total"], probe["scalars_kept"]
    return f"The filter dropped {percent(1 - kept / total if total else 0.0)} of the {unit}."


def linearity(probe: Mapping[str, Any], unit: str) -> str:
    """How much of the weights (or tokens) is how linear, with the filter's share beside it.

    Args:
        probe: `weights.json` or `logprobs.json`.
        unit: "weights" or "tokens".
    """
    total, kept = probe["scalars_total"], probe["scalars_kept"]
    rest, above = probe["unfiltered"], "r2_share_above_0.7"
    if probe["r2_median"] is None:
        text = f"None of the {count(total)} {unit} passed the filter{_why_none(probe)}. Without it"
    else:
        text = (
            f"Median R² is {probe['r2_median']:.2f} (mean {probe['r2_mean']:.2f}) over the "
            f"{count(kept)} {unit} that pass the filter; {percent(probe[above])} of them lie "
            f"above 0.7. The filter dropped {percent(1 - kept / total)} of {count(total)}, "
            "which raises R²: without it"
        )
    if rest["r2_median"] is None:
        return f"{text} there is no R² either."
    still = rest.get("constant")
    counted = f" (the {percent(still / total)} that never move count as 0)" if still else ""
    return (
        f"{text} the median is {rest['r2_median']:.2f} "
        f"and {percent(rest[above])} lie above 0.7{counted}."
    )


def _why_none(probe: Mapping[str, Any]) -> str:
    """The reason, where it is plain: more distinct values asked for than there are checkpoints."""
    least = (probe.get("filters") or {}).get("min_unique", 0)
    there = len(probe.get("steps") or [])
    if least <= there:
        return ""
    return f", since it asks for {least} distinct values and there are {there} checkpoints"


def choice(scores: Mapping[str, Any], row: Row) -> str:
    """How a chosen model was chosen: its validation rows, or a warning that there are none."""
    name = f"α = {row['alpha']:g}" if row["kind"] == "logit" else f"step {row['step']}"
    method = "logits" if row["kind"] == "logit" else f"weights, {row['method']}"
    seen = [r for r in scores["rows"] if r["split"] == "validation" and r["model"] == row["model"]]
    if not seen:
        return f"{method}: {name}; no validation score is there to show what it was chosen on."
    parts = ", ".join(f"{percent(r['avg@k'])} {interval(r['ci95'])} on {r['task']}" for r in seen)
    return f"{method}: {name}, best on validation ({parts})."
