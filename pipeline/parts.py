"""An evaluation in parts, each by a process of its own, on any machine and at any time: the tasks
of a job array, or of one srun.

A part draws every count-th problem's responses, of every model, into files of its own
(`pipeline.inference.parallel.run_part`). It takes no lock that keeps other parts out; one that is
killed costs the others nothing and resumes from its last row. Each says in `.parts/` of the run
directory how far it is, and the one that is through last brings everything together: it runs the
stages as one process would, and finds their rows made.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.checks import check_shared
from pipeline.config import PipelineConfig
from pipeline.errors import PipelineError
from pipeline.status.reader import PARTS, part_states
from pipeline.status.writer import DONE
from pipeline.trajectory.share import Share
from pipeline.turns import Owner, turn

DRAWING = ("logit_extrap", "evaluate")  # stages whose problems are dealt out
ALONG = ("linear_probe", "report")  # those that the last part may run with them


@dataclass(frozen=True)
class Part:
    """Number `index`, from 0, of `count`."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"part {self.index} of {self.count}"

    @property
    def file(self) -> str:
        """Where it says how far it is, in the run directory."""
        return f"{PARTS}/{self.index}of{self.count}.json"


def parse(value: str) -> Part:
    """Of `INDEX/COUNT`, as run.part gives it.

    Raises:
        PipelineError: it is no part.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", value)
    if found is None or not int(found[1]) < int(found[2]):
        raise PipelineError(
            f"run.part={value}: give INDEX/COUNT, e.g. 0/4 for the first of four parts and 3/4 for "
            "the last"
        )
    return Part(int(found[1]), int(found[2]))


def share_of(config: PipelineConfig, alone: bool) -> Share:
    """Which of several processes of one launcher this is, where they work together; where they can
    draw apart from each other, each is alone, with its part in run.part.

    Args:
        alone: a run with a run.dir of its own, no job of a sweep.

    Raises:
        PipelineError: what is asked for cannot be divided so.
    """
    share = Share.from_environment()
    drawn = bool({*config.stages} & {*DRAWING}) and {*config.stages} <= {*DRAWING, *ALONG}
    if share.world > 1 and config.run.part is None and drawn:
        config.run.part = f"{share.rank}/{share.world}"
    if config.run.part is None:
        if share.world > 1:
            check_shared(config, share.world, alone)
        return share
    parse(config.run.part)
    if not drawn:
        other = next((s for s in config.stages if s not in (*DRAWING, *ALONG)), config.stages[0])
        raise PipelineError(
            f"run.part={config.run.part}: {other} is not done in parts; give "
            f'"stages=[{",".join(DRAWING)}]"'
        )
    if not alone or config.run.shared is not None:
        raise PipelineError(
            f"run.part={config.run.part}: the parts of a run meet in its run.dir; give run.dir, "
            "without --multirun and run.shared"
        )
    return Share()


def all_done(run_dir: Path, count: int, identity: str) -> bool:
    """Whether each of `count` parts of these settings has said that it is through."""
    states = part_states(run_dir)
    return all(
        states.get(Part(index, count).file, {}).get("state") == DONE
        and states[Part(index, count).file].get("of") == identity
        for index in range(count)
    )


def forget(run_dir: Path, part: Part) -> None:
    """Take back what a part has said of itself."""
    (run_dir / part.file).unlink(missing_ok=True)
    with suppress(OSError):  # others have theirs there
        (run_dir / PARTS).rmdir()


class Busy(Exception):  # noqa: N818  (no error: somebody else does it)
    """Another process is at what this one wanted to do."""


@contextmanager
def finishing(run_dir: Path) -> Iterator[None]:
    """Inside, this process alone brings the parts together; afterwards their words are gone.

    Raises:
        Busy: another one does it now.
    """
    with turn(run_dir / PARTS / "finish", run_dir, _busy):
        yield
    shutil.rmtree(run_dir / PARTS, ignore_errors=True)


def _busy(owner: Owner) -> None:
    raise Busy(str(owner))


@contextmanager
def preparing(run_dir: Path, waiting: Callable[[Owner], None]) -> Iterator[None]:
    """One part at a time inside: checkpoints are written for the engines to start on."""
    with turn(run_dir / PARTS / "prepare", run_dir, waiting):
        yield
