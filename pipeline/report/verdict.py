"""What the run came to: the verdict, the main scores, and the findings in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from pipeline.report import judgement, words
from pipeline.report.html import Section, absent, absent_section, score, table, words_table
from pipeline.report.inputs import Artefacts
from pipeline.report.linearity import driven
from pipeline.report.sections import compared

_BADGES = {
    "better": "gain",
    "sharpening": "sharpening",
    "uncontrolled": "no control",
    "worse": "loss",
    "unclear": "no difference",
    "unknown": "not compared",
}


def head(run: Artefacts) -> str:
    """Title, what was run, the verdict in words, and the main scores as tiles."""
    facts = " ".join(f"<span>{escape(fact)}</span>" for fact in _run_line(run))
    parts = [
        '<header><p class="eyebrow">RL extrapolation report</p>'
        f'<h1>{escape(run.name)}</h1><p class="facts">{facts}</p></header>'
    ]
    if run.scores is None:
        parts.append(absent("Verdict", ["evaluate"]))
        return "".join(parts)
    found = judgement.verdicts(run.scores)
    items = "".join(
        f'<li><span class="badge {v.outcome}">{_BADGES[v.outcome]}</span>'
        f"<p>{escape(v.text)}</p></li>"
        for v in found
    )
    beyond = judgement.continued(run.scores, run.last_step) if found else ""
    note = f"<p>{escape(beyond)}</p>" if beyond else ""
    title = judgement.headline(found)
    parts.append(f'<div class="verdict card"><h2>{escape(title)}</h2><ul>{items}</ul>{note}</div>')
    parts.append(_tiles(run))
    return "".join(parts)


def _run_line(run: Artefacts) -> list[str]:
    facts = []
    model, task = run.section("model").get("name"), run.section("task").get("name")
    if model:
        facts.append(f"model {model}")
    if run.parameters:
        facts.append(words.count(run.parameters, "parameters"))
    if task:
        facts.append(f"task {task}")
    if run.steps:
        facts.append(f"{len(run.steps)} checkpoints, steps {run.steps[0]} to {run.steps[-1]}")
    seconds = sum(float(done["seconds"]) for done in run.done.values() if "seconds" in done)
    if seconds:
        facts.append(f"{words.duration(seconds)} of wall time")
    return facts


def _tiles(run: Artefacts) -> str:
    """avg@k of the compared models on test: a tile each, or a table if there are several tasks."""
    tasks = list(dict.fromkeys(str(row["task"]) for row in run.rows if row["split"] == "test"))
    if len(tasks) > 1:
        return _task_table(run, tasks)
    parts = []
    for task in tasks:
        rows = compared(run, task)
        tiles = "".join(
            f'<div class="tile card" style="--tile: var(--{row["kind"]})">'
            f'<span class="name">{escape(words.model_label(row))}</span>'
            f"<b>{words.percent(row['avg@k'])}</b>"
            f'<span class="range">{words.interval(row["ci95"])}</span></div>'
            for row in rows
        )
        parts.append(f'<div class="tiles">{tiles}</div>')
        if rows:
            parts.append(
                f'<p class="small">avg@{rows[0]["k"]} on {rows[0]["n_problems"]} test problems of '
                f"{escape(task)}, with 95 % intervals.</p>"
            )
    return "".join(parts)


def _task_table(run: Artefacts, tasks: Sequence[str]) -> str:
    """Compared models in rows, test tasks in columns, avg@k with its interval in the cells."""
    by_task = {task: {str(row["model"]): row for row in compared(run, task)} for task in tasks}
    models = {model: row for rows in by_task.values() for model, row in rows.items()}
    lines = []
    for model, any_row in models.items():
        cells = ""
        for task in tasks:
            row = by_task[task].get(model)
            cells += '<td class="n">' + (score(row) if row else "") + "</td>"
        lines.append(f'<tr><td class="name">{escape(words.model_label(any_row))}</td>{cells}</tr>')
    header = [("avg@k (%) on test problems", ""), *((task, "n") for task in tasks)]
    return table(header, [lines])


def summary(run: Artefacts) -> Section:
    """The findings in words, one line each."""
    pairs: list[tuple[str, str]] = []
    if run.weights is not None:
        pairs.append(("Weights", escape(words.linearity(run.weights, "weights"))))
        movement = run.weights.get("relative_movement")
        if movement is not None:
            text = f"All weights together moved by {100 * movement:.3g} % of their norm."
            pairs.append(("Movement", text))
    if run.logprobs is not None:
        pairs.append(("Token log-probs", escape(words.linearity(run.logprobs, "tokens"))))
    if run.activations is not None:
        text = words.linearity(run.activations, "hidden-state values")
        text = f"{text} {driven(run.activations['decomposition'])}".rstrip()
        pairs.append(("Hidden states", escape(text)))
    if run.scores is not None:
        pairs += _chosen_in_words(run.scores)
        pairs.append(("Compared with", escape(_last_rl(run))))
    if not pairs:
        return absent_section("summary", "Findings in words", ["linear_probe", "evaluate"])
    return Section("summary", "In words", "In words", words_table(pairs))


def _chosen_in_words(scores: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How horizon and α were chosen, and what they came to on the test problems."""
    pairs = []
    several = len({row["method"] for row in scores["rows"] if row["kind"] == "weight"}) > 1
    horizon = "Chosen method and horizon" if several else "Chosen horizon"
    rows = words.chosen_rows(scores, "test") or words.chosen_rows(scores, "validation")
    for model in dict.fromkeys(str(row["model"]) for row in rows):
        mine = [row for row in rows if row["model"] == model]
        text = words.choice(scores, mine[0])
        text = text[0].upper() + text[1:]
        for row in mine:
            if row["split"] == "test":
                difference = row.get("diff_to_last_rl")
                text += f" On test, {row['task']}: {words.percent(row['avg@k'])}"
                text += f", {words.gap(difference)}." if difference else "."
        name = "Chosen α" if mine[0]["kind"] == "logit" else horizon
        pairs.append((name, escape(text)))
    return pairs


def _last_rl(run: Artefacts) -> str:
    scores = run.scores or {}
    rows = [row for row in run.rows if row["model"] == scores.get("last_rl")]
    parts = [
        f"{words.percent(row['avg@k'])} {words.interval(row['ci95'])} on {row['task']}, "
        f"{row['split']} ({row['n_problems']} problems)"
        for row in sorted(rows, key=lambda row: (str(row["task"]), str(row["split"])))
    ]
    return f"{scores.get('last_rl')}: " + ("; ".join(parts) or "not evaluated") + "."
