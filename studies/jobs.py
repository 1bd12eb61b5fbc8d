"""Runs of the pipeline that a study needs, one after the other, and their curves.

A job that has finished is not started again, and one that was killed resumes, so a study may be
interrupted at any time and started again by the same command.
"""

from __future__ import annotations

import argparse
import datetime
import math
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.artifacts import read_jsonl, write_json
from pipeline.errors import PipelineError
from pipeline.evaluation.students import mean_interval
from pipeline.processes import die_with_parent

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Job:
    """One run: `name` is its folder, `overrides` are what the command line gets."""

    name: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Curve:
    """Validation accuracy over a run.

    steps, accuracies: of the steps at which it was measured; seconds: of training up to there, with
    jumps and their guard, without the measuring itself.
    """

    steps: list[int]
    accuracies: list[float]
    seconds: list[float]

    def first(self, accuracy: float) -> tuple[float, float] | None:
        """(step, seconds) at which the curve first reaches `accuracy`, on the straight line between
        two measurements; None if it never does."""
        place = next((i for i, value in enumerate(self.accuracies) if value >= accuracy), None)
        if place is None:
            return None
        step, seconds = float(self.steps[place]), self.seconds[place]
        if place == 0:
            return step, seconds
        value, before = self.accuracies[place], self.accuracies[place - 1]
        back = (value - accuracy) / (value - before)
        return (
            step - back * (step - self.steps[place - 1]),
            seconds - back * (seconds - self.seconds[place - 1]),
        )


def run(jobs: Sequence[Job], out: Path, shared: Sequence[str], last: str = "rl_train") -> None:
    """Run each of `jobs` in `out`/NAME, with the overrides that all share.

    Args:
        last: the stage that a job ends with.

    Raises:
        PipelineError: a job failed; names its log.
    """
    for number, job in enumerate(jobs, 1):
        folder, log = out / job.name, out / f"{job.name}.log"
        if (folder / last / "done.json").exists():
            continue
        print(f"[{number}/{len(jobs)}] {job.name}", flush=True)
        out.mkdir(parents=True, exist_ok=True)
        places = (f"run.dir={folder}", f"run.cache={out / 'cache'}")
        command = [sys.executable, "-m", "pipeline", *shared, *places, *job.overrides]
        with log.open("w", encoding="utf-8") as stream:
            done = subprocess.run(
                command,
                cwd=ROOT,
                stdout=stream,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent,
            )
        if done.returncode:
            raise PipelineError(f"{job.name}: exit code {done.returncode}; see {log}")


def curve(folder: Path) -> Curve:
    """The curve of a finished run whose rl_train.validation was on."""
    found, seconds = Curve([], [], []), 0.0
    for row in read_jsonl(folder / "rl_train" / "metrics.jsonl"):
        seconds += row["seconds"]
        if "validation_accuracy" in row:
            found.steps.append(row["step"])
            found.accuracies.append(row["validation_accuracy"])
            found.seconds.append(seconds)
    return found


def over_seeds(
    values: Sequence[float], low: float = -math.inf, high: float = math.inf
) -> dict[str, Any]:
    """Mean of repetitions with its 95 % interval (Student's t), none for a single one.

    Args:
        low, high: what the mean cannot leave.
    """
    found: dict[str, Any] = {"mean": statistics.mean(values), "values": list(values)}
    if len(values) > 1:
        found["ci95"] = list(mean_interval(values, low=low, high=high))
    return found


def percent(figure: Mapping[str, Any]) -> str:
    """What `over_seeds` found, in percent or points."""
    text = f"{100 * figure['mean']:.1f}"
    if "ci95" in figure:
        text += " [{:.1f}, {:.1f}]".format(*(100 * bound for bound in figure["ci95"]))
    return text


def save(name: str, values: Mapping[str, Any]) -> None:
    """docs/results/NAME.json: how, where and when, and what came out."""
    head = {
        "command": f"python -m studies.{name}",
        "date": datetime.date.today().isoformat(),
        "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}, no GPU",
    }
    write_json(ROOT / "docs" / "results" / f"{name}.json", {**head, **values})


def folder_of_runs(doc: str | None) -> Path:
    """The one option that a study has, `--out`: where the runs of all of them are."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("outputs/studies"))
    out: Path = parser.parse_args().out
    return out.absolute()
