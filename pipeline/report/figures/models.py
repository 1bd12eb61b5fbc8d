"""The models side by side on one task: scores with intervals, and paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from pipeline.report.figures.scores import Row, colour_of, method_names, percent
from pipeline.report.figures.style import LIGHT, Theme, sheet, shorten


def model_bars(
    rows: Sequence[Row],
    labels: Sequence[str],
    last_rl: str,
    path: Path,
    theme: Theme = LIGHT,
    methods: Sequence[str] = (),
) -> Path:
    """Models side by side on one task and split: avg@k, and the paired difference to the last RL.

    Args:
        rows: the rows to show, top to bottom, all of one task and split.
        labels: one for each row.
        last_rl: model id that the differences refer to.
        path: PNG to write.
        theme: colours. Left: avg@k with its 95 % interval. Right: difference with its interval.
        methods: all weight extrapolation methods of the run, so that each keeps its colour.
    """
    order = methods or method_names(rows)
    with sheet(path, 1.15 + 0.36 * max(len(rows), 2), theme) as figure:
        left, right = figure.subplots(1, 2, sharey=True, gridspec_kw={"width_ratios": [3, 2]})
        for place, row in enumerate(rows):
            colour = colour_of(row, order, theme)
            level, (low, high) = percent(row["avg@k"]), map(percent, row["ci95"])
            left.barh(place, level, height=0.62, color=colour, alpha=0.85)
            left.plot([low, high], [place, place], color=theme.ink, linewidth=1.3)
            left.text(high, place, f"  {level:.1f}", va="center", fontsize=8.5)
            difference = row.get("diff_to_last_rl")
            if row["model"] == last_rl:
                right.text(0, place, "  reference", va="center", fontsize=8.5, color=theme.muted)
            elif difference is not None:
                _difference(right, place, difference, colour)
        left.set_yticks(range(len(rows)), [shorten(label, 40) for label in labels])
        left.set_ylim(len(rows) - 0.4, -0.6)
        left.set_xlabel("avg@k (%)")
        left.set_xlim(0, 1.14 * max((percent(row["ci95"][1]) for row in rows), default=1) or 1)
        right.axvline(0, color=theme.muted, linewidth=1.1)
        right.set_xlabel(f"difference to {last_rl} (points)")
        right.margins(x=0.12)
        low, high = right.get_xlim()
        right.set_xlim(min(low, -1), max(high, 1))
        right.locator_params(axis="x", nbins=5)
        for axes in (left, right):
            axes.grid(True, axis="x")
            axes.grid(False, axis="y")
            axes.tick_params(axis="y", length=0)
            axes.spines["left"].set_visible(False)
    return path


def _difference(axes: Axes, place: int, difference: Mapping[str, Any], colour: str) -> None:
    """One paired difference with its interval, in points; filled if the interval excludes zero."""
    middle = 100 * difference["diff"]
    low, high = (100 * bound for bound in difference["ci95"])
    sure = low > 0 or high < 0
    axes.plot([low, high], [place, place], color=colour, linewidth=1.8)
    axes.plot(
        middle,
        place,
        "o",
        color=colour,
        markerfacecolor=colour if sure else axes.get_facecolor(),
        markersize=6,
        markeredgewidth=1.6,
    )
