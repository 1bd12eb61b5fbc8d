"""Turns numbers into words: shares, intervals, counts, models, linearity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.evaluation.selection import no_better

Row = Mapping[str, Any]
KINDS = {"weight": "Weights", "logit": "Logits"}  # of extrapolations


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
    if row["kind"] == "mixture":
        return f"logits, {members(row)}"
    if row["kind"] == "named":
        return str(row["model"])
    return "base" if row["model"] == "base" else f"base ({row['model']})"


def members(row: Row) -> str:
    """A mixture's sum, folders by their last name: "−1 × 0 + 1 × 40 + 1 × large"."""
    parts = []
    for member in row["members"]:
        sign = "−" if member["coefficient"] < 0 else "+"
        name = str(member["model"]).rstrip("/").rpartition("/")[2]
        parts.append(f"{sign} {abs(member['coefficient']):g}\u00a0×\u00a0{name}")
    first, *rest = parts
    return " ".join([first.removeprefix("+ ").replace("− ", "−"), *rest])


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


def find(rows: Sequence[Row], model: str, like: Row) -> Row | None:
    """The row of `model` on the task and split of `like`, or None."""
    same = [r for r in rows if r["model"] == model]
    return next((r for r in same if (r["task"], r["split"]) == (like["task"], like["split"])), None)


def final_step(scores: Mapping[str, Any]) -> int:
    """The last step of real RL that was evaluated, 0 if none was."""
    return max((int(row["step"]) for row in scores["rows"] if row["kind"] == "rl"), default=0)


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
    before = no_better(scores["rows"], row["model"], scores.get("start"))
    kept = ""
    if before is not None:
        kept = (
            f"; but {scores['start']}, the last checkpoint seen, has {percent(before)} there, so "
            "validation says to keep that one"
        )
    return f"{method}: {name}, best on validation ({parts}){kept}."
