"""The sections that are tables: all scores, and the facts of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import yaml

from pipeline.report import words
from pipeline.report.html import Section, absent_section, score, table
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
    header = [("model", ""), ("avg@k (%)", "n")]
    header += [(f"pass@{k}", "n") for k in shown]
    header += [("maj@k", "n"), (f"points to {last_rl}", "n"), ("p", "n"), ("truncated", "n")]
    header += [("tokens", "n"), ("ungraded", "n")]
    places = sorted(
        {(str(row["task"]), str(row["split"])) for row in run.rows},
        key=lambda place: (place[0], place[1] != "test", place[1]),
    )
    bodies = []
    for task, split in places:
        group = [row for row in run.rows if (row["task"], row["split"]) == (task, split)]
        first = group[0]
        title = (
            f"{task}, {split}: {first['n_problems']} problems"
            f" × {first.get('samples_per_problem', first['k'])} samples"
        )
        lines = [f'<tr><th class="group" colspan="{len(header)}">{escape(title)}</th></tr>']
        lines += [_score_line(row, shown) for row in sorted(group, key=_row_order)]
        bodies.append(lines)
    note = "Shaded: chosen on validation. Ranges are 95 % intervals." + _unread_references(run.rows)
    body = table(header, bodies, wide=True) + f'<p class="small">{note}</p>'
    return Section("scores", "Scores", "All scores", body)


def _unread_references(rows: Sequence[Row]) -> str:
    """Responses that count as wrong because of their problem: no model's fault."""
    found: dict[str, int] = {}
    for row in rows:
        place = f"{row['task']}, {row['split']}"
        found[place] = found.get(place, 0) + int(row.get("no_reference") or 0)
    counts = [f"{number} of {escape(place)}" for place, number in found.items() if number]
    if not counts:
        return ""
    return (
        " Responses not judged, as the reference answer of their problem cannot be read: "
        f"{'; '.join(counts)} (all models together). They count as wrong, for every model alike."
    )


def _row_order(row: Row) -> tuple[int, str, float]:
    kinds = ("base", "named", "rl", "weight", "logit")
    return (
        kinds.index(row["kind"]),
        str(row.get("method") or ""),
        float(row.get("alpha") or row.get("step") or 0),
    )


def _score_line(row: Row, ks: Sequence[int]) -> str:
    passes = row.get("pass@k") or {}
    difference = row.get("diff_to_last_rl")
    p = difference.get("p") if difference else None
    tokens, truncated = row.get("tokens_mean"), row.get("truncated_share")
    majority = row.get("maj@k")
    ungraded = sum(int(row.get(key) or 0) for key in UNGRADED)
    cells = [
        score(row),
        *(f"{100 * passes[str(k)]:.1f}" if str(k) in passes else "" for k in ks),
        "" if majority is None else f"{100 * majority:.1f}",
        _points(difference),
        "" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}",
        "" if truncated is None else words.percent(truncated),
        "" if tokens is None else f"{tokens:.1f}",
        str(ungraded),
    ]
    label = escape(words.model_label(row))
    style = ' class="chosen"' if row.get("chosen") else ""
    return (
        f'<tr{style}><td class="name">{label}</td>'
        + "".join(f'<td class="n">{c}</td>' for c in cells)
        + "</tr>"
    )


def _points(difference: Mapping[str, Any] | None) -> str:
    if difference is None:
        return ""
    value, _, bounds = words.gap(difference).partition("\u00a0points ")
    return f"{value} <span class='range'>{bounds}</span>"


def facts(run: Artefacts) -> Section:
    """Stages with wall times, what was extrapolated, versions, and the whole configuration."""
    parts = []
    if run.done:
        parts.append(_stage_table(run.done))
    if run.extrapolations:
        parts.append("<h3>Predicted checkpoints</h3>" + _extrapolation_table(run.extrapolations))
    versions: dict[str, str] = {}
    for done in run.done.values():
        versions.update(done.get("versions") or {})
    commits = sorted({str(done["git"]) for done in run.done.values() if done.get("git")})
    if versions:
        text = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
        if commits:
            text += f"; commit {', '.join(commit[:12] for commit in commits)}"
        parts.append(f"<h3>Versions</h3><p>{escape(text)}</p>")
    if run.config:
        text = yaml.safe_dump(dict(run.config), sort_keys=False, allow_unicode=True)
        parts.append(
            '<details class="card"><summary>Configuration (config.yaml)</summary>'
            f"<pre>{escape(text)}</pre></details>"
        )
    body = "".join(parts) or '<p class="absent">No finished stage and no config.yaml.</p>'
    return Section("facts", "Run facts", "Run facts", body)


def _stage_table(done: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for stage, entry in sorted(done.items(), key=lambda item: str(item[1].get("finished"))):
        summary = entry.get("summary") or {}
        text = ", ".join(f"{key} {_short(value)}" for key, value in summary.items())
        seconds = entry.get("seconds")
        time = "" if seconds is None else words.duration(float(seconds))
        rows.append(
            f'<tr><td><code>{escape(stage)}</code></td><td class="n">{time}</td>'
            f"<td>{escape(text)}</td></tr>"
        )
    return table([("stage", ""), ("wall time", "n"), ("what came out", "")], [rows])


def _extrapolation_table(entries: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for entry in entries:
        alpha = entry.get("alpha")
        rows.append(
            f"<tr><td>{escape(str(entry['method']))}</td>"
            f'<td class="n">{entry["target"]}</td>'
            f'<td class="n">{"" if alpha is None else _short(alpha)}</td>'
            f"<td><code>{escape(_coefficients(entry.get('coefficients')))}</code></td></tr>"
        )
    header = [("method", ""), ("to step", "n"), ("α", "n"), ("coefficients c", "")]
    return table(header, [rows])


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
