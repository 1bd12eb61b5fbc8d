"""How straight the run was: R² histograms, and fits of single scalars to look at.

The measure is that of the paper ("How linearity is measured"): for each scalar (a weight, or a
token's log-probability) the squared correlation of its value with the step, over the snapshots.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from pipeline.report.figures.style import (
    LIGHT,
    WIDTH,
    PowerFormatter,
    Theme,
    data_ticks,
    panels,
    printable,
    sheet,
    shorten,
)
from pipeline.report.tensor_names import parse

BARS = 50
THRESHOLD = 0.7
_PANELS = 9


def r2_histogram(probe: Mapping[str, Any], unit: str, path: Path, theme: Theme = LIGHT) -> Path:
    """Histogram of R² over all scalars: filtered as bars, unfiltered as an outline, medians marked.

    Args:
        probe: `weights.json` or `logprobs.json`: `histogram` with `edges` [B + 1], `counts` [B]
            and `counts_unfiltered` [B] (may be missing), `r2_median` and `unfiltered.r2_median`
            (None where there is no scalar).
        unit: what is counted, in the plural ("weights", "tokens").
        path: PNG to write.
        theme: colours.

    Each of the two is scaled to its own total, since the filter may leave a small part only.
    """
    histogram = probe["histogram"]
    edges = np.asarray(histogram["edges"], dtype=float)
    with sheet(path, 3.5, theme) as figure:
        axes = figure.add_subplot()
        top = first = 0.0
        kept = np.asarray(histogram["counts"], dtype=float)
        everything = histogram.get("counts_unfiltered")
        if everything is not None:
            coarse, share = _shares(edges, np.asarray(everything, dtype=float))
            axes.stairs(share, coarse, color=theme.muted, linewidth=1.4, label=f"all {unit}")
            # scalars that never move pile up at 0 and would flatten all the rest
            top = max(top, float(share[1:].max(initial=0.0)))
            first = float(share[0])
        coarse, share = _shares(edges, kept)
        axes.stairs(
            share,
            coarse,
            fill=True,
            color=theme.rl,
            alpha=0.75,
            zorder=1.5,
            label=f"{unit} that pass the filter",
        )
        top = max(top, float(share.max()))
        if top < 0.01:  # everything lies at 0
            top = max(first, 1.0)
        axes.set_ylim(0, top * 1.22)
        if first > top * 1.22:
            text = f" ↑ {first:.0f} % of all {unit}"
            axes.text(0.02, top * 1.18, text, color=theme.muted, va="top", fontsize=9)
        axes.set_xlim(float(edges[0]), float(edges[-1]))
        _mark_medians(axes, probe, theme, everything is not None)
        axes.axvline(THRESHOLD, color=theme.grid, linewidth=1.2, zorder=0.6)
        axes.set_xticks(np.linspace(0, 1, 11))
        axes.set_xlabel("R² of the value against the step")
        axes.set_ylabel(f"share of {unit} (%)")
        figure.legend(loc="outside upper left", ncols=2)
    return path


def _mark_medians(
    axes: Axes, probe: Mapping[str, Any], theme: Theme, with_unfiltered: bool
) -> None:
    """Vertical lines at the medians, labelled above the bars on the side that has room."""
    marks = [(probe["r2_median"], theme.rl, "median", "-")]
    if with_unfiltered:
        marks.append((probe["unfiltered"]["r2_median"], theme.muted, "median of all", "--"))
    shown = [mark for mark in marks if mark[0] is not None]
    highest = max((mark[0] for mark in shown), default=0.0)
    for row, (median, colour, word, line) in enumerate(shown):
        axes.axvline(median, color=colour, linewidth=1.4, linestyle=line)
        left = median > 0.84 or (median > 0.16 and median < highest)
        axes.annotate(
            f"{word} {median:.2f}",
            (median, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(-5 if left else 5, -4 - 13 * row),
            textcoords="offset points",
            ha="right" if left else "left",
            va="top",
            color=colour,
            fontsize=9,
            fontweight="bold" if row == 0 else "normal",
            bbox={"facecolor": theme.paper, "linewidth": 0, "pad": 1.0},
            zorder=4,
        )


def _shares(
    edges: NDArray[np.float64], counts: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Join neighbouring bins to about `BARS`: the coarse edges, and the share (%) in each."""
    group = max(1, len(counts) // BARS)
    starts = np.arange(0, len(counts), group)
    total = counts.sum()
    shares = np.add.reduceat(counts, starts) / total * 100 if total else np.zeros(len(starts))
    return np.append(edges[starts], edges[-1]), shares


def weight_fits(examples: Sequence[Mapping[str, Any]], path: Path, theme: Theme = LIGHT) -> Path:
    """Small multiples: the path of single weights over the steps, with the fitted line and R².

    Args:
        examples: each with `name` (tensor), `index` (position, an int or a list), `steps` [K],
            `values` [K], `slope`, `intercept`, `r2`. Of more than nine, nine are drawn.
        path: PNG to write.
        theme: colours. Drawn is the change since the first snapshot, in the unit on the axis.
    """
    titles = [_weight_title(example) for example in examples]
    return _fits(examples, titles, "change of the weight", path, theme)


def token_fits(examples: Sequence[Mapping[str, Any]], path: Path, theme: Theme = LIGHT) -> Path:
    """Small multiples: the log-probability of single tokens over the steps, with line and R².

    Args:
        examples: as for `weight_fits`, with `token` and `context` (the text just before it)
            instead of `name` and `index`.
        path: PNG to write.
        theme: colours.
    """
    titles = [_token_title(example) for example in examples]
    return _fits(examples, titles, "change of log p (nats)", path, theme)


def _weight_title(example: Mapping[str, Any]) -> str:
    name = parse(str(example["name"]))
    layer = "" if name.layer is None else f"layer {name.layer}: "
    index = example.get("index")
    place = "" if index is None else str(index).replace(" ", "")
    return f"{layer}{shorten(printable(name.kind), 26)} {shorten(place, 14)}".rstrip()


def _token_title(example: Mapping[str, Any]) -> str:
    context = printable(str(example.get("context") or ""))
    tail = context if len(context) <= 20 else "…" + context[-19:]
    return f"{tail}▸{shorten(printable(str(example['token'])), 16)}◂"


def _fits(
    examples: Sequence[Mapping[str, Any]],
    titles: Sequence[str],
    label: str,
    path: Path,
    theme: Theme,
) -> Path:
    pairs = list(zip(examples, titles, strict=True))
    count = min(_PANELS, len(pairs))
    shown = [pairs[i * (len(pairs) - 1) // max(1, count - 1)] for i in range(count)]
    columns = min(3, max(1, len(shown)))
    rows = max(1, math.ceil(len(shown) / columns))
    with sheet(path, 0.35 + 1.85 * rows, theme) as figure:
        grid = panels(figure, len(shown), columns)
        for axes, (example, title) in zip(grid, shown, strict=True):
            _fit_panel(axes, example, title, WIDTH / columns - 0.9, theme)
        figure.supylabel(label, fontsize=9, color=theme.muted)
        figure.supxlabel("RL step", fontsize=9, color=theme.muted)
    return path


def _fit_panel(
    axes: Axes, example: Mapping[str, Any], title: str, inches: float, theme: Theme
) -> None:
    """One scalar: points, the least-squares line, and R² above the corner."""
    steps = np.asarray(example["steps"], dtype=float)
    values = np.asarray(example["values"], dtype=float)
    start = values[0] if len(values) else 0.0
    slope, r2 = float(example["slope"]), example["r2"]
    line = slope * steps + float(example["intercept"]) - start
    axes.plot(steps, line, color=theme.methods[0], linewidth=1.4)
    axes.plot(steps, values - start, "o", color=theme.rl, markersize=3.6)
    axes.set_title(title, fontsize=8.2, pad=15)
    axes.text(
        1.0,
        1.03,
        "R² undefined" if r2 is None else f"R² {r2:.2f}",
        transform=axes.transAxes,
        ha="right",
        va="bottom",
        fontsize=8.5,
        fontweight="bold",
    )
    axes.yaxis.set_major_formatter(PowerFormatter())
    axes.yaxis.get_offset_text().set(fontsize=7.5, color=theme.muted)
    axes.locator_params(axis="y", nbins=4)
    axes.margins(y=0.18)
    data_ticks(axes, steps.tolist(), inches)
