"""How far do predictions carry, against real RL at the same step and beyond?

    python -m studies.horizon --out outputs/studies

RL on `tiny` to step 240; every method sees the checkpoints of steps 0 to 120, one in twenty steps,
and predicts steps up to 600. Greedy accuracy and accuracy at temperature 1, on the same validation
and test problems: each method with and without a trust region, from fp32 masters and from
checkpoints rounded to bfloat16; logit mixtures over alpha. A method's horizon is chosen on
validation, and compared with the horizon that is best on test.
Writes docs/results/horizon.json and docs/figures/horizon.png, and prints the tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from pipeline.artifacts import read_own, write_json
from pipeline.report.figures.style import LIGHT, sheet
from studies import tiny_runs
from studies.accuracy import Asked, Size, measure
from studies.jobs import ROOT, folder_of_runs, over_seeds, percent, save
from studies.tiny_runs import LONG, SEEDS, STEPS, long

TARGETS = (160, 200, 240, 300, 360, 480, 600)
ALPHAS = (*(target / STEPS for target in TARGETS), 8.0, 12.0, 20.0)
SIZE = Size(validation=200, test=300, samples=2)
MOVING = ("two_point", "least_squares", "rank1", "gated", "damped", "first_update")
STILL = ("rre", "expo", "ema", "mean")  # the same whatever the target
TRUST = {"two_point": 1.0, "damped": 1.0}  # of the whole way; others: of the last twenty steps
OTHERS_TRUST = 4.0
TEMPERATURES = {"greedy": 0.0, "sampled": 1.0}
ROUNDED = ("two_point", "least_squares", "rank1")


def asked() -> dict[str, list[Asked]]:
    """The predictions by what they are called in the tables."""
    found: dict[str, list[Asked]] = {}

    def add(name: str, option: str, targets: Sequence[int], **rest: Any) -> None:
        found[name] = [Asked(f"{name} {t}", option, t, STEPS, **rest) for t in targets]

    for option in MOVING:
        add(option, option, TARGETS)
        limit = {"max_norm": TRUST.get(option, OTHERS_TRUST)}
        add(f"{option}, trust region", option, TARGETS, options=limit)
    for option in STILL:
        add(option, option, TARGETS[2:3])
    add("rre, no trust region", "rre", TARGETS[2:3], options={"max_norm": None})
    for option in ROUNDED:
        add(f"{option}, bf16", option, TARGETS, bf16=True)
    return found


def measured(folder: Path) -> list[dict[str, Any]]:
    """All rows of one seed's run; kept in the run."""
    kept = folder / "horizon.json"
    if not kept.exists():
        wanted = [one for each in asked().values() for one in each]
        steps = [0, 60, STEPS, *(t for t in range(STEPS, LONG + 1, 20))]
        write_json(
            kept, measure(folder, wanted, steps, SIZE, alphas=ALPHAS, last=STEPS, rival=LONG)
        )
    rows: list[dict[str, Any]] = read_own(kept)
    return rows


Rows = Mapping[tuple[str, str, float], Mapping[str, Any]]  # by model, split, temperature


def indexed(rows: Sequence[Mapping[str, Any]]) -> Rows:
    return {(row["model"], row["split"], row["temperature"]): row for row in rows}


def curve(found: Sequence[Rows], models: Mapping[str, str], temperature: float) -> dict[str, Any]:
    """Test accuracy over the seeds of each point {label: model}."""
    return {
        label: over_seeds([rows[(model, "test", temperature)]["avg@k"] for rows in found], 0.0, 1.0)
        for label, model in models.items()
    }


