"""The signs of collapse over the horizon or over α, a panel a sign."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.report.figures.scores import Row, colour_of, method_names
from pipeline.report.figures.style import LIGHT, WIDTH, Theme, data_ticks, sheet

KINDS = {"step": ("rl", "weight"), "alpha": ("logit",)}
LEAST = 5.0  # percent that a share's axis reaches: noise is not to look like news
PANELS = (  # key of a row, title, factor
    ("truncated_share", "cut at the limit (%)", 100),
    ("no_answer_share", "no answer (%)", 100),
    ("looping_share", "ends in a loop (%)", 100),
    ("same_answer_share", "most common answer (%)", 100),
    ("entropy", "entropy (nats per token)", 1),
    ("tokens_mean", "tokens in a response", 1),
)


def on_axis(row: Row, x: str) -> bool:
    """Whether a row has its place in the figure over `x`."""
    return row["kind"] in KINDS[x]


def collapse_signs(rows: Sequence[Row], x: str, path: Path, theme: Theme = LIGHT) -> Path:
    """Six panels, a line a method (and real RL), crosses where a model has collapsed.

    Args:
        rows: `rows` of `scores.json` of one task and split.
        x: "step" (real RL and weights) or "alpha" (logits).
        path: PNG to write.
        theme: colours.
    """
    drawn = [row for row in rows if on_axis(row, x)]
    methods = method_names(rows)
    names = {"rl": "real RL", "logit": "logit extrapolation"}
    lines: dict[str, list[Row]] = {}
    for row in sorted(drawn, key=lambda row: float(row[x])):
        lines.setdefault(names.get(row["kind"]) or str(row["method"]), []).append(row)
    with sheet(path, 4.6, theme) as figure:
        grid = figure.subplots(2, 3, squeeze=False, sharex=True)
        for axes, (key, title, factor) in zip(grid.ravel(), PANELS, strict=True):
            for name, mine in lines.items():
                colour = colour_of(mine[0], methods, theme)
                known = [row for row in mine if row.get(key) is not None]
                points = [(float(row[x]), factor * float(row[key])) for row in known]
                axes.plot(*_columns(points), color=colour, marker="o", markersize=3.5, label=name)
                lost = [p for p, row in zip(points, known, strict=True) if row["collapsed"]]
                axes.plot(*_columns(lost), "x", color=theme.ink, markersize=8, markeredgewidth=1.6)
            axes.set_title(title)
            top = max(axes.dataLim.y1, LEAST if factor == 100 else 0.0) or 1.0
            axes.set_ylim(-0.04 * top, 1.08 * top)  # from zero, with room for the points on it
            data_ticks(axes, [float(row[x]) for row in drawn], WIDTH / 3 - 0.7)
        for axes in grid[-1]:
            axes.set_xlabel("RL step, or step extrapolated to" if x == "step" else "α")
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=min(len(labels), 5))
    return path


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]
