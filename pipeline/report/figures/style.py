"""One look for every figure: colours, type, ticks, and how a drawing becomes a PNG.

Figures are drawn without pyplot, so nothing global is touched and any thread may draw. Colours are
those of Okabe and Ito, told apart by every common form of colour blindness; a meaning keeps its
colour in all figures (real RL, weights, logits, base). Each figure exists in a light and a dark
version, so that the page can show the one that suits the reader's screen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from pipeline.artifacts import replacing

WIDTH = 8.4
"""Inches. A page shows an inch as 100 CSS pixels, so text of 9 pt comes out near 12 pixels."""

DPI = 200
"""Two device pixels for each CSS pixel: sharp on dense screens and in print."""


@dataclass(frozen=True)
class Theme:
    """Colours of one version of a figure (all `#rrggbb`)."""

    name: str
    paper: str
    ink: str
    muted: str
    grid: str
    empty: str
    base: str
    rl: str
    logit: str
    methods: tuple[str, ...]
    colour_map: str = "viridis"

    def method(self, index: int) -> str:
        """Colour of the index-th weight extrapolation method; repeats after the last."""
        return self.methods[index % len(self.methods)]

    def mark(self, index: int) -> str:
        """Shape of that method's points: another one for each round of colours."""
        return "sD^vP"[index // len(self.methods) % 5]


LIGHT = Theme(
    name="light",
    paper="#ffffff",
    ink="#1c2430",
    muted="#5d6877",
    grid="#e6e9ee",
    empty="#eef0f3",
    base="#7a8594",
    rl="#0072b2",
    logit="#00845f",
    methods=("#d55e00", "#aa4499", "#b98500", "#56b4e9", "#8c510a"),
)
DARK = Theme(
    name="dark",
    paper="#161b22",
    ink="#e4e8ee",
    muted="#9aa6b5",
    grid="#2a323d",
    empty="#232a34",
    base="#8b97a6",
    rl="#56b4e9",
    logit="#2fc396",
    methods=("#f0803c", "#dd8cc0", "#f0c24b", "#b3d9f2", "#c99a62"),
)
THEMES = (LIGHT, DARK)


def settings(theme: Theme) -> dict[str, Any]:
    """Matplotlib settings of a theme; mathtext is off, so `$` and `_` in names stay as they are."""
    return {
        "font.family": ["DejaVu Sans"],
        "font.size": 9.0,
        "axes.titlesize": 9.5,
        "axes.titlelocation": "left",
        "axes.titlepad": 7.0,
        "axes.labelsize": 9.0,
        "axes.labelcolor": theme.muted,
        "axes.titlecolor": theme.ink,
        "axes.edgecolor": theme.muted,
        "axes.linewidth": 0.8,
        "axes.facecolor": theme.paper,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "axes.axisbelow": True,
        "axes.unicode_minus": True,
        "figure.facecolor": theme.paper,
        "figure.constrained_layout.use": True,
        "figure.constrained_layout.w_pad": 0.08,
        "figure.constrained_layout.h_pad": 0.08,
        "grid.color": theme.grid,
        "grid.linewidth": 0.8,
        "hatch.color": theme.grid,
        "legend.frameon": False,
        "legend.fontsize": 8.5,
        "legend.labelcolor": theme.ink,
        "legend.handlelength": 2.4,
        "lines.linewidth": 1.8,
        "lines.markersize": 5.0,
        "lines.solid_capstyle": "round",
        "text.color": theme.ink,
        "text.parse_math": False,
        "xtick.color": theme.muted,
        "ytick.color": theme.muted,
        "xtick.labelsize": 8.5,
        "ytick.labelsize": 8.5,
        "xtick.major.size": 3.0,
        "ytick.major.size": 0.0,
    }


@contextmanager
def sheet(path: Path, height: float, theme: Theme, width: float = WIDTH) -> Iterator[Figure]:
    """An empty figure of `width` × `height` inches that is written to `path` when the block ends.

    The PNG is written beside its target and renamed, so a killed run leaves no torn picture.
    """
    look: Any = settings(theme)
    with matplotlib.rc_context(look):
        figure = Figure(figsize=(width, height), dpi=DPI)
        canvas = FigureCanvasAgg(figure)
        yield figure
        _lay_out(figure)
        with replacing(path) as temporary:
            canvas.print_png(temporary, metadata={"Software": None})


def panels(figure: Figure, count: int, columns: int, **options: Any) -> list[Axes]:
    """So many axes in rows of `columns`; what is left of the last row stays empty."""
    lines = max(1, math.ceil(count / columns))
    grid: list[Axes] = [*figure.subplots(lines, columns, squeeze=False, **options).ravel()]
    for axes in grid[count:]:
        axes.set_visible(False)
    return grid[:count]


def _lay_out(figure: Figure) -> None:
    """Find the places of everything now: `savefig` would draw the whole figure once more for it."""
    engine = figure.get_layout_engine()
    if engine is not None and figure.axes:
        engine.execute(figure)
    figure.set_layout_engine("none")


def pick_ticks(
    values: Sequence[float],
    axis_inches: float,
    label_inches: float,
    first: Sequence[float] = (),
) -> list[float]:
    """A subset of `values` for tick labels that do not run into each other.

    The lowest and the highest value are always among them (the only one, if all are equal); then
    come those in `first`, then the rest from left to right, wherever there is room.

    Args:
        values: data positions, any order, repeats allowed.
        axis_inches: length of the axis.
        label_inches: room that one label needs.
        first: values that matter more than the others.
    """
    points = sorted({*values, *first})
    if len(points) < 3:
        return points
    room = (points[-1] - points[0]) * label_inches / axis_inches
    chosen = [points[0], points[-1]]
    for value in (*first, *points):
        if all(abs(value - other) >= room for other in chosen):
            chosen.append(value)
    return sorted(chosen)


def number(value: float) -> str:
    """A tick label: no trailing zeros, thousands as k, true minus sign."""
    if abs(value) >= 10_000 and value == int(value) and int(value) % 100 == 0:
        return f"{value / 1000:g}k".replace("-", "−")
    return f"{value:g}".replace("-", "−")


class PowerFormatter(ScalarFormatter):
    """Tick labels of small or large values with a common power above the axis, as "×10⁻⁴"."""

    def __init__(self) -> None:
        super().__init__(useOffset=False)
        self.set_powerlimits((-2, 3))

    def get_offset(self) -> str:
        """The power, empty if the labels need none."""
        text = super().get_offset().replace("\N{MINUS SIGN}", "-")
        power = text.partition("e")[2]
        superscript = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
        return f"×10{power.translate(superscript)}" if power else ""


def data_ticks(
    axes: Axes, values: Sequence[float], axis_inches: float, first: Sequence[float] = ()
) -> None:
    """Put the x ticks at data values, with a little air at both ends (also for a single value).

    Those in `first` get their label before others do, where there is no room for all.
    """
    values = [*values, *first]
    if not values:
        return
    widest = max(len(number(value)) for value in values)
    ticks = pick_ticks(values, axis_inches, 0.09 + 0.07 * widest, first)
    axes.set_xticks(ticks, [number(tick) for tick in ticks])
    low, high = min(values), max(values)
    margin = 0.04 * (high - low) if high > low else max(1.0, 0.1 * abs(high))
    axes.set_xlim(low - margin, high + margin)


def shorten(text: str, length: int) -> str:
    """`text` with its middle replaced by an ellipsis if it is longer than `length` characters."""
    if len(text) <= length:
        return text
    head = math.ceil((length - 1) / 2)
    tail = length - 1 - head
    return text[:head] + "…" + (text[-tail:] if tail else "")


def printable(text: str) -> str:
    """`text` with line breaks as ⏎ and everything the font cannot draw as a `\\uXXXX` escape."""
    face = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    known = face.get_charmap()
    shown = text.replace("\r\n", "⏎").replace("\n", "⏎").replace("\t", "⇥")
    return "".join(
        c if c == " " or ord(c) in known else c.encode("unicode_escape").decode() for c in shown
    )
