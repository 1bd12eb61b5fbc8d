"""The sections that are tables: all scores, and the facts of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from markupsafe import Markup

from pipeline.report import words
from pipeline.report.html import (
    Cell,
    Group,
    Line,
    Section,
    absent_section,
    render,
    score,
    table,
)
from pipeline.report.inputs import Artefacts

Row = Mapping[str, Any]
UNGRADED = ("grading_timeouts", "extraction_failures", "no_reference")


def score_table(run: Artefacts) -> Section:
    """Every row of scores.json."""
    if not run.rows:
        return absent_section("scores", "Scores", ["evaluate"])
    ks = sorted({int(k) for row in run.rows for k in (row.get("pass@k") or {})})
    shown = [k for k in ks if k > 1][:3]
    last_rl = run.scores["last_rl"] if run.scores else ""
    numbers = ["avg@k (%)", *(f"pass@{k}" for k in shown), "maj@k", f"points to {last_rl}", "p"]
    numbers += ["truncated", "tokens", "ungraded"]
    header = [Cell("model"), *(Cell(name, "n") for name in numbers)]
    places = sorted(
        {(str(row["task"]), str(row["split"])) for row in run.rows},
        key=lambda place: (place[0], place[1] != "test", place[1]),
    )
    groups = []
    for task, split in places:
        rows = [row for row in run.rows if (row["task"], row["split"]) == (task, split)]
        first = rows[0]
        title = (
            f"{task}, {split}: {first['n_problems']} problems"
            f" × {first.get('samples_per_problem', first['k'])} samples"
        )
        lines = [_score_line(row, shown) for row in sorted(rows, key=_row_order)]
        groups.append(Group(lines, title))
    note = "Shaded: chosen on validation. Ranges are 95 % intervals." + _unread_references(run.rows)
    return Section("scores", "Scores", "All scores", table(header, groups, wide=True, note=note))


def _unread_references(rows: Sequence[Row]) -> str:
    """Responses that count as wrong because of their problem: no model's fault."""
    found: dict[str, int] = {}
    for row in rows:
        place = f"{row['task']}, {row['split']}"
        found[place] = found.get(place, 0) + int(row.get("no_reference") or 0)
    counts = [f"{number} of {place}" for place, number in found.items() if number]
    if not counts:
        return ""
    return (
        " Responses not judged, as the reference answer of their problem cannot be read: "
        f"{'; '.join(counts)} (all models together). They count as wrong, for every model alike."
    )


def _row_order(row: Row) -> tuple[int, str, float]:
    kinds = ("base", "named", "rl", "weight", "logit", "mixture")
    return (
        kinds.index(row["kind"]),
        str(row.get("method") or ""),
        float(row.get("alpha") or row.get("step") or 0),
    )


def _score_line(row: Row, ks: Sequence[int]) -> Line:
    passes = row.get("pass@k") or {}
    difference = row.get("diff_to_last_rl")
    p = difference.get("p") if difference else None
    tokens, truncated = row.get("tokens_mean"), row.get("truncated_share")
    majority = row.get("maj@k")
    ungraded = sum(int(row.get(key) or 0) for key in UNGRADED)
    before = [
        *(f"{100 * passes[str(k)]:.1f}" if str(k) in passes else "" for k in ks),
        "" if majority is None else f"{100 * majority:.1f}",
    ]
    behind = [
        "" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}",
        "" if truncated is None else words.percent(truncated),
        "" if tokens is None else f"{tokens:.1f}",
        str(ungraded),
    ]
    cells = [
        Cell(words.model_label(row), "name", "collapsed" if row.get("collapsed") else ""),
        score(row),
        *(Cell(text, "n") for text in before),
        _points(difference),
        *(Cell(text, "n") for text in behind),
    ]
    return Line(cells, chosen=bool(row.get("chosen")))


def _points(difference: Mapping[str, Any] | None) -> Cell:
    if difference is None:
        return Cell("", "n")
    value, _, bounds = words.gap(difference).partition("\u00a0points ")
    return Cell(value, "n", bounds)


def facts(run: Artefacts) -> Section:
    """Stages with wall times, what was extrapolated, versions, and the whole configuration."""
    versions: dict[str, str] = {}
    for done in run.done.values():
        versions.update(done.get("versions") or {})
    commits = sorted({str(done["git"]) for done in run.done.values() if done.get("git")})
    text = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    if text and commits:
        text += f"; commit {', '.join(commit[:12] for commit in commits)}"
    config = yaml.safe_dump(dict(run.config), sort_keys=False, allow_unicode=True)
    body = render(
        "facts",
        stages=_stage_table(run.done) if run.done else "",
        predicted=_extrapolation_table(run.extrapolations) if run.extrapolations else "",
        versions=text,
        config=config if run.config else "",
    )
    return Section("facts", "Run facts", "Run facts", body)


def _stage_table(done: Mapping[str, Mapping[str, Any]]) -> Markup:
    lines = []
    for stage, entry in sorted(done.items(), key=lambda item: str(item[1].get("finished"))):
        summary = entry.get("summary") or {}
        text = ", ".join(f"{key} {_short(value)}" for key, value in summary.items())
        seconds = entry.get("seconds")
        time = "" if seconds is None else words.duration(float(seconds))
        lines.append(Line([Cell(stage, code=True), Cell(time, "n"), Cell(text)]))
    return table([Cell("stage"), Cell("wall time", "n"), Cell("what came out")], [Group(lines)])


def _extrapolation_table(entries: Sequence[Mapping[str, Any]]) -> Markup:
    lines = []
    for entry in entries:
        alpha = entry.get("alpha")
        cells = [
            Cell(str(entry["method"])),
            Cell(str(entry["target"]), "n"),
            Cell("" if alpha is None else _short(alpha), "n"),
            Cell(_coefficients(entry.get("coefficients")), code=True),
        ]
        lines.append(Line(cells))
    header = [Cell("method"), Cell("to step", "n"), Cell("α", "n"), Cell("coefficients c")]
    return table(header, [Group(lines)])


def _coefficients(value: Any) -> str:
    """Step → coefficient pairs in one line; the first few if the method has many."""
    if isinstance(value, Mapping):
        items = [f"{key}: {_short(number)}" for key, number in value.items()]
    elif isinstance(value, Sequence) and not isinstance(value, str):
        items = [_short(number) for number in value]
    else:
        return ""
    return ", ".join(items[:8]) + (f", … ({len(items)})" if len(items) > 8 else "")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
