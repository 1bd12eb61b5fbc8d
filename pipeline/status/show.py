"""What `pipeline.status` found, as text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.status.reader import Run, Sweep
from pipeline.status.writer import RUNS, WAITS

_UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))


def show(found: Sequence[Run | Sweep]) -> str:
    """A block a run or a sweep."""
    blocks = [_run(item) if isinstance(item, Run) else _sweep(item) for item in found]
    return "\n\n".join("\n".join(block) for block in blocks)


def _sweep(sweep: Sweep) -> list[str]:
    counts = ", ".join(f"{number} {state}" for state, number in sweep.counts.items())
    lines = [f"{sweep.path}: {len(sweep.jobs)} jobs: {counts}"]
    width = max((len(job.job) for job in sweep.jobs), default=0)
    for job in sweep.jobs:
        name = Path(job.path).name
        lines.append(f"  {name:>3}  {job.job:<{width}}  {job.state:<7}  {_now(job)}".rstrip())
        lines += [f"         {line}" for line in _why(job)]
    return lines


def _run(run: Run) -> list[str]:
    lines = [f"{run.path}: {run.state}"]
    for stage, state in run.stages.items():
        words = duration(run.seconds[stage]) if stage in run.seconds else ""
        if stage == run.stage and run.state in (RUNS, WAITS):
            words = _progress(run)
        lines.append(f"  {stage:<14} {state:<7} {words}".rstrip())
    if run.parts:
        counts = ", ".join(f"{number} {state}" for state, number in run.parts.items())
        lines.append(f"  parts of the evaluation: {counts}")
    return lines + [f"  {line}" for line in _why(run)]


def _now(run: Run) -> str:
    """What a run does, on one line."""
    if run.state in (RUNS, WAITS):
        return f"{run.stage or 'plans'} {_progress(run)}".rstrip()
    if run.stage is not None:
        return run.stage
    return duration(sum(run.seconds.values())) if run.seconds else ""


def _progress(run: Run) -> str:
    words = []
    if run.waits_for is not None:
        words.append(f"made by {run.waits_for.get('process')} for {run.waits_for.get('run')}")
    if run.progress is not None:
        done, total = run.progress["done"], run.progress["total"]
        label = "" if run.progress["label"] == run.stage else f"{run.progress['label']} "
        if total:
            words.append(f"{label}{_count(done)}/{_count(total)} {run.progress['unit']}")
            words.append(f"{100 * done / total:.0f} %")
        if run.progress["seconds_left"] is not None and done != total:
            words.append(f"{duration(run.progress['seconds_left'])} left")
    return ", ".join(words)


def _why(run: Run) -> list[str]:
    words = [] if run.error is None else [f"why: {run.error}"]
    return words + ([f"log: {run.log}"] if run.error is not None and run.log else [])


def _count(number: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if number >= size:
            return f"{number / (1e3 if unit == 'k' else size):.3g}{unit}"
    return f"{number:g}"


def duration(seconds: float) -> str:
    """Seconds in the largest unit that gives at least one."""
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.0f} s"
