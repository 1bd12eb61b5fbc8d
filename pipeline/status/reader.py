"""How far a run, a sweep or a folder of them is, from their files alone; quick, nothing heavy.

A run that says it is at work is only believed while its process lives: one that was killed has
left its last words in status.json.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.config import STAGES
from pipeline.errors import PipelineError
from pipeline.liveness import PATIENCE, Process, ended
from pipeline.status.files import read_object
from pipeline.status.sweep import FILE as SWEEP
from pipeline.status.writer import DONE, FAILED, FILE, RUNS, STOPPED, WAITS

QUEUED, DIED, SILENT, AHEAD = "queued", "died", "silent", "to do"
ACTIVE = (RUNS, WAITS, QUEUED)  # may still change by themselves
PARTS = ".parts"  # folder of a run, with a file for each part of its evaluation
SUBMITTED = ".submit"  # what submit.sh leaves in a run's folder, before its first job has begun
_PART = re.compile(r"\d+of(\d+)\.json")
_TAIL = 4096  # bytes of a log that are looked at
_DEEP = 4  # folders below the one that is given
_SKIPPED = ("shared", "stale", "cache")


@dataclass
class Run:
    """One run.

    state: runs, waits (for another run), done, failed, stopped (from outside), died (without a
    word), silent (on another machine, which gives no sign of life), queued (not begun).
    stages: {stage: done, runs, waits, failed, or to do}; seconds: those of finished stages.
    parts: of an evaluation in parts, how many are in which state; empty where it has none.
    progress: {label, done, total, unit, seconds_left} of the stage's present part.
    error, log: the last error line, and the file that has more.
    """

    path: str
    state: str
    job: str = ""
    stage: str | None = None
    stages: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    progress: dict[str, Any] | None = None
    waits_for: dict[str, str] | None = None
    parts: dict[str, int] = field(default_factory=dict)
    error: str | None = None
    log: str | None = None


@dataclass
class Sweep:
    """The jobs of one sweep, those not begun as well; `counts` by state."""

    path: str
    jobs: list[Run]

    @property
    def counts(self) -> dict[str, int]:
        return dict(Counter(job.state for job in self.jobs))


def read(path: Path) -> list[Run | Sweep]:
    """What there is at `path`: a run, a sweep, or all of them in a folder.

    Raises:
        PipelineError: there is nothing of the kind.
    """
    if not path.is_dir():
        raise PipelineError(f"{path}: no such folder; give that of a run, a sweep, or of several")
    found = list(_search(path, _DEEP))
    if not found:
        raise PipelineError(f"{path}: holds no run; give the folder of a run or a sweep")
    return found


def to_json(found: Run | Sweep) -> dict[str, Any]:
    if isinstance(found, Run):
        return {"kind": "run", **asdict(found)}
    jobs = [to_json(job) for job in found.jobs]
    return {"kind": "sweep", "path": found.path, "counts": found.counts, "jobs": jobs}


def active(found: Run | Sweep) -> bool:
    """Whether anything is still to be expected."""
    jobs = [found] if isinstance(found, Run) else found.jobs
    return any(job.state in ACTIVE for job in jobs)


def _search(path: Path, deep: int) -> Iterator[Run | Sweep]:
    if (path / SWEEP).exists() or (path / "multirun.yaml").exists():
        yield _sweep(path)
    elif _is_run(path):
        yield _run(path)
    elif deep > 0:
        for name in _folders(path):
            if not name.startswith(".") and name not in _SKIPPED:
                yield from _search(path / name, deep - 1)


def _is_run(path: Path) -> bool:
    """Many programs have a config.yaml; a run of a version that wrote no status has stages, too."""
    if any((path / name).exists() for name in (FILE, PARTS, SUBMITTED)):
        return True
    return (path / "config.yaml").exists() and any((path / stage).is_dir() for stage in STAGES)


def _folders(path: Path, links: bool = False) -> list[str]:
    """Names of the folders in one; none where it is gone, or not for us to read."""
    try:
        with os.scandir(path) as entries:
            return sorted(e.name for e in entries if e.is_dir(follow_symlinks=links))
    except OSError:
        return []


def _sweep(path: Path) -> Sweep:
    sweep = read_object(path / SWEEP)
    common = {line.lower() for line in sweep.get("command") or []}
    found, given = {}, {}
    for child in (path / name for name in _folders(path, links=True)):
        if _is_run(child):
            found[child.name] = run = _run(child)
            given[child.name] = lines = read_object(child / FILE).get("given") or []
            # of a search, which chooses them as it goes
            run.job = " ".join(line for line in lines if line.lower() not in common)
    for number, overrides in enumerate(sweep.get("jobs") or []):
        named = (name for name, lines in given.items() if set(overrides) <= set(lines))
        name = next(named, str(number))  # a folder may have another name than its number
        run = found.setdefault(name, Run(str(path / name), QUEUED))
        run.job = " ".join(overrides)
    order = sorted(found, key=lambda name: (not name.isdecimal(), name.zfill(9)))
    return Sweep(str(path), [found[name] for name in order])


def _run(path: Path) -> Run:
    said, state, parts = _said(path)
    run = Run(str(path), state, stage=said.get("stage"), log=said.get("log"), parts=parts)
    run.progress, run.waits_for = said.get("progress"), said.get("waits_for")
    wanted = said.get("stages") or []
    for stage in STAGES:
        done = path / stage / "done.json"
        if done.exists():
            run.stages[stage] = DONE
            run.seconds[stage] = float(read_object(done).get("seconds", 0.0))
        elif stage in wanted or (path / stage).exists():
            run.stages[stage] = run.state if stage == run.stage else AHEAD
    if not said:  # of a version that did not write it
        whole = run.stages and set(run.stages.values()) == {DONE}
        run.state = DONE if whole else STOPPED
        if (path / SUBMITTED).exists() and not run.stages:
            run.state = QUEUED
    if run.state not in (RUNS, WAITS):
        run.progress = run.waits_for = None
    if run.state in (FAILED, STOPPED):
        run.error = said.get("error")
    elif run.state in (DIED, SILENT):
        run.error = _last_words(run)
    return run


def part_states(path: Path) -> dict[str, dict[str, Any]]:
    """What the parts of a run's evaluation say, by the name of the file."""
    found = (each for each in (path / PARTS).glob("*.json") if _PART.fullmatch(each.name))
    return {f"{PARTS}/{each.name}": read_object(each) for each in found}


