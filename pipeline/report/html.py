"""The pieces of HTML that the page is made of: templates, tables, embedded figures, the frame.

All markup is in `templates/`, which escape every value that is not markup itself: a name may hold
any character.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.artifacts import write_text
from pipeline.report import words
from pipeline.report.figures.style import DARK, LIGHT, Theme

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).resolve().parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
)


@dataclass(frozen=True)
class Section:
    """A part of the page with an anchor; `menu` is its short name in the list of contents.

    `present` is False if the run lacks what the section is made from; then `body` says so.
    """

    anchor: str
    menu: str
    title: str
    body: Markup
    present: bool = True


@dataclass(frozen=True)
class Cell:
    """A cell of a table, or a column's head.

    Attributes:
        kind: its class; "n" aligns numbers to the right.
        range: an interval behind the text, muted.
    """

    text: str
    kind: str = ""
    range: str = ""
    code: bool = False


@dataclass(frozen=True)
class Line:
    """A line of a table."""

    cells: Sequence[Cell]
    chosen: bool = False


@dataclass(frozen=True)
class Group:
    """Lines of a table that belong together, under a title or none."""

    lines: Sequence[Line]
    title: str = ""


@dataclass(frozen=True)
class Album:
    """Draws figures into a folder and returns them as HTML, both themes embedded."""

    folder: Path
    drawn: set[Path] = field(default_factory=set)

    def figure(
        self, name: str, draw: Callable[[Path, Theme], Path], alt: str, lead: str, caption: str
    ) -> Markup:
        """Draw `name.png` and `name-dark.png`, and embed them.

        Args:
            name: file name without ending.
            draw: writes the figure to the path that it is given, in that theme.
            alt: what the figure is, for those who cannot see it.
            lead: the caption's first words, in bold.
            caption: what to see in it.
        """
        light = draw(self.folder / f"{name}.png", LIGHT)
        dark = draw(self.folder / f"{name}-dark.png", DARK)
        self.drawn.update((light, dark))
        width, height = png_size(light)
        return render(
            "figure",
            light=data_uri(light),
            dark=data_uri(dark),
            width=width // 2,
            height=height // 2,
            alt=alt,
            lead=lead,
            caption=caption,
        )

    def write_page(self, title: str, head: Markup, sections: Sequence[Section]) -> Path:
        """Write index.html beside its figures; those of an earlier page that it lacks go."""
        for old in set(self.folder.glob("*.png")) - self.drawn:
            old.unlink()
        page = self.folder / "index.html"
        write_text(page, frame(title, head, sections))
        return page


def render(template: str, **values: Any) -> Markup:
    """The HTML of templates/<template>.html with these values, escaped unless they are Markup."""
    return Markup(_TEMPLATES.get_template(f"{template}.html").render(values))


def png_size(path: Path) -> tuple[int, int]:
    """Width and height of a PNG in pixels, from its header."""
    with open(path, "rb") as file:
        header = file.read(24)
    width, height = struct.unpack(">II", header[16:24])
    return width, height


def data_uri(path: Path) -> str:
    """The PNG as a data URI, so that the page needs no second file."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def table(
    header: Sequence[Cell], groups: Iterable[Group], wide: bool = False, note: str = ""
) -> Markup:
    """A table in a frame that scrolls sideways on narrow screens.

    Args:
        wide: let the table be broader than the text where the window has room.
        note: a line below it.
    """
    return render("table", header=header, groups=list(groups), wide=wide, note=note)


def score(row: Mapping[str, Any]) -> Cell:
    """avg@k in percent with its interval."""
    return Cell(f"{100 * row['avg@k']:.1f}", "n", words.interval(row["ci95"]))


def words_table(pairs: Sequence[tuple[str, str]]) -> Markup:
    """A two-column table: what, and what is to say about it."""
    return render("words", pairs=pairs)


def absent(what: str, stages: Sequence[str]) -> Markup:
    """One line in place of what is not there: which stage makes it."""
    return render("absent", what=what, stages=stages)


def absent_section(anchor: str, what: str, stages: Sequence[str]) -> Section:
    """The line in place of a whole section."""
    return Section(anchor, what, what, absent(what, stages), present=False)


def frame(title: str, head: Markup, sections: Sequence[Section]) -> str:
    """The whole page: `head`, a list of contents, and the sections.

    What the run lacks is gathered in one last section.
    """
    lines = Markup("").join(section.body for section in sections if not section.present)
    sections = [section for section in sections if section.present]
    if lines:
        sections.append(Section("absent", "Not in this run", "Not in this run", lines))
    return str(render("page", title=title, head=head, sections=sections)).lstrip()
