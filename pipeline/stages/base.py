"""What every stage gets and offers. A stage is a module with these names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.artifacts import read_own
from pipeline.subject.found import Subject
from pipeline.tracking import Tracker
from pipeline.trajectory.share import Share

if TYPE_CHECKING:
    from pipeline.inference.parallel import Work

DONE, RESUME = "done", "resume"


@dataclass(frozen=True)
class Context(Subject):
    """What the run works on, the tracker, and which of several processes this is."""

    tracker: Tracker
    share: Share

    def done_key(self, stage: str) -> str:
        """Key of a finished stage: what its artefacts were made from."""
        return str(read_own(self.stage_dir(stage) / "done.json", "key")["key"])

    def standing(self, stage: str, *outputs: str) -> str:
        """DONE if these are in a stage's folder, else RESUME."""
        there = all((self.stage_dir(stage) / output).exists() for output in outputs)
        return DONE if there else RESUME


class Stage(Protocol):
    """A module in this package.

    SECTIONS: the parts of the configuration that its result depends on, as dotted keys; what is
        below them and decides nothing is left out (`pipeline.settings`).
    REUSES: True if it recognises by itself what an earlier configuration left that still holds.
    """

    SECTIONS: tuple[str, ...]
    REUSES: bool

    def needs(self, context: Context) -> tuple[str, ...]:
        """The stages whose artefacts it reads."""

    def inputs(self, context: Context) -> dict[str, Any]:
        """What it reads from outside the run directory, as something to hash, each named."""

    def standing(self, context: Context) -> str:
        """What its folder holds, if it was made from the same things: DONE (all that is asked for),
        RESUME (a beginning), or in words why it is of no use."""

    def plan(self, context: Context) -> str:
        """What it would do, in words; checks everything that is cheap to check."""

    def run(self, context: Context) -> dict[str, Any]:
        """Do it; returns the figures worth a line."""


class Drawing(Protocol):
    """A stage whose responses can be drawn in parts."""

    def works(self, context: Context) -> list[Work]:
        """What is drawn, ready for engines: what they start on has been written."""