def _said(path: Path) -> tuple[dict[str, Any], str, dict[str, int]]:
    """What a run says of itself, its state, and the states of its parts where these spoke last:
    then one at work speaks for all, else one that has failed, whose error is told in any case."""
    said, parts = read_object(path / FILE), part_states(path)
    newest = max((_updated(part) for part in parts.values()), default=0.0)
    if not parts or newest <= _updated(said):
        return said, _state(path / FILE, said), {}
    states = {name: _state(path / name, part) for name, part in parts.items()}
    order = (RUNS, WAITS, FAILED, DIED, SILENT, STOPPED, DONE)
    speaker = min(parts, key=lambda name: (order.index(states[name]), name))
    said, state = parts[speaker], states[speaker]
    if state == DONE:
        state = STOPPED  # those that have come so far, and nobody has brought them together
    counts = [int(each[1]) for name in parts if (each := _PART.fullmatch(Path(name).name))]
    missing = max(counts) - len(parts)
    return said, state, dict(Counter(states.values())) | ({AHEAD: missing} if missing > 0 else {})


def _updated(said: dict[str, Any]) -> float:
    return float(said.get("updated", 0.0))


def _state(path: Path, said: dict[str, Any]) -> str:
    state = str(said.get("state", STOPPED))
    if state not in (RUNS, WAITS):
        return state if state in (FAILED, STOPPED, DONE) else STOPPED
    process = Process.from_json(said.get("process"))
    gone = None if process is None else ended(process)
    if gone is None:
        return SILENT if _age(path) > PATIENCE else state
    return DIED if gone else state


def _age(path: Path) -> float:
    """Seconds since a file's last change; for ever where it has just gone."""
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return math.inf


def _last_words(run: Run) -> str:
    words = "its process ended without a word: killed, or out of memory"
    if run.state == SILENT:
        words = f"no sign of life for more than {PATIENCE:.0f} s from another machine"
    if not os.path.isfile(run.log or ""):  # noqa: PTH113  (a pipe has no end to read)
        return words
    try:
        with open(run.log or "", "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            lines = file.read().decode(errors="replace").replace("\r", "\n").split("\n")
    except OSError:
        return words
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f"{words}; last line: {last}" if last else words
