"""Re-grounding on a pre-trained LLM, against plain RL at its own best learning rate.

    python -m studies.smollm2 --out outputs/studies

SmolLM2-135M-Instruct and the products of `+experiment=smollm2`, twelve real steps, one seed. Plain
RL and re-grounding by (3, 3) are tried at the same learning rates, so one side has as much tuning
as the other; every third step the accuracy at T = 1 is measured on the same problems, none of them
trained on. A rate is compared with each rate of the other side, not only the best with the best:
the question is whether a jump does what a greater rate does not.
Writes docs/results/smollm2.json and docs/figures/smollm2_reground.png, and prints the table.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from pipeline.report.figures.style import LIGHT, sheet
from studies.jobs import ROOT, Curve, Job, curve, folder_of_runs, run, save
from studies.reground import jumps, plain

SHARED = (
    "+experiment=smollm2",
    "stages=[rl_train]",
    "tracking.mode=disabled",
    "compute.bf16=false",
    "model.dtype=float32",
    "compute.threads=1",
    "rl_train.steps=12",
    "rl_train.snapshot_every=12",
    "rl_train.checkpoint_every=3",
    "rl_train.validation.every=3",
    "rl_train.validation.problems=78",
    "rl_train.validation.samples=2",
    "task.options.splits={train: 0.4, validation: 0.4, test: 0.2}",
)
RATES = ("2e-5", "1e-5", "5e-6", "2.5e-6")
EVERY, AHEAD = 3, 3
SEED = 0
ACCURACIES = (0.4, 0.5, 0.6)


def jobs() -> dict[str, dict[str, Job]]:
    """Side and rate -> job; what is needed first comes first."""
    return {
        "plain RL": {rate: plain(rate, SEED) for rate in RATES},
        f"({EVERY}, {AHEAD})": {rate: jumps(rate, EVERY, AHEAD, SEED) for rate in RATES},
    }


def first(found: Curve) -> list[float | None]:
    """Real steps to each of `ACCURACIES`."""
    reached = [found.first(accuracy) for accuracy in ACCURACIES]
    return [None if one is None else round(one[0], 1) for one in reached]


def table(sides: dict[str, dict[str, Curve]]) -> str:
    """Markdown, a line for each side and rate."""
    steps = next(iter(next(iter(sides.values())).values())).steps
    heads = [*(f"step {step}" for step in steps), *(f"steps to {a:.0%}" for a in ACCURACIES)]
    lines = [f"| | rate | {' | '.join(heads)} |", "|---|--:|" + "--:|" * len(heads)]
    for side, rates in sides.items():
        for rate, found in sorted(rates.items(), key=lambda one: float(one[0])):
            cells = [f"{100 * accuracy:.1f}" for accuracy in found.accuracies]
            cells += ["-" if step is None else f"{step:g}" for step in first(found)]
            lines.append(f"| {side} | {rate} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(sides: dict[str, dict[str, Curve]], path: Path) -> None:
    """Accuracy over real steps, a colour for each rate, jumps dashed."""
    colours = {rate: LIGHT.methods[i] for i, rate in enumerate(sorted(RATES, key=float))}
    with sheet(path, 3.6, LIGHT) as figure:
        axes = figure.subplots()
        for (side, rates), line in zip(sides.items(), ("-", "--"), strict=True):
            for rate, found in sorted(rates.items(), key=lambda one: float(one[0])):
                axes.plot(
                    found.steps,
                    [100 * accuracy for accuracy in found.accuracies],
                    line,
                    color=colours[rate],
                    marker="o",
                    markersize=3,
                    label=f"{side}, rate {rate}",
                )
        axes.set(
            title="SmolLM2 on small products, one seed",
            xlabel="real RL step",
            ylabel="validation accuracy at T = 1, %",
            ylim=(0, None),
        )
        axes.legend(loc="lower right", ncols=2)


def main() -> None:
    out = folder_of_runs(__doc__) / "smollm2"
    wanted = jobs()
    for rate in RATES:  # a pair at a time, so that what is there can be compared
        run([side[rate] for side in wanted.values()], out, SHARED)
    sides = {
        side: {rate: curve(out / job.name) for rate, job in rates.items()}
        for side, rates in wanted.items()
    }
    rows = [
        {"side": side, "rate": rate, **asdict(found), "steps_to": first(found)}
        for side, rates in sides.items()
        for rate, found in rates.items()
    ]
    save("smollm2", {"shared": SHARED, "accuracies": ACCURACIES, "rows": rows})
    draw(sides, ROOT / "docs" / "figures" / "smollm2_reground.png")
    print(table(sides))


if __name__ == "__main__":
    main()
