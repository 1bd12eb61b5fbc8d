"""The scores of a sweep's jobs, brought together: one row a model, over seeds.

Jobs that differ in nothing but the seed are repetitions of one another. Whatever else differs
between jobs, other than the horizon, tells lines apart: the method, its options, the steps it saw.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.evaluation.selection import KINDS, choose
from pipeline.evaluation.students import mean_interval
from pipeline.report.inputs import read_config, read_scores
from pipeline.report.words import members
from pipeline.settings import deciding
from pipeline.status.reader import Run, Sweep, read

Row = dict[str, Any]
# each row says its own
HORIZON = (
    *("weight_extrap.targets", "weight_extrap.alphas"),
    *("logit_extrap.alphas", "logit_extrap.members"),
)
# what decides a prediction, but not the RL run that it is compared with
PREDICTION = ("extrapolation", "extrapolations", "weight_extrap", "logit_extrap")
ENDS = (
    "extrapolation.first",
    "extrapolation.last",
)  # all that logits have from a method's settings
NAMED = ("extrapolation.name", "extrapolation.method")  # the method's name says it


@dataclass(frozen=True)
class Job:
    """One run: its settings by dotted key, and its rows of scores.json (none if not evaluated)."""

    run: Run
    name: str
    settings: Mapping[str, Any]
    last: int | None
    last_rl: str
    rows: Sequence[Mapping[str, Any]]

    @property
    def seed(self) -> Any:
        return self.settings.get("seed")


@dataclass(frozen=True)
class Jobs:
    """All jobs.

    folder: that the report belongs to: the only one given, or the one around all;
    rows: as in scores.json, but over seeds (`seeds`: how many), with the line that they belong to
    as `method`, what tells their training from others as `training`, and the gain over the last
    checkpoint of real RL as `gain`; varying: the settings that differ.
    """

    folder: Path
    jobs: Sequence[Job]
    varying: Sequence[str]
    rows: Sequence[Row]
    chosen: Mapping[str, Mapping[str, Any]]

    @property
    def name(self) -> str:
        names = list(dict.fromkeys(job.name for job in self.jobs))
        return ", ".join(names)

    @property
    def last(self) -> int | None:
        """The last step that all extrapolations see, if it is the same."""
        steps = {job.last for job in self.jobs if job.rows}
        return steps.pop() if len(steps) == 1 else None


def read_jobs(paths: Sequence[Path]) -> Jobs:
    """All runs in these folders.

    Raises:
        PipelineError: a folder has none, or none of them has been evaluated.
    """
    found = [item for path in paths for item in read(path)]
    runs = [run for item in found for run in (item.jobs if isinstance(item, Sweep) else [item])]
    jobs = [_job(run) for run in runs]
    scored = [job for job in jobs if job.rows]
    if not scored:
        raise PipelineError(
            f"{', '.join(map(str, paths))}: none of {len(jobs)} runs has scores yet; "
            "the evaluate stage makes them"
        )
    varying = [key for key in _differing(scored) if key not in HORIZON]
    rows = _over_seeds(scored, [key for key in varying if key != "seed"])
    chosen = _choose(rows)
    models = {choice["model"] for choice in chosen.values()}
    marked = [{**row, "chosen": row["model"] in models} for row in rows]
    folder = Path(os.path.commonpath([path.resolve() for path in paths]))
    return Jobs(folder, jobs, varying, marked, chosen)


def _job(run: Run) -> Job:
    folder = Path(run.path)
    config = read_config(folder / "config.yaml")
    scores = read_scores(folder / "evaluate" / "scores.json") or {"rows": [], "last_rl": ""}
    settings = deciding(config, [key for key in config if key not in ("run", "stages", "tracking")])
    last = (config.get("extrapolation") or {}).get("last")
    name = str(config.get("name") or folder.name)
    return Job(run, name, settings, last, str(scores["last_rl"]), scores["rows"])


def _differing(jobs: Sequence[Job]) -> list[str]:
    keys = sorted({key for job in jobs for key in job.settings})
    return [key for key in keys if len({repr(job.settings.get(key)) for job in jobs}) > 1]


def _over_seeds(jobs: Sequence[Job], varying: Sequence[str]) -> list[Row]:
    """One row for each model of each line, task and split: mean and interval over seeds."""
    groups: dict[tuple[str, ...], dict[str, list[Row]]] = {}
    for job in jobs:
        for found in job.rows:
            row = _labelled(found, job, varying)
            key = (row["model"], str(row["task"]), str(row["split"]))
            groups.setdefault(key, {}).setdefault(repr(job.seed), []).append(row)
    return [_merged(list(seeds.values())) for seeds in groups.values()]


def _labelled(row: Mapping[str, Any], job: Job, varying: Sequence[str]) -> Row:
    """A row under a name that is its own among all jobs."""
    training = _words(job, [k for k in varying if k.partition(".")[0] not in PREDICTION])
    words = _words(job, [k for k in varying if _decides(k, str(row["kind"]))])
    if row["kind"] == "mixture":
        words = ", ".join(part for part in (members(row), words) if part)
    line = str(row.get("method") or row["kind"]) + (f" ({words})" if words else "")
    model = str(row["model"]) + (f" ({words})" if words else "")
    return {**row, "model": model, "method": line, "training": training, "last_rl": job.last_rl}


def _decides(key: str, kind: str) -> bool:
    """Whether a setting that varies tells models of a kind apart: a mixture of logits is the same
    whichever method predicts weights, and so is the RL run."""
    section = key.partition(".")[0]
    if section not in PREDICTION:
        return True
    if kind == "weight":
        return section != "logit_extrap" and key not in NAMED
    return section == "logit_extrap" or (kind == "logit" and key in ENDS)


def _words(job: Job, keys: Sequence[str]) -> str:
    return ", ".join(f"{key.rpartition('.')[2]}={job.settings.get(key)}" for key in keys)


def _merged(seeds: Sequence[Sequence[Row]]) -> Row:
    """The row of one model, from those of its seeds; jobs of one seed have the same."""
    means = [sum(row["avg@k"] for row in rows) / len(rows) for rows in seeds]
    row = {**seeds[0][0], "avg@k": sum(means) / len(means), "seeds": len(means)}
    row["collapsed"] = sum(any(r.get("collapsed") for r in rows) for rows in seeds)
    gains = [rows[0]["diff_to_last_rl"] for rows in seeds if rows[0].get("diff_to_last_rl")]
    if len(means) > 1:
        row["ci95"] = list(mean_interval(means))
    if gains:
        values = [gain["diff"] for gain in gains]
        interval = mean_interval(values, low=-1.0) if len(values) > 1 else gains[0]["ci95"]
        row["gain"] = {"diff": sum(values) / len(values), "ci95": list(interval)}
    return row


def _choose(rows: Iterable[Row]) -> Mapping[str, Mapping[str, Any]]:
    """The best on validation, of those that have as many seeds as any: a model that ran with few
    is there by luck more often."""
    validation = [row for row in rows if row["split"] == "validation"]
    most = {
        kind: max((row["seeds"] for row in validation if row["kind"] == kind), default=0)
        for kind in KINDS
    }
    return choose([row for row in validation if row["seeds"] == most.get(row["kind"])])
