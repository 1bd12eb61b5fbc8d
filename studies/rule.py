"""Can it be said before evaluation whether a prediction will gain, or collapse?

    python -m studies.rule --out outputs/studies

Runs of studies.linearity, studies.horizon and plain RL of studies.reground, whose learning rates go
up to where training itself breaks. From each, the line through its start and a later checkpoint is
followed to 1.25, 1.5, 2 and 3 times the way. A prediction gains (or loses) if its accuracy lies
above (below) that of the last checkpoint seen, by the paired 95 % interval over problems; it
collapses if it loses and keeps less than half of it. From figures of the path alone, taken from
three checkpoints (start, half, last), rules of one and two thresholds are fitted, and tested on
settings that they have not seen: one (all of its seeds) is left out at a time.
Writes docs/results/rule.json and docs/figures/rule.png, and prints the table.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts import read_own, write_json
from pipeline.report.figures.style import LIGHT, sheet
from studies import reground, tiny_runs
from studies.accuracy import Asked, Size, measure
from studies.jobs import ROOT, folder_of_runs, run, save
from studies.linearity import groups
from studies.measured import features, halves, record, subject
from studies.thresholds import Table, fit, judged, left_out
from studies.tiny_runs import SEEDS, long

FACTORS = (1.25, 1.5, 2.0, 3.0)
LASTS = (80, 120)
LONG_LASTS = (40, 80, 120, 160, 240)
FINALISTS = ("3.2e-4", "6.4e-4")  # rates of studies.reground that have all seeds
SIZE = Size(validation=1, test=300, samples=2)
SHAPE = ("r2_median_unfiltered", "rank1_share", "straightness", "noise", "factor")
SHOWN = "straightness and reach"  # what stages print (pipeline.trajectory.prospects)
FEATURES = {  # what may stand in a rule: without a length, with it, and instead of the path
    SHOWN: ("straightness", "reach"),
    "shape": SHAPE,
    "shape and length": (*SHAPE, "relative_movement", "reach"),
    "accuracy seen": ("seen", "factor"),
}
TICKS = (0.001, 0.01, 0.1)
OUTCOMES = ("gains", "loses", "collapses")
TEMPERATURES = {"greedy": 0.0, "sampled": 1.0}


@dataclass(frozen=True)
class Run:
    """A finished run: what was set, its folder, and the steps to predict from."""

    setting: str
    folder: Path
    lasts: tuple[int, ...]


def runs(out: Path) -> list[Run]:
    """All runs, made where they are not there."""
    found = []
    for seed in SEEDS:
        tiny_runs.run([long(seed)], out / "tiny")
        found.append(Run("RL", out / "tiny" / long(seed).name, LONG_LASTS))
    for setting, jobs in groups().items():
        if setting != "RL":  # the long runs begin with these
            tiny_runs.run(jobs, out / "tiny")
            found += [Run(setting, out / "tiny" / job.name, LASTS) for job in jobs]
    for rate in reground.RATES:
        for seed in SEEDS if rate in FINALISTS else SEEDS[:1]:
            job = reground.plain(rate, seed)
            run([job], out / "reground", reground.SHARED)
            folder = out / "rule" / job.name
            made = out / "reground" / job.name
            record(_checkpoints(made), folder, made / "config.yaml")
            found.append(Run(f"RL, rate {rate}", folder, (reground.STEPS,)))
    return found


def _checkpoints(made: Path) -> dict[int, Path]:
    """What studies.reground leaves of a run: the checkpoint at half of it, and its end."""
    half, last = reground.STEPS // 2, reground.STEPS
    rl = made / "rl_train"
    return {
        0: made / "sft_train" / "model",
        half: rl / "checkpoints" / f"checkpoint-{half}",
        last: rl / "snapshots" / f"step_{last}",
    }


def measured(folder: Path, lasts: Sequence[int]) -> list[dict[str, Any]]:
    """A point for each step to predict from, and factor; kept in the run."""
    kept = folder / "rule.json"
    if not kept.exists():
        asked = {
            (last, factor): Asked(f"x{factor:g} of {last}", "two_point", round(last * factor), last)
            for last in lasts
            for factor in FACTORS
        }
        rows = measure(folder, list(asked.values()), [], SIZE)
        by = {(row["model"], row["split"], row["temperature"]): row for row in rows}
        trajectory = subject(folder).trajectory
        paths = {last: features(halves(trajectory, last)) for last in lasts}
        write_json(kept, [_point(paths[last], one, by) for (last, _), one in asked.items()])
    points: list[dict[str, Any]] = read_own(kept)
    return points


def _point(
    path: Mapping[str, float], one: Asked, rows: Mapping[tuple[str, str, float], Mapping[str, Any]]
) -> dict[str, Any]:
    factor = one.target / one.last
    return {
        "last": one.last,
        **path,
        "factor": factor,
        "reach": (factor - 1) * path["relative_movement"],
        **{
            words: outcome(rows[(f"rl-{one.last}", "test", t)], rows[(one.name, "test", t)])
            for words, t in TEMPERATURES.items()
        },
    }


def outcome(seen: Mapping[str, Any], predicted: Mapping[str, Any]) -> dict[str, Any]:
    """What became of a prediction, against the last checkpoint that it has seen."""
    low, high = predicted["against_seen"]["ci95"]
    return {
        "seen": seen["avg@k"],
        "seen_entropy": seen["entropy"],
        "predicted": predicted["avg@k"],
        "ci95": [low, high],
        "gains": low > 0,
        "loses": high < 0,
        "collapses": high < 0 and predicted["avg@k"] < seen["avg@k"] / 2,
        "entropy": predicted["entropy"],
        "no_answer": predicted["extraction_failures"],
        "truncated": predicted["truncated_share"],
    }


def table_of(points: Sequence[Mapping[str, Any]], keys: Sequence[str], words: str) -> Table:
    """The features of all points; `seen` is the last checkpoint's accuracy at that temperature."""
    rows = [{**point, "seen": point[words]["seen"]} for point in points]
    return {key: np.array([float(row[key]) for row in rows]) for key in keys}


