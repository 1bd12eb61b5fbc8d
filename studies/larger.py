"""Do the findings hold for a model ten times the size of `tiny`?

    python -m studies.larger --out outputs/studies

The task of `tiny`, 5.3 M parameters (4 layers of width 288) from scratch, one seed. RL to step 240
at the rate of `tiny`, with the same methods, horizons and problems as in studies.horizon; and 120
steps at a rate sixteen times as high. Predictions from both runs are then asked of the rules that
studies.rule has fitted on `tiny` alone (docs/results/rule.json), which have not seen this model.
Writes docs/results/larger.json and docs/figures/larger.png, and prints the tables.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts import read_own
from studies import horizon, jobs, rule, tiny_runs
from studies.jobs import ROOT, Job, folder_of_runs, save
from studies.measured import features, subject
from studies.thresholds import fit, judged
from studies.tiny_runs import FAST, long, rl

SEED = 0
SHARED = (
    *tiny_runs.SHARED,
    "model.architecture.layers=4",
    "model.architecture.hidden=288",
    "model.architecture.intermediate=1152",
    "sft_train.learning_rate=1e-3",
)
LASTS = {"RL": rule.LONG_LASTS, f"RL, rate {FAST}": rule.LASTS}
FEATURES = (rule.SHOWN, "shape and length")


def runs() -> dict[str, Job]:
    """Setting -> job."""
    return {"RL": long(SEED), f"RL, rate {FAST}": rl(SEED, f"rate {FAST}")}


def transferred(
    known: Sequence[Mapping[str, Any]], points: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """For each temperature, outcome and set of features: the rule of two thresholds that is best on
    the `known` points, and how it does on `points`."""
    rows = []
    for words, name, features_of in itertools.product(rule.TEMPERATURES, rule.OUTCOMES, FEATURES):
        old, new = (
            np.array([bool(point[words][name]) for point in each]) for each in (known, points)
        )
        keys = rule.FEATURES[features_of]
        made = fit(rule.table_of(known, keys, words), old, 2)
        said = made.says(rule.table_of(points, keys, words))
        found = judged(said, new, [str(point["setting"]) for point in points])
        head = {"temperature": words, "outcome": name, "rule": str(made), "said": int(said.sum())}
        rows.append(head | found)
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown, a line for each rule."""
    lines = [
        "| | of | rule fitted on `tiny` | said | hits, % | always the same | balanced |",
        "|---|--:|---|--:|--:|--:|--:|",
    ]
    for row in rows:
        lines.append(
            f"| {row['temperature']} {row['outcome']} | {row['yes']}/{row['points']} "
            f"| {row['rule']} | {row['said']} | {100 * row['hit_rate']:.0f} "
            f"| {100 * row['always_the_same']:.0f} | {100 * row['balanced']:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    out = folder_of_runs(__doc__) / "larger"
    made = runs()
    jobs.run(
        list(made.values()), out, (*SHARED, f"run.shared={out / 'store'}"), last="linear_probe"
    )
    folders: dict[str, Path] = {setting: out / job.name for setting, job in made.items()}
    curves = horizon.summary([horizon.indexed(horizon.measured(folders["RL"]))])
    points = [
        {"setting": setting, **point}
        for setting, folder in folders.items()
        for point in rule.measured(folder, LASTS[setting])
    ]
    known = read_own(ROOT / "docs" / "results" / "rule.json", "points")["points"]
    judgement = transferred(known, points)
    paths = {name: features(subject(folder).trajectory) for name, folder in folders.items()}
    save(
        "larger", {"shared": SHARED, "paths": paths, **curves, "rule": judgement, "points": points}
    )
    horizon.draw(curves, ROOT / "docs" / "figures" / "larger.png")
    for words, at in curves.items():
        print(f"{words}\n{horizon.table(at)}\n")
    print(table(judgement))


if __name__ == "__main__":
    main()
