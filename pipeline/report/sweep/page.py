"""The page over a sweep: which prediction is best on validation, what it is worth on test, and how
accuracy goes over the horizon for every method and seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pipeline.artifacts import write_jsonl
from pipeline.report import figures, words
from pipeline.report.html import (
    Album,
    Cell,
    Group,
    Line,
    Section,
    absent_section,
    render,
    score,
    table,
    words_table,
)
from pipeline.report.sweep.inputs import Job, Jobs, Row, read_jobs


def write_sweep_page(paths: Sequence[Path]) -> Path:
    """Write `report/index.html`, its figures and `report/rows.jsonl` beside the jobs.

    Args:
        paths: folders of runs, sweeps or both.

    Returns:
        Path of index.html.

    Raises:
        PipelineError: no run, none evaluated, or an artefact that is torn.
    """
    jobs = read_jobs(paths)
    folder = jobs.folder / "report"
    folder.mkdir(exist_ok=True)
    album = Album(folder)
    parts = [_horizon(jobs, album), _alpha(jobs, album), _scores(jobs), _jobs(jobs)]
    write_jsonl(folder / "rows.jsonl", jobs.rows)
    return album.write_page(f"{jobs.name}: sweep", _head(jobs), parts)


def _head(jobs: Jobs) -> Markup:
    scored = [job for job in jobs.jobs if job.rows]
    seeds = sorted({str(job.seed) for job in scored})
    facts = [f"{len(scored)} of {len(jobs.jobs)} jobs evaluated"]
    facts.append(f"{len(seeds)} seeds" if len(seeds) > 1 else f"seed {seeds[0]}")
    varying = [key for key in jobs.varying if key != "seed"]
    if varying:
        facts.append(f"varied: {', '.join(varying)}")
    best = [
        (f"{name}, best on validation", _worth(jobs, jobs.chosen[kind]))
        for kind, name in words.KINDS.items()
        if kind in jobs.chosen
    ]
    if not best:
        best = [("Best on validation", "no prediction has been scored on validation problems")]
    return render("head", name=jobs.name, facts=facts, verdicts=None, absent=words_table(best))


def _worth(jobs: Jobs, choice: Mapping[str, Any]) -> str:
    """What was chosen, on validation and on test, and its gain over real RL."""
    text = f"{choice['model']}: {words.percent(choice['validation avg@k'])} on validation"
    for row in jobs.rows:
        if row["split"] != "test" or row["model"] != choice["model"]:
            continue
        text += f"; {words.percent(row['avg@k'])} {words.interval(row['ci95'])} on {row['task']}"
        text += " test"
        if row.get("gain"):
            text += f", {words.gap(row['gain'])} to {row['last_rl']}"
    return f"{text}."


def _intervals(rows: Sequence[Row]) -> str:
    counts = sorted({int(row["seeds"]) for row in rows})
    if counts[-1] == 1:
        return "Intervals are those of the one seed, 95 % over problems."
    some = "" if counts[0] > 1 else "; a point of one seed has its interval over problems"
    return f"Intervals are 95 % over up to {counts[-1]} seeds (Student's t){some}."


def _ring(rows: Sequence[Row], kind: str) -> str:
    """Of the mark in a figure, where there is one."""
    there = any(row["chosen"] for row in rows if row["kind"] == kind)
    return " The ring marks what was chosen on validation." if there else ""


def _trainings(jobs: Jobs, kind: str) -> list[tuple[str, list[Row]]]:
    """The rows of each training that has predictions of a kind."""
    names = dict.fromkeys(str(row["training"]) for row in jobs.rows if row["kind"] == kind)
    return [(name, [row for row in jobs.rows if row["training"] == name]) for name in names]


def _horizon(jobs: Jobs, album: Album) -> Section:
    body = Markup("")
    for number, (training, rows) in enumerate(_trainings(jobs, "weight")):
        body += album.figure(
            f"horizon_{number}",
            partial(figures.horizon_curve, rows, jobs.last),
            "avg@k against the step, real RL and weight extrapolation of all jobs",
            training or "Accuracy over the horizon.",
            "Blue is real RL, each other line a method with its settings, over the steps that it "
            f"predicts. {_intervals(rows)}{_ring(rows, 'weight')}",
        )
    if not body:
        return absent_section("horizon", "Accuracy over the horizon", ["weight_extrap", "evaluate"])
    return Section("horizon", "Horizon", "Weight extrapolation", body)


def _alpha(jobs: Jobs, album: Album) -> Section:
    body = Markup("")
    for number, (training, rows) in enumerate(_trainings(jobs, "logit")):
        lines = dict.fromkeys(row["method"] for row in rows if row["kind"] == "logit")
        for place, line in enumerate(lines):
            mine = [row for row in rows if row["kind"] != "logit" or row["method"] == line]
            end = next(row["last_rl"] for row in mine if row["method"] == line)
            anchor = f"{end} ({training})" if training else end
            body += album.figure(
                f"alpha_{number}_{place}",
                partial(figures.alpha_curve, mine, anchor),
                "avg@k of logit extrapolation against α, over all jobs",
                "Accuracy over α" + line.removeprefix("logit") + ".",
                f"Blue is {anchor}. {_intervals(mine)}{_ring(mine, 'logit')}",
            )
    if not body:
        return absent_section("alpha", "Accuracy over α", ["logit_extrap", "evaluate"])
    return Section("alpha", "α", "Logit extrapolation", body)


def _scores(jobs: Jobs) -> Section:
    places = sorted(
        {(str(row["task"]), str(row["split"])) for row in jobs.rows},
        key=lambda place: (place[0], place[1] != "test", place[1]),
    )
    groups = []
    for task, split in places:
        rows = [row for row in jobs.rows if (row["task"], row["split"]) == (task, split)]
        rows.sort(key=lambda row: (row["kind"], row["method"], row.get("step") or 0))
        groups.append(Group([_line(row) for row in rows], f"{task}, {split}"))
    header = [Cell("model"), Cell("avg@k (%)", "n"), Cell("gain over real RL", "n")]
    header.append(Cell("seeds", "n"))
    note = f"Shaded: chosen on validation. {_intervals(jobs.rows)}"
    body = table(header, groups, wide=True, note=note)
    return Section("scores", "Scores", "All scores", body)


def _line(row: Row) -> Line:
    gain = words.gap(row["gain"]) if row.get("gain") else ""
    lost = f"collapsed in {row['collapsed']} of {row['seeds']} seeds" if row["collapsed"] else ""
    cells = [
        Cell(str(row["model"]), "", lost),
        score(row),
        Cell(gain, "n"),
        Cell(str(row["seeds"]), "n"),
    ]
    return Line(cells, chosen=bool(row["chosen"]))


def _jobs(jobs: Jobs) -> Section:
    keys = list(jobs.varying)
    header = [Cell("job"), Cell("given"), *(Cell(key) for key in keys), Cell("state"), Cell("why")]
    lines = [Line(_cells(job, keys, jobs.folder)) for job in jobs.jobs]
    return Section("jobs", "Jobs", "All jobs", table(header, [Group(lines)], wide=True))


def _cells(job: Job, keys: Sequence[str], folder: Path) -> list[Cell]:
    path = Path(job.run.path).resolve()
    shown = str(path.relative_to(folder)) if path != folder else path.name
    values = [Cell(str(job.settings.get(key, ""))) for key in keys]
    state = job.run.state if job.rows or job.run.state != "done" else "done, not evaluated"
    return [
        Cell(shown, code=True),
        Cell(job.run.job, code=True),
        *values,
        Cell(state),
        Cell(job.run.error or ""),
    ]
