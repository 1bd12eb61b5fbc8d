"""Which models have collapsed, by which signs, and how the signs grow with the horizon and α."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from pipeline.report import figures, words
from pipeline.report.html import Album, Section, absent_section, render, words_table
from pipeline.report.inputs import Artefacts

Row = Mapping[str, Any]
AXES = {"step": "the step", "alpha": "α"}  # what the signs are drawn over


def section(run: Artefacts, album: Album) -> Section:
    """A sentence for each collapsed model; with figures if there is one."""
    title = "Collapse"
    judged = [row for row in run.rows if row.get("collapse")]
    if not judged:
        return absent_section("collapse", "Signs of collapse", ["evaluate"])
    lost = [row for row in judged if row["collapsed"]]
    if not lost:
        text = f"None of {_models(judged)} models shows signs of collapse."
        return Section("collapse", title, title, words_table([("Collapse", text)]))
    said: dict[str, list[str]] = {}
    for row in lost:
        said.setdefault(words.model_label(row), []).append(_sentence(row))
    body = words_table([(name, " ".join(sentences)) for name, sentences in said.items()])
    place = _shown(lost)
    rows = [row for row in run.rows if (row["task"], row["split"]) == place]
    for x, name in AXES.items():
        if any(row["collapsed"] and figures.on_axis(row, x) for row in rows):
            body += album.figure(
                f"collapse_{x}",
                partial(figures.collapse_signs, rows, x),
                f"Signs of collapse against {name}",
                f"Signs of collapse over {name}.",
                f"Problems of {place[0]}, {place[1]}. Crosses are models that have collapsed. "
                "A sign counts where it is far from what the checkpoint that extrapolation has "
                "seen last shows on the same problems, beyond chance.",
            )
    return Section("collapse", title, title, body)


def _sentence(row: Row) -> str:
    """Why a model has collapsed, and where."""
    reasons = "; ".join(row["collapse"]["reasons"]).replace(" %", "\u00a0%")
    return f"Collapsed on {row['task']}, {row['split']}: {reasons}."


def _models(rows: Sequence[Row]) -> int:
    return len({row["model"] for row in rows})


def _shown(rows: Sequence[Row]) -> tuple[str, str]:
    """Task and split of the figures: where most models have collapsed, test before others."""
    places = [(str(row["task"]), str(row["split"])) for row in rows]
    return max(dict.fromkeys(places), key=lambda place: (places.count(place), place[1] == "test"))


def without_labels(run: Artefacts) -> Section:
    """What would be chosen without a reference answer, and what the labels say of it."""
    title = "Chosen without labels"
    found = (run.scores or {}).get("label_free")
    if not found:
        return absent_section("label_free", title, ["evaluate"])
    labels = {str(row["model"]): words.model_label(row) for row in run.rows}
    pairs = [
        (f"{words.KINDS[kind]}, {_CRITERIA[criterion]}", _judged(choice, labels))
        for kind, criteria in found.items()
        for criterion, choice in criteria.items()
    ]
    note = (
        "No reference answer has a part in these choices, which are made on validation problems; "
        "labels only judge them. Models with signs of collapse are left out, since they agree with "
        "themselves and are sure of it; of the others, too, the sharpest has the lowest entropy "
        "and perplexity, right or wrong. Regret is measured where the labelled choice was made, "
        "which favours that one; the test problems favour none."
    )
    body = words_table(pairs) + render("note", text=note)
    return Section("label_free", "Without labels", title, body)


_CRITERIA = {
    "agreement": "agreement of samples",
    "entropy": "lowest entropy",
    "perplexity": "lowest perplexity of its own responses",
}


def _judged(choice: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    """A choice without labels beside the one with labels, in words."""
    out = f" {choice['left_out']} left out for signs of collapse." if choice["left_out"] else ""
    if choice["model"] is None:
        return f"nothing to choose.{out}"
    name = labels.get(choice["model"], choice["model"])
    text = f"{name}, {words.percent(choice['validation avg@k'])} on validation"
    if choice["same"]:
        text += ", as with labels."
    else:
        other = labels.get(choice["labelled"], choice["labelled"])
        text += f"; with labels {other}, regret {words.gap(choice['regret'])}."
    for test in choice["test"]:
        text += f" On test, {test['task']}: {words.gap(test)} to that one."
    rank = choice["rank_correlation"]
    if rank is not None:
        value = f"{rank:.2f}".replace("-", "−")
        text += f" Rank correlation with accuracy {value} over {choice['candidates']} candidates."
    return text + out