def choice(found: Sequence[Rows], models: Mapping[str, str], temperature: float) -> dict[str, Any]:
    """Which point {label: model} is best on test, which one validation chooses, by seed, and what
    the chosen one is worth on test, against real RL too: over seeds, and for each over problems."""
    best, chosen = [], []
    against: dict[str, list[float]] = {"best": [], f"rl-{STEPS}": [], f"rl-{LONG}": []}
    scores, problems = [], []
    for rows in found:
        test, validation = (
            {x: rows[(m, split, temperature)]["avg@k"] for x, m in models.items()}
            for split in ("test", "validation")
        )
        best.append(max(test, key=lambda label: test[label]))
        chosen.append(max(validation, key=lambda label: validation[label]))
        scores.append(test[chosen[-1]])
        own_row = rows[(models[chosen[-1]], "test", temperature)]
        problems.append({key: own_row[key] for key in ("ci95", "against_seen", "against_rival")})
        for other, differences in against.items():
            own = test[best[-1]] if other == "best" else rows[(other, "test", temperature)]["avg@k"]
            differences.append(scores[-1] - own)
    minus = {f"minus {other}": over_seeds(each) for other, each in against.items()}
    return {
        "best on test": best,
        "chosen": chosen,
        "score": over_seeds(scores, 0.0, 1.0),
        **minus,
        "over problems": problems,
    }


def summary(found: Sequence[Rows]) -> dict[str, Any]:
    """Curves and choices of real RL, of each method and of the logits, at both temperatures."""
    points = {
        name: {"any" if len(each) == 1 else str(one.target): one.name for one in each}
        for name, each in asked().items()
    }
    points["logits"] = {f"{alpha * STEPS:.0f}": f"logit-{alpha:g}" for alpha in ALPHAS}
    models = {model for model, _, _ in found[0]}
    steps = sorted(int(m.removeprefix("rl-")) for m in models if m.startswith("rl-"))
    real = {"0": "base", **{str(step): f"rl-{step}" for step in steps}}
    return {
        words: {
            "real RL": curve(found, real, temperature),
            "methods": {
                name: {
                    "curve": curve(found, each, temperature),
                    **choice(found, each, temperature),
                }
                for name, each in points.items()
            },
        }
        for words, temperature in TEMPERATURES.items()
    }


def table(at: Mapping[str, Any]) -> str:
    """Markdown of one temperature: accuracy in % by target (logits: alpha times 120)."""
    lines = [
        f"| | {' | '.join(map(str, TARGETS))} | chosen by validation | less RL at {LONG} |",
        f"|---|{'--:|' * (len(TARGETS) + 2)}",
    ]
    rows = {"real RL": {"curve": at["real RL"]}, **at["methods"]}
    for name, row in rows.items():
        values = [row["curve"].get(str(target)) for target in TARGETS]
        cells = ["" if v is None else f"{100 * v['mean']:.1f}" for v in values]
        if "score" in row:
            cells += [f"{percent(row['score'])} ({'/'.join(row['chosen'])})"]
            cells += [percent(row[f"minus rl-{LONG}"])]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Left greedy, right at temperature 1: accuracy over the step, mean over seeds."""
    with sheet(path, 4.2, LIGHT) as figure:
        for axes, (words, at) in zip(
            figure.subplots(1, 2, sharey=True), result.items(), strict=True
        ):
            _line(axes, at["real RL"], "real RL", LIGHT.rl, "-")
            for place, option in enumerate(MOVING):
                colour = [*LIGHT.methods, LIGHT.base][place]
                for name, style in ((option, "-"), (f"{option}, trust region", ":")):
                    label = name if style == "-" else None
                    _line(axes, at["methods"][name]["curve"], label, colour, style)
            axes.axvline(STEPS, color=LIGHT.muted, linewidth=0.8)
            axes.set(title=f"{words} (dotted: trust region)", xlabel="step", ylim=(0, 100))
        figure.axes[0].set_ylabel("test accuracy, %")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4)


def _line(axes: Axes, at: Mapping[str, Any], label: str | None, colour: str, style: str) -> None:
    steps, means = [int(step) for step in at], [100 * each["mean"] for each in at.values()]
    axes.plot(steps, means, style, color=colour, linewidth=1.4, label=label)


def main() -> None:
    out = folder_of_runs(__doc__) / "tiny"
    found = []
    for seed in SEEDS:
        tiny_runs.run([long(seed)], out)
        found.append(indexed(measured(out / long(seed).name)))
    result = summary(found)
    save("horizon", {"shared": tiny_runs.SHARED, "size": asdict(SIZE), **result})
    draw(result, ROOT / "docs" / "figures" / "horizon.png")
    for words, at in result.items():
        print(f"{words}\n{table(at)}\n")


if __name__ == "__main__":
    main()
