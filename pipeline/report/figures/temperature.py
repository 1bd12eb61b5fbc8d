"""The sharpening control: accuracy of each model over the temperature that it decodes at."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from pipeline.report.figures.scores import Row, colour_of, method_names, percent
from pipeline.report.figures.style import LIGHT, WIDTH, Theme, number, panels, sheet, shorten


def temperature_curve(
    rows: Sequence[Row],
    labels: Mapping[str, str],
    path: Path,
    theme: Theme = LIGHT,
    methods: Sequence[str] = (),
) -> Path:
    """avg@k against the temperature, a line a model, a panel a task; 0 is greedy decoding.

    Args:
        rows: of one split, each with its `temperature`, 95 % intervals as whiskers.
        labels: what each model is called, in the order of the legend.
        path: PNG to write.
        theme: colours; of several RL checkpoints all but the last are dotted.
        methods: all weight extrapolation methods of the run, so that each keeps its colour.
    """
    tasks = list(dict.fromkeys(str(row["task"]) for row in rows))
    columns = min(2, len(tasks))
    lines = math.ceil(len(tasks) / columns)
    order = methods or method_names(rows)
    steps = [int(row["step"]) for row in rows if row["kind"] == "rl"]
    with sheet(path, 0.9 + 2.9 * lines, theme) as figure:
        grid = panels(figure, len(tasks), columns)
        for axes, task in zip(grid, tasks, strict=True):
            panel = [row for row in rows if row["task"] == task]
            for place, (model, label) in enumerate(labels.items()):
                aside = 0.006 * (place - (len(labels) - 1) / 2)
                if mine := [row for row in panel if row["model"] == model]:
                    look = _look(mine[0], order, max(steps, default=0), theme)
                    _line(axes, mine, label, look, aside)
            ticks = sorted({float(row["temperature"]) for row in panel})
            axes.set_xticks(ticks, [number(tick) if tick else "greedy" for tick in ticks])
            axes.set_xlabel("temperature")
            axes.set_ylabel("correct (%)")
            axes.set_title(shorten(task, 30))
            axes.margins(y=0.08)
        handles, names = grid[0].get_legend_handles_labels()
        wide = max((len(name) for name in names), default=1)
        per_line = max(1, int(WIDTH / (0.65 + 0.073 * wide)))
        figure.legend(handles, names, loc="outside upper left", ncols=min(len(names), per_line))
    return path


def _look(row: Row, methods: Sequence[str], last: int, theme: Theme) -> dict[str, Any]:
    """Colour and line of a model."""
    lines = {"base": "-", "named": "-", "rl": "-" if row.get("step") == last else ":"}
    line = (lines | {"mixture": ":"}).get(row["kind"], "--")
    return {"color": colour_of(row, methods, theme), "linestyle": line}


def _line(
    axes: Axes, rows: Sequence[Row], label: str, look: Mapping[str, Any], aside: float
) -> None:
    """A model's line with whiskers, a little aside so that those of several models stay apart."""
    ordered = sorted(rows, key=lambda row: float(row["temperature"]))
    shift = aside * max(float(row["temperature"]) for row in rows)
    levels = [percent(row["avg@k"]) for row in ordered]
    bounds = [tuple(percent(bound) for bound in row["ci95"]) for row in ordered]
    axes.errorbar(
        [float(row["temperature"]) + shift for row in ordered],
        levels,
        yerr=[
            [max(0.0, y - low) for y, (low, _) in zip(levels, bounds, strict=True)],
            [max(0.0, high - y) for y, (_, high) in zip(levels, bounds, strict=True)],
        ],
        marker="o",
        markersize=4,
        elinewidth=1.0,
        capsize=2.0,
        label=label,
        **look,
    )
