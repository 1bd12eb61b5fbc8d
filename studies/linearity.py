"""How straight is the path: RL, supervised training, supervised training with noise?

    python -m studies.linearity --out outputs/studies

120 steps of `tiny` from the same base model, with a checkpoint every twenty: GRPO, supervised
training on right answers to the same problems at the same rate and batch, and the same with noise
of random sign on the loss of every token at several signal-to-noise ratios; and variants of GRPO
(rate, optimiser, size of groups, algorithm). Each path is measured as it is (fp32
masters) and with every checkpoint rounded to bfloat16, with and without the filter on movement.
Writes docs/results/linearity.json and docs/figures/linearity.png, and prints the table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from pipeline.artifacts import read_own, write_json
from pipeline.report.figures.style import LIGHT, sheet
from studies import tiny_runs
from studies.jobs import ROOT, Job, folder_of_runs, over_seeds, save
from studies.measured import computed, features, rounded, subject
from studies.tiny_runs import FAST, NOISE, SEEDS, VARIANTS, rl, sft

BOUNDS = {"relative_movement": (0.0, math.inf), "straightness": (-1.0, 1.0)}  # others: 0 to 1
COMPUTED = ("logprobs", "activations")  # by the model, on fixed texts
SHOWN = {  # of the table
    "r2_median": "median R²",
    "r2_median_unfiltered": "unfiltered",
    "dropped": "dropped",
    "relative_movement": "movement",
    "rank1_share": "rank-1 share",
    "straightness": "straightness",
}


def groups() -> dict[str, list[Job]]:
    """What is compared: a name, and a job a seed."""
    found = {"RL": [rl(seed) for seed in SEEDS], "SFT": [sft(seed) for seed in SEEDS]}
    found |= {
        f"SFT, {noise:+d} dB": [sft(seed, noise) for seed in seeds]
        for noise, seeds in NOISE.items()
    }
    found[f"SFT, rate {FAST}"] = [sft(0, rate=FAST)]
    return found | {f"RL, {variant}": [rl(0, variant)] for variant in VARIANTS}


def measured(folder: Path) -> dict[str, dict[str, float]]:
    """Features of a finished run's path by dtype, and of its log-probs; kept in the run."""
    kept = folder / "measured.json"
    if not kept.exists():
        trajectory = subject(folder).trajectory
        found = {
            "fp32": features(trajectory),
            "bf16": features(rounded(trajectory, folder / "bf16")),
            **{what: computed(folder, what) for what in COMPUTED},
        }
        write_json(kept, found)
    values: dict[str, dict[str, float]] = read_own(kept)
    return values


def summary(found: Mapping[str, Sequence[Mapping[str, Mapping[str, float]]]]) -> dict[str, Any]:
    """Every figure of each group over its seeds, and RL's minus each other group's, by seed."""
    result: dict[str, Any] = {}
    for name, runs in found.items():
        result[name] = {
            place: {
                key: over_seeds([run[place][key] for run in runs], *BOUNDS.get(key, (0.0, 1.0)))
                for key in figures
            }
            for place, figures in runs[0].items()
        }
        if name != "RL" and len(runs) == len(found["RL"]):
            result[name]["RL minus this"] = {
                f"{place} {key}": over_seeds(
                    [
                        mine[place][key] - other[place][key]
                        for mine, other in zip(found["RL"], runs, strict=True)
                    ]
                )
                for place in ("fp32", "bf16")
                for key in ("r2_median", "r2_median_unfiltered")
            }
    return result


def table(result: Mapping[str, Any]) -> str:
    """Markdown, a line for each group and dtype."""
    lines = [f"| | | {' | '.join([*SHOWN.values(), *COMPUTED])} |"]
    lines.append("|---|---|" + "--:|" * (len(SHOWN) + len(COMPUTED)))
    for name, group in result.items():
        for place in ("fp32", "bf16"):
            cells = [_cell(group[place][key]) for key in SHOWN]
            if place == "fp32":
                cells += [_cell(group[what]["r2_median_unfiltered"]) for what in COMPUTED]
            lines.append(f"| {name} | {place} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(figure: Mapping[str, Any]) -> str:
    text = f"{figure['mean']:.3g}"
    return (
        f"{text} [{figure['ci95'][0]:.3g}, {figure['ci95'][1]:.3g}]" if "ci95" in figure else text
    )


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Median R² over the signal-to-noise ratio, left without and right with the filter."""
    with sheet(path, 3.6, LIGHT) as figure:
        axes: Sequence[Axes] = figure.subplots(1, 2, sharey=True)
        titles = {
            "r2_median_unfiltered": "All weights",
            "r2_median": "Weights that pass the filter",
        }
        for place, (key, title) in zip(axes, titles.items(), strict=True):
            _panel(place, result, key)
            place.set(title=title, xlabel="signal to noise of token losses, dB", xticks=[*NOISE])
        axes[0].set(ylabel="median R² of the weights", ylim=(0, 1))
        axes[0].legend(loc="lower left", ncols=2)


def _panel(axes: Axes, result: Mapping[str, Any], key: str) -> None:
    for dtype, line in (("fp32", "-"), ("bf16", "--")):
        noisy = [result[f"SFT, {noise:+d} dB"][dtype][key] for noise in NOISE]
        axes.plot(
            [*NOISE],
            [each["mean"] for each in noisy],
            line,
            color=LIGHT.methods[0],
            label=f"SFT with noise, {dtype}",
        )
        for noise, each in zip(NOISE, noisy, strict=True):
            values = each["values"]
            axes.plot([noise] * len(values), values, "o", color=LIGHT.methods[0], markersize=3)
        for name, colour in (("RL", LIGHT.rl), ("SFT", LIGHT.base)):
            level = result[name][dtype][key]["mean"]
            axes.axhline(level, linestyle=line, color=colour, label=f"{name}, {dtype}")


def main() -> None:
    out = folder_of_runs(__doc__) / "tiny"
    found = {}
    for name, jobs in groups().items():
        tiny_runs.run(jobs, out)
        found[name] = [measured(out / job.name) for job in jobs]
    result = summary(found)
    save("linearity", {"shared": tiny_runs.SHARED, "groups": result})
    draw(result, ROOT / "docs" / "figures" / "linearity.png")
    print(table(result))


if __name__ == "__main__":
    main()
