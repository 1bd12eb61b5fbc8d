"""Work that several runs share: what has the same key is made once.

A store holds finished stages, `STAGE-KEY` (and `STAGE-KEY-2`, and so on, where one key leaves a
choice: more steps, more snapshots). A run that shares a stage has a link in place of its folder,
so its directory reads like any other. The first run that wants a key makes it, in its turn
(`pipeline.turns`); the others wait, and whoever is next resumes what a dead one has begun. What is
finished never changes: a run that needs more of it continues on a copy, whose large files are hard
links.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline import records
from pipeline.config import STAGES
from pipeline.records import Record
from pipeline.stages.base import DONE, RESUME, Context
from pipeline.turns import Owner, turn

APART = ("report",)  # a run's own page
GROWING = (".jsonl", ".log")  # written to in place: of a hard link both names would grow
_DIGITS = 16  # of a key, in names


@dataclass(frozen=True)
class Store:
    """Stages that are shared, in `folder`."""

    folder: Path

    @staticmethod
    def of_run(run_dir: Path) -> Store | None:
        """The store that a run directory's stages are linked to, if any are."""
        for link in (run_dir / name for name in STAGES):
            if link.is_symlink():
                folder = Path(os.path.normpath(run_dir / link.readlink())).parent
                if (folder / "turns").is_dir():
                    return Store(folder)
        return None

    def takes(self, context: Context, name: str) -> bool:
        """Whether a run shares a stage: not if it has a folder of its own already."""
        place = context.run_dir / name
        return name not in APART and (place.is_symlink() or not place.exists())

    def has(self, wanted: Record) -> bool:
        """Whether the store has something finished of this key."""
        return any(_finished(entry) for entry in self._entries(wanted))

    def adopt(self, context: Context, wanted: Record) -> None:
        """Link a stage that a run has not begun to what there is of its key: finished work best,
        else what is in work."""
        link, entries = context.run_dir / wanted.stage, self._entries(wanted)
        if link.exists() or not entries or not self.takes(context, wanted.stage):
            return
        if not self._link_to_done(context, wanted):
            _point(link, entries[0])

    @contextmanager
    def prepared(
        self, context: Context, wanted: Record, waiting: Callable[[Owner], None]
    ) -> Iterator[str]:
        """Link a stage to where its work is or can be done, as it is then: DONE, or RESUME,
        "stale" (what a stage that reuses it finds), "run"; inside, nobody else does that work.

        Args:
            waiting: called again and again with the process that does it now.
        """
        if self._link_to_done(context, wanted):
            yield DONE
            return
        with turn(self.folder / "turns" / _name(wanted), context.run_dir, waiting):
            yield self._place(context, wanted)

    def _place(self, context: Context, wanted: Record) -> str:
        link = context.run_dir / wanted.stage
        if self._link_to_done(context, wanted):
            return DONE
        before = context.stage_dir(wanted.stage)
        for entry in self._entries(wanted):
            _point(link, entry)
            found = records.state(context, wanted)
            if found == RESUME and _finished(entry):
                _point(link, _copy(entry, self._free(wanted)))
            if found in (RESUME, "run"):
                return found
        new = self._free(wanted)
        if records.load_stage(wanted.stage).REUSES and _finished(before):
            _point(link, _copy(before, new))
            return "stale"
        new.mkdir(parents=True)
        _point(link, new)
        return "run"

    def _link_to_done(self, context: Context, wanted: Record) -> bool:
        """Link to finished work that has all that is asked for; if there is none, nothing
        changes."""
        link = context.run_dir / wanted.stage
        before = context.stage_dir(wanted.stage) if link.is_symlink() else None
        for entry in filter(_finished, self._entries(wanted)):
            _point(link, entry)
            if records.state(context, wanted) == DONE:
                return True
        if before is not None:
            _point(link, before)
        else:
            link.unlink(missing_ok=True)
        return False

    def _entries(self, wanted: Record) -> list[Path]:
        """What there is of a key, the newest first."""
        name = _name(wanted)
        found = {_number(path, name): path for path in self.folder.glob(f"{name}*")}
        return [found[number] for number in sorted(found, reverse=True) if number]

    def _free(self, wanted: Record) -> Path:
        name, entries = _name(wanted), self._entries(wanted)
        number = 1 + (_number(entries[0], name) if entries else 0)
        return self.folder / (name if number == 1 else f"{name}-{number}")


def _name(wanted: Record) -> str:
    return f"{wanted.stage}-{wanted.key[:_DIGITS]}"


def _number(path: Path, name: str) -> int:
    """Which entry of the key `name` a path is, from 1; 0 if it is none."""
    end = path.name.removeprefix(name)
    return 1 if not end else int(end[1:]) if end[0] == "-" and end[1:].isdecimal() else 0


def _finished(entry: Path) -> bool:
    return (entry / "done.json").exists()


def _point(link: Path, entry: Path) -> None:
    """Make `link` lead to `entry`, at once; relative, so that both can be moved together."""
    temporary = link.with_name(f".{link.name}.{os.getpid()}.link")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(entry, link.parent.resolve()))
    os.replace(temporary, link)


def _copy(entry: Path, new: Path) -> Path:
    """A copy of finished work that can be continued."""
    partial = new.with_name(f".{new.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(entry, partial, copy_function=_link_or_copy)
    (partial / "done.json").unlink()
    partial.rename(new)
    return new


def _link_or_copy(source: str, target: str) -> None:
    if not source.endswith(GROWING):
        try:
            os.link(source, target)
            return
        except OSError:  # a file system without hard links
            Path(target).unlink(missing_ok=True)
    shutil.copy2(source, target)
