"""What the predictions are worth over the horizon and over α."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import offset_copy

from pipeline.report.figures.style import (
    LIGHT,
    WIDTH,
    Theme,
    data_ticks,
    number,
    panels,
    sheet,
    shorten,
)

Row = Mapping[str, Any]


def horizon_curve(
    rows: Sequence[Row],
    last: int | None,
    path: Path,
    theme: Theme = LIGHT,
) -> Path:
    """avg@k against the step: real RL as one line, each weight extrapolation method as another.

    Args:
        rows: `rows` of `scores.json`; kinds base, rl and weight are drawn, one panel for each
            task and split. Intervals are the 95 % ones of the rows.
        last: the last step that extrapolation may see: a vertical line. Real RL beyond it is
            dashed: extrapolation has not seen it and has to beat it.
        path: PNG to write.
        theme: colours.
    """
    wanted = [row for row in rows if row["kind"] in {"base", "rl", "weight"}]

    def draw(axes: Axes, panel: Sequence[Row], inches: float) -> None:
        base = _of_kind(panel, "base")
        real = _by_step(_of_kind(panel, "rl"))
        _base_line(axes, base, theme)
        if last is not None:
            axes.axvline(last, color=theme.muted, linewidth=1.0, linestyle=":", zorder=1)
        seen = [row for row in real if last is None or row["step"] <= last]
        unseen = [row for row in real if last is not None and row["step"] >= last]
        _band(axes, real, theme.rl)
        _line(axes, seen, theme.rl, "-", "real RL")
        if len(unseen) > len([row for row in unseen if row["step"] == last]):
            _line(axes, unseen, theme.rl, "--", f"real RL beyond step {number(last or 0)}")
        anchor = [row for row in real if row["step"] == last]
        methods = method_names(wanted)
        for index, method in enumerate(methods):
            mine = _by_step([row for row in panel if row.get("method") == method])
            aside = 4.0 * (index - (len(methods) - 1) / 2)
            colour, mark = theme.method(index), theme.mark(index)
            _whiskers(axes, mine, "step", colour, method, theme, anchor, aside, mark)
        steps = [float(row["step"]) for row in panel if row["kind"] != "base"]
        targets = [float(row["step"]) for row in panel if row["kind"] == "weight"]
        data_ticks(axes, steps, inches, [*([] if last is None else [float(last)]), *targets])
        low, high = axes.get_xlim()  # room for the outermost marks, which are put aside
        room = (high - low) * 2.0 * max(0, len(methods) - 1) / 72 / inches
        axes.set_xlim(low - room, high + room)
        axes.set_xlabel("RL step, or step extrapolated to")

    return _panels(wanted, draw, path, theme)


def alpha_curve(rows: Sequence[Row], last_rl: str, path: Path, theme: Theme = LIGHT) -> Path:
    """avg@k of logit extrapolation against α, beside the base and real RL.

    Args:
        rows: `rows` of `scores.json`; kinds logit, base and the model `last_rl` are drawn, one
            panel for each task and split.
        last_rl: model id of the RL checkpoint to compare with, drawn with its 95 % band. Where
            real RL continued beyond it, the level that it reached is dashed.
        path: PNG to write.
        theme: colours.
    """
    logits = [row for row in rows if row["kind"] == "logit"]
    places = {(row["task"], row["split"]) for row in logits}
    final = max((int(row["step"]) for row in rows if row["kind"] == "rl"), default=None)
    wanted = [
        row
        for row in rows
        if (row["task"], row["split"]) in places
        and (
            row["kind"] in {"logit", "base"}
            or row["model"] == last_rl
            or (row["kind"] == "rl" and row["step"] == final)
        )
    ]

    def draw(axes: Axes, panel: Sequence[Row], inches: float) -> None:
        _base_line(axes, _of_kind(panel, "base"), theme)
        for row in panel:
            if row["model"] == last_rl:
                level, (low, high) = percent(row["avg@k"]), row["ci95"]
                axes.axhspan(percent(low), percent(high), color=theme.rl, alpha=0.16, linewidth=0)
                axes.axhline(level, color=theme.rl, linewidth=1.6, label=f"real RL ({last_rl})")
            elif row["kind"] == "rl":
                axes.axhline(
                    percent(row["avg@k"]),
                    color=theme.rl,
                    linewidth=1.6,
                    linestyle="--",
                    label=f"real RL at its end ({row['model']})",
                )
        mine = sorted(_of_kind(panel, "logit"), key=lambda row: float(row["alpha"]))
        axes.axvline(1, color=theme.muted, linewidth=1.0, linestyle=":", zorder=1)
        _whiskers(axes, mine, "alpha", theme.logit, "logit extrapolation", theme)
        data_ticks(axes, [float(row["alpha"]) for row in mine], inches, [1.0])
        axes.set_xlabel("α   (1: the later checkpoint itself)")

    return _panels(wanted, draw, path, theme)


def _panels(
    rows: Sequence[Row],
    draw: Callable[[Axes, Sequence[Row], float], None],
    path: Path,
    theme: Theme,
) -> Path:
    """One panel for each (task, split), validation before test, under a common legend."""
    keys = sorted(
        {(str(row["task"]), str(row["split"])) for row in rows},
        key=lambda key: (key[0], key[1] == "test", key[1]),
    )
    columns = min(2, max(1, len(keys)))
    lines = max(1, math.ceil(len(keys) / columns))
    with sheet(path, 0.7 + 2.9 * lines, theme) as figure:
        grid = panels(figure, len(keys), columns, sharey=lines == 1)
        for axes, (task, split) in zip(grid, keys, strict=True):
            panel = [row for row in rows if (row["task"], row["split"]) == (task, split)]
            draw(axes, panel, WIDTH / columns - 0.9)
            axes.set_title(f"{shorten(task, 30)}, {split}")
            axes.set_ylabel(f"avg@{panel[0]['k']} (%)")
            axes.margins(y=0.08)
        for axes in grid:  # when all is drawn, since panels share their limits
            _honest_range(axes)
        _legend(figure, grid)
    return path


def _honest_range(axes: Axes) -> None:
    """No shares below 0 on the axis, and at least 2 points high: noise is not to look like news."""
    low, high = axes.get_ylim()
    middle = (low + high) / 2
    low, high = min(low, middle - 1), max(high, middle + 1)
    shift = max(0.0, -0.1 - low)
    axes.set_ylim(low + shift, max(high, low + shift + 2))


def _legend(figure: Figure, grid: Sequence[Axes]) -> None:
    """One legend for all panels, above them, each entry once."""
    entries: dict[str, Artist] = {}
    for axes in grid:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if entries:
        columns = min(len(entries), max(1, int(WIDTH / (0.65 + 0.073 * max(map(len, entries))))))
        if sum(0.65 + 0.073 * len(label) for label in entries) < WIDTH:
            columns = len(entries)
        handles, labels = list(entries.values()), list(entries)
        figure.legend(handles, labels, loc="outside upper left", ncols=columns)


def _base_line(axes: Axes, rows: Sequence[Row], theme: Theme) -> None:
    for row in rows:
        level = percent(row["avg@k"])
        axes.axhline(level, color=theme.base, linewidth=1.3, linestyle=(0, (1, 1.5)), label="base")


def _band(axes: Axes, rows: Sequence[Row], colour: str) -> None:
    """The 95 % intervals along a line, as a band."""
    axes.fill_between(
        [row["step"] for row in rows],
        [percent(row["ci95"][0]) for row in rows],
        [percent(row["ci95"][1]) for row in rows],
        color=colour,
        alpha=0.16,
        linewidth=0,
    )


def _line(axes: Axes, rows: Sequence[Row], colour: str, style: str, label: str) -> None:
    if rows:
        axes.plot(
            [row["step"] for row in rows],
            [percent(row["avg@k"]) for row in rows],
            color=colour,
            linestyle=style,
            marker="o",
            markersize=4,
            label=label,
        )


def _whiskers(
    axes: Axes,
    rows: Sequence[Row],
    key: str,
    colour: str,
    label: str,
    theme: Theme,
    anchor: Sequence[Row] = (),
    aside: float = 0.0,
    mark: str = "s",
) -> None:
    """A line with 95 % whiskers over `key`; the chosen row gets a ring, `anchor` a thin link.

    `aside` shifts it by so many points to the side, so that whiskers of several lines stay apart.
    """
    if not rows:
        return
    xs = [float(row[key]) for row in rows]
    ys = [percent(row["avg@k"]) for row in rows]
    # what is drawn beside its place does not widen the axes by itself
    axes.update_datalim(
        [(x, percent(b)) for x, row in zip(xs, rows, strict=True) for b in row["ci95"]]
    )
    axes.update_datalim(list(zip(xs, ys, strict=True)))
    place = offset_copy(axes.transData, axes.get_figure(root=True), x=aside, units="points")
    for start in anchor:
        link = [float(start[key]), xs[0]], [percent(start["avg@k"]), ys[0]]
        axes.plot(*link, color=colour, linewidth=1.0, linestyle=":", transform=place)
    # never negative: where all problems agree, rounding may put a bound on the wrong side
    below = [max(0.0, y - percent(row["ci95"][0])) for y, row in zip(ys, rows, strict=True)]
    above = [max(0.0, percent(row["ci95"][1]) - y) for y, row in zip(ys, rows, strict=True)]
    axes.errorbar(
        xs,
        ys,
        yerr=[below, above],
        color=colour,
        marker=mark,
        markersize=4.5,
        elinewidth=1.0,
        capsize=2.5,
        label=label,
        zorder=3,
        transform=place,
    )
    for x, y, row in zip(xs, ys, rows, strict=True):
        if row.get("chosen"):
            axes.plot(
                x,
                y,
                "o",
                markersize=12,
                markerfacecolor="none",
                markeredgecolor=theme.ink,
                markeredgewidth=1.4,
                linestyle="none",
                label="chosen on validation",
                zorder=4,
                transform=place,
            )


def colour_of(row: Row, methods: Sequence[str], theme: Theme) -> str:
    """A meaning keeps its colour in all figures; each of the weight extrapolation `methods` of the
    run has its own."""
    if row["kind"] == "weight":
        return theme.method(methods.index(str(row["method"])))
    own = {"base": theme.base, "named": theme.base, "rl": theme.rl}
    return own.get(row["kind"], theme.logit)


def method_names(rows: Sequence[Row]) -> list[str]:
    """Names of the weight extrapolation methods, in order of appearance."""
    return list(dict.fromkeys(str(row["method"]) for row in rows if row["kind"] == "weight"))


def _of_kind(rows: Sequence[Row], kind: str) -> list[Row]:
    return [row for row in rows if row["kind"] == kind]


def _by_step(rows: Sequence[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: int(row["step"]))


def percent(share: float) -> float:
    return 100 * float(share)
