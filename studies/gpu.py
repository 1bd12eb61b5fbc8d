"""What `tests/gpu/run.sh` measured on a GPU, as a table of the documentation and a figure.

    python -m studies.gpu --out FOLDER

FOLDER holds what the script has left: results.json, or one in each of several folders where it ran
in parts, and beside the step `study`'s the scores of its predictions. Of several results of a step
the last that ended well counts. Nothing is run here.
Writes docs/results/gpu.json and docs/figures/gpu.png, and prints the tables.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.artifacts import read_own, write_json
from pipeline.errors import PipelineError
from pipeline.report.figures.style import LIGHT, sheet
from studies.jobs import ROOT, Curve, folder_of_runs, over_seeds, percent
from studies.reground import ACCURACIES

SEEN = 80  # the step that the predictions of tests/gpu/study.py start from
COLUMNS = ("avg@k", "ci95", "diff_to_start", "diff_to_last_rl", "truncated_share", "collapsed")


def collected(out: Path) -> dict[str, Any]:
    """The machine, every step's result, and the scores of the predictions, a list of rows a seed.

    Raises:
        PipelineError: there is no results.json, or the step `study` has not ended well.
    """
    files = sorted([*out.glob("results.json"), *out.glob("*/results.json")])
    if not files:
        raise PipelineError(f"{out}: no results.json; see docs/gpu.md for the script that makes it")
    found = sorted((read_own(file, "machine", "steps") for file in files), key=_date)
    steps: dict[str, Any] = {}
    for name, result in itertools.chain.from_iterable(one["steps"].items() for one in found):
        if name not in steps or result["state"] == "ok":
            steps[name] = result
    if steps.get("study", {}).get("state") != "ok":
        raise PipelineError(
            f"{out}: the step study did not end well; tests/gpu/run.sh --only study"
        )
    scores = [
        [
            {key: row[key] for key in ("model", "temperature", *COLUMNS) if key in row}
            for row in [*found["rows"], *found["controls"]["rows"]]
            if row["split"] == "test"
        ]
        for file in sorted([*out.glob("predict-*.json"), *out.glob("*/predict-*-scores.json")])
        if file.name.endswith("evaluate-scores.json")
        for found in [read_own(file, "rows", "controls")]
    ]
    return {"machine": found[-1]["machine"], "steps": steps, "scores": scores}


def _date(found: Mapping[str, Any]) -> str:
    return str(found["machine"]["date"])


def predicted_table(scores: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    """Markdown: accuracy in % at T = 1, a column a seed and the mean with its interval."""
    seeds = range(len(scores))
    head = " | ".join(f"seed {seed}" for seed in seeds)
    lines = [f"| T = 1 | {head} | mean | cut at the limit |", f"|---|{'--:|' * (len(scores) + 2)}"]
    sampled = [{row["model"]: row for row in rows if row["temperature"] == 1} for rows in scores]
    for model in sampled[0]:
        values = [by[model]["avg@k"] for by in sampled]
        cut = [by[model]["truncated_share"] for by in sampled]
        cells = " | ".join(f"{100 * value:.1f}" for value in values)
        mean = percent(over_seeds(values, 0.0, 1.0))
        lines.append(f"| {model} | {cells} | {mean} | {100 * max(cut):.0f} |")
    return "\n".join(lines)


def reground_table(finals: Mapping[str, Curve]) -> str:
    """Markdown: real steps to each accuracy, by seed."""
    lines = [
        f"| real steps to (seeds 0 / 1 / 2) | {' | '.join(f'{a:.0%}' for a in ACCURACIES)} |",
        f"|---|{'---|' * len(ACCURACIES)}",
    ]
    for side, curves in sides(finals).items():
        cells = []
        for accuracy in ACCURACIES:
            reached = [found.first(accuracy) for found in curves]
            cells.append(" / ".join("-" if at is None else f"{at[0]:.1f}" for at in reached))
        lines.append(f"| {side} | {' | '.join(cells)} |")
    return "\n".join(lines)


def sides(finals: Mapping[str, Curve]) -> dict[str, list[Curve]]:
    """The curves of each side, one a seed."""
    found: dict[str, list[Curve]] = {}
    for name, one in finals.items():
        found.setdefault(name.rpartition(", seed ")[0], []).append(one)
    return found


def draw(
    scores: Sequence[Sequence[Mapping[str, Any]]], finals: Mapping[str, Curve], path: Path
) -> None:
    """Left: real RL, and the weights predicted from its first half; right: accuracy over real
    steps with and without jumps. A line a seed."""
    with sheet(path, 3.6, LIGHT) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        for place, rows in enumerate(scores):
            at_one = [row for row in rows if row["temperature"] == 1]
            real, ahead = (_points(at_one, kind) for kind in ("rl-", "two_point-"))
            ahead = {SEEN: real[SEEN], **ahead}
            for points, colour, label in (
                (real, LIGHT.rl, "real RL"),
                (ahead, LIGHT.methods[0], "weights, two_point"),
            ):
                left.plot(
                    list(points),
                    list(points.values()),
                    marker="o",
                    markersize=2.5,
                    linewidth=1.2,
                    color=colour,
                    label=None if place else label,
                )
        left.axvline(SEEN, color=LIGHT.muted, linewidth=0.8)
        left.set(title="Predicted from steps 0 and 80", xlabel="RL step", ylim=(0, 100))
        left.set_ylabel("accuracy at T = 1, %")
        colours = (LIGHT.rl, LIGHT.methods[3], LIGHT.methods[0], LIGHT.methods[1])
        for (side, curves), colour in zip(sides(finals).items(), colours, strict=True):
            for place, one in enumerate(curves):
                values = [100 * value for value in one.accuracies]
                name = None if place else side
                right.plot(one.steps, values, color=colour, linewidth=1.1, label=name)
        right.set(title="Jumps against plain RL", xlabel="real RL step")
        for axes in (left, right):
            axes.legend(loc="lower right" if axes is right else "upper right")


def _points(rows: Sequence[Mapping[str, Any]], kind: str) -> dict[int, float]:
    """Step -> accuracy in %, of the models of a kind."""
    names = [row for row in rows if row["model"].startswith(kind)]
    return {int(row["model"].rpartition("-")[2]): 100 * row["avg@k"] for row in names}


def main() -> None:
    found = collected(folder_of_runs(__doc__))
    head = {"command": "tests/gpu/run.sh; python -m studies.gpu --out outputs/gpu"}
    write_json(ROOT / "docs" / "results" / "gpu.json", {**head, **found})
    finals = {
        name: Curve(**one) for name, one in found["steps"]["study"]["curves"]["finals"].items()
    }
    draw(found["scores"], finals, ROOT / "docs" / "figures" / "gpu.png")
    print(predicted_table(found["scores"]), reground_table(finals), sep="\n\n")


if __name__ == "__main__":
    main()
