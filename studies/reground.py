"""Does re-grounding save real steps against plain RL at its own best learning rate?

    python -m studies.reground --out outputs/studies

Both sides are tuned on the validation accuracy of one seed, with the same number of tries: plain RL
over nine learning rates; re-grounding over three (M, N) at three rates, since a jump multiplies
what the rate does. The best of each side are then run with two more seeds (each with a base model
of its own), and so are variants of the best jumps: moments reset, a guard, momentum over the
jumps, and jumps as long as the segment was straight.
What counts is the number of real steps, and of seconds with the guard's in them, until an
accuracy is reached, between two measurements along a straight line.
Writes docs/results/reground.json and docs/figures/reground.png, and prints the table.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.evaluation.students import mean_interval
from pipeline.report.figures.style import LIGHT, sheet
from studies.jobs import ROOT, Curve, Job, curve, folder_of_runs, run, save

SHARED = (
    "+experiment=tiny",
    "stages=[sft_train,rl_train]",
    "tracking.mode=disabled",
    "rl_train.steps=80",
    "rl_train.snapshot_every=80",
    "rl_train.checkpoint_every=40",
    "rl_train.validation.every=2",
    "rl_train.validation.problems=500",
    "rl_train.validation.samples=2",
    "compute.threads=1",
)
RATES = (  # of plain RL
    *("4e-5", "8e-5", "1.6e-4", "2.4e-4", "3.2e-4", "4.8e-4", "6.4e-4", "9e-4", "1.28e-3"),
)
JUMP_RATES = ("6.4e-4", "0.00032", "0.00016")
JUMPS = ((2, 4), (5, 5), (5, 15))
SEEDS = (0, 1, 2)
ACCURACIES = (0.5, 0.7, 0.8, 0.9)
STEPS = 80
FINALISTS = 2  # plain rates that get all seeds; of re-grounding one less, and its variants
DRAWN = "guard"  # the variant that is drawn beside the finalists
TUNED_TO = 0.9  # the accuracy whose steps decide the tuning
VARIANTS = {
    "reset": ("rl_train.reground.optimizer=reset",),
    "guard": ("rl_train.reground.guard.problems=100", "rl_train.reground.guard.samples=2"),
    "momentum": ("rl_train.reground.momentum=0.5",),
    "adaptive": ("rl_train.reground.adaptive=true",),
}


def plain(rate: str, seed: int) -> Job:
    return Job(f"plain-{rate}-s{seed}", (f"algorithm.learning_rate={rate}", f"seed={seed}"))


def jumps(rate: str, every: int, ahead: int, seed: int, variant: str = "") -> Job:
    name = f"reground-{rate}-{every}-{ahead}{'-' + variant if variant else ''}-s{seed}"
    reground = (f"rl_train.reground.every={every}", f"rl_train.reground.jump={ahead}")
    rest = VARIANTS[variant] if variant else ()
    return Job(name, (*plain(rate, seed).overrides, *reground, *rest))


def rank(found: Curve) -> tuple[float, float]:
    """What tuning minimises: steps to `TUNED_TO`, then minus the mean accuracy."""
    reached = found.first(TUNED_TO)
    return reached[0] if reached else math.inf, -statistics.mean(found.accuracies)


def study(out: Path) -> tuple[dict[str, list[Job]], dict[str, list[Job]]]:
    """Run all jobs; returns those of the tuning, and the compared sides with a job a seed.

    What is best with one seed may fail with another, so the finalists of each side get all seeds;
    the first side is the plain rate that is best over them.
    """

    def best(jobs: list[Job], count: int) -> list[int]:
        run(jobs, out, SHARED)
        order = sorted(range(len(jobs)), key=lambda i: rank(curve(out / jobs[i].name)))
        return order[:count]

    def mean_rank(jobs: list[Job]) -> float:
        return statistics.mean(min(rank(curve(out / job.name))[0], STEPS * 2) for job in jobs)

    tried = [plain(rate, 0) for rate in RATES]
    settings = [(rate, *jump) for rate in JUMP_RATES for jump in JUMPS]
    also = [jumps(*setting, 0) for setting in settings]
    rates = [RATES[place] for place in best(tried, FINALISTS)]
    chosen = [settings[place] for place in best(also, FINALISTS - 1)]
    sides = {f"plain, {rate}": [plain(rate, seed) for seed in SEEDS] for rate in rates}
    for one in chosen:
        name = f"({one[1]}, {one[2]}), {one[0]}"
        sides[name] = [jumps(*one, seed) for seed in SEEDS]
    for side in sides.values():
        run(side, out, SHARED)
    variants = {name: [jumps(*chosen[0], seed, name) for seed in SEEDS] for name in VARIANTS}
    for side in variants.values():
        run(side, out, SHARED)
    reference = min(
        (name for name in sides if name.startswith("plain")), key=lambda n: mean_rank(sides[n])
    )
    ordered = {reference: sides.pop(reference), **sides, **variants}
    return {"plain RL": tried, "re-grounding": also}, ordered


def summary(curves: dict[str, list[Curve]], reference: str) -> list[dict[str, Any]]:
    """A row for each side and accuracy: steps and seconds by seed, and how many times fewer than
    `reference` needs, as the geometric mean over seeds with its 95 % interval (Student's t)."""
    rows = []
    for side, found in curves.items():
        for accuracy in ACCURACIES:
            reached = [c.first(accuracy) for c in found]
            row: dict[str, Any] = {"side": side, "accuracy": accuracy}
            for place, unit in enumerate(("steps", "seconds")):
                row[unit] = [None if r is None else round(r[place], 1) for r in reached]
                pairs = zip(curves[reference], reached, strict=True)
                ratios = [
                    math.log(other[place] / mine[place])
                    for plain_curve, mine in pairs
                    if mine and (other := plain_curve.first(accuracy))
                ]
                complete = len(ratios) == len(found) == len(curves[reference])
                row[f"fewer_{unit}"] = interval(ratios) if complete else None
            rows.append(row)
    return rows


def interval(logs: Sequence[float]) -> list[float]:
    """[ratio, low, high] of the mean of logarithms."""
    low, high = mean_interval(logs, low=-math.inf, high=math.inf)
    return [round(math.exp(value), 3) for value in (statistics.mean(logs), low, high)]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown, a line for each side."""
    lines = [
        f"| | {' | '.join(f'{a:.0%}' for a in ACCURACIES)} |",
        f"|---|{'---|' * len(ACCURACIES)}",
    ]
    for side in dict.fromkeys(row["side"] for row in rows):
        cells = []
        for row in (row for row in rows if row["side"] == side):
            steps = "/".join("-" if s is None else f"{s:g}" for s in row["steps"])
            fewer = row["fewer_steps"]
            ratio = f" ({fewer[0]:.2f}x [{fewer[1]:.2f}, {fewer[2]:.2f}])" if fewer else ""
            cells.append(steps + ratio)
        lines.append(f"| {side} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(tuning: dict[str, list[Curve]], sides: dict[str, list[Curve]], path: Path) -> None:
    """Left: all tries of the tuning; right: the compared sides, a line a seed."""
    names = list(sides)
    colours = {name: LIGHT.methods[i % 5] for i, name in enumerate(names[1:])}
    colours[names[0]] = LIGHT.rl
    with sheet(path, 3.6, LIGHT) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        for (label, found), colour in zip(
            tuning.items(), (LIGHT.rl, LIGHT.methods[0]), strict=True
        ):
            for place, one in enumerate(found):
                left.plot(
                    one.steps,
                    [100 * a for a in one.accuracies],
                    color=colour,
                    linewidth=1.0,
                    alpha=0.7,
                    label=label if place == 0 else None,
                )
        for name, found in sides.items():
            for place, one in enumerate(found):
                right.plot(
                    one.steps,
                    [100 * a for a in one.accuracies],
                    color=colours[name],
                    linewidth=1.2,
                    label=name if place == 0 else None,
                )
        left.set(title="Tuning, one seed", xlabel="real RL step", ylabel="validation accuracy, %")
        right.set(title="The best of each, three seeds", xlabel="real RL step")
        for axes in (left, right):
            axes.legend(loc="lower right", ncols=2)


def main() -> None:
    out = folder_of_runs(__doc__) / "reground"
    tuned, sides = study(out)
    curves, tuning = (
        {side: [curve(out / job.name) for job in jobs] for side, jobs in found.items()}
        for found in (sides, tuned)
    )
    reference = next(iter(curves))
    rows = summary(curves, reference)
    tries = {
        job.name: {"steps and seconds to 90 %": curve(out / job.name).first(TUNED_TO)}
        for jobs in tuned.values()
        for job in jobs
    }
    values = {"shared": SHARED, "tuning": tries, "reference": reference, "rows": rows}
    save("reground", values)
    drawn = {side: found for side, found in curves.items() if side == DRAWN or side not in VARIANTS}
    draw(tuning, drawn, ROOT / "docs" / "figures" / "reground.png")
    print(table(rows))


if __name__ == "__main__":
    main()