def summary(points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each temperature, outcome, set of features and number of thresholds: the rule that is
    best on all points, and how those that had not seen a setting did on it."""
    settings = [str(point["setting"]) for point in points]
    rows = []
    for words, name in itertools.product(TEMPERATURES, OUTCOMES):
        truth = np.array([bool(point[words][name]) for point in points])
        for (features_of, keys), parts in itertools.product(FEATURES.items(), (1, 2)):
            values = table_of(points, keys, words)
            rows.append(
                {
                    "temperature": words,
                    "outcome": name,
                    "features": features_of,
                    "thresholds": parts,
                    "rule": str(fit(values, truth, parts)),
                    **judged(left_out(values, truth, settings, parts), truth, settings),
                }
            )
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown, a line for each rule."""
    lines = [
        "| | of | features | rule fitted on all | hits on unseen settings, % | always the same "
        "| balanced |",
        "|---|--:|---|---|--:|--:|--:|",
    ]
    for row in rows:
        low, high, least, most = (
            100 * bound for bound in (*row["hit_rate_ci95"], *row["balanced_ci95"])
        )
        lines.append(
            f"| {row['temperature']} {row['outcome']} | {row['yes']}/{row['points']} "
            f"| {row['features']} | {row['rule']} "
            f"| {100 * row['hit_rate']:.0f} [{low:.0f}, {high:.0f}] "
            f"| {100 * row['always_the_same']:.0f} "
            f"| {100 * row['balanced']:.0f} [{least:.0f}, {most:.0f}] |"
        )
    return "\n".join(lines)


def draw(points: Sequence[Mapping[str, Any]], path: Path) -> None:
    """What became of each prediction, over how far it reaches and how straight the path was."""
    kinds = {"collapses": LIGHT.methods[0], "loses": LIGHT.methods[2], "gains": LIGHT.logit}
    with sheet(path, 3.8, LIGHT) as figure:
        for axes, words in zip(figure.subplots(1, 2, sharey=True), TEMPERATURES, strict=True):
            for kind in ("no difference", *reversed(kinds)):
                mine = [p for p in points if _kind(p[words]) == kind]
                axes.plot(
                    [point["reach"] for point in mine],
                    [point["r2_median_unfiltered"] for point in mine],
                    "o",
                    color=kinds.get(kind, LIGHT.base),
                    markersize=3.5,
                    label=kind,
                )
            axes.set(
                title=words,
                xscale="log",
                xticks=TICKS,
                xticklabels=[f"{tick:g}" for tick in TICKS],
                xlabel="step beyond the last checkpoint / |weights|",
            )
        figure.axes[0].set_ylabel("median R² of all weights")
        figure.axes[1].legend(loc="lower left")


def _kind(found: Mapping[str, Any]) -> str:
    return next((kind for kind in reversed(OUTCOMES) if found[kind]), "no difference")


def main() -> None:
    out = folder_of_runs(__doc__)
    points = [
        {"setting": each.setting, "run": each.folder.name, **point}
        for each in runs(out)
        for point in measured(each.folder, each.lasts)
    ]
    rl = [point for point in points if point["setting"].startswith("RL")]
    result = {"all": summary(points), "RL alone": summary(rl)}
    save("rule", {"rules": result, "points": points})
    draw(points, ROOT / "docs" / "figures" / "rule.png")
    for name, rows in result.items():
        print(f"{name}\n{table(rows)}\n")


if __name__ == "__main__":
    main()
