"""What the run came to: the verdict, the main scores, and the findings in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from pipeline.report import judgement, words
from pipeline.report.html import (
    Cell,
    Group,
    Line,
    Section,
    absent,
    absent_section,
    render,
    score,
    table,
    words_table,
)
from pipeline.report.inputs import Artefacts
from pipeline.report.probe import driven
from pipeline.report.sections import compared

_BADGES = {
    "better": "gain",
    "sharpening": "sharpening",
    "uncontrolled": "no control",
    "worse": "loss",
    "unclear": "no difference",
    "unknown": "not compared",
}


def head(run: Artefacts) -> Markup:
    """Title, what was run, the verdict in words, and the main scores as tiles."""
    title = {"name": run.name, "facts": _run_line(run)}
    if run.scores is None:
        missing = absent("Verdict", ["evaluate"])
        return render("head", **title, verdicts=None, absent=missing)
    found = judgement.verdicts(run.scores)
    return render(
        "head",
        **title,
        verdicts=found,
        badges=_BADGES,
        headline=judgement.headline(found),
        beyond=judgement.continued(run.scores, run.last_step) if found else "",
        scores=_tiles(run),
    )


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


def _tiles(run: Artefacts) -> Markup:
    """avg@k of the compared models on test: a tile each, or a table if there are several tasks."""
    tasks = list(dict.fromkeys(str(row["task"]) for row in run.rows if row["split"] == "test"))
    if len(tasks) != 1:
        return _task_table(run, tasks) if tasks else Markup("")
    rows = compared(run, tasks[0])
    tiles = [
        {
            "kind": row["kind"],
            "label": words.model_label(row),
            "score": words.percent(row["avg@k"]),
            "range": words.interval(row["ci95"]),
        }
        for row in rows
    ]
    note = ""
    if rows:
        note = f"avg@{rows[0]['k']} on {rows[0]['n_problems']} test problems of {tasks[0]}"
        note += ", with 95 % intervals."
    return render("tiles", tiles=tiles, note=note)


def _task_table(run: Artefacts, tasks: Sequence[str]) -> Markup:
    """Compared models in rows, test tasks in columns, avg@k with its interval in the cells."""
    by_task = {task: {str(row["model"]): row for row in compared(run, task)} for task in tasks}
    models = {model: row for rows in by_task.values() for model, row in rows.items()}
    lines = []
    for model, any_row in models.items():
        rows = [by_task[task].get(model) for task in tasks]
        cells = [score(row) if row else Cell("", "n") for row in rows]
        lines.append(Line([Cell(words.model_label(any_row), "name"), *cells]))
    header = [Cell("avg@k (%) on test problems"), *(Cell(task, "n") for task in tasks)]
    return table(header, [Group(lines)])


def summary(run: Artefacts) -> Section:
    """The findings in words, one line each."""
    pairs: list[tuple[str, str]] = []
    if run.weights is not None:
        pairs.append(("Weights", words.linearity(run.weights, "weights")))
        movement = run.weights.get("relative_movement")
        if movement is not None:
            text = f"All weights together moved by {100 * movement:.3g} % of their norm."
            pairs.append(("Movement", text))
    if run.logprobs is not None:
        pairs.append(("Token log-probs", words.linearity(run.logprobs, "tokens")))
    if run.activations is not None:
        text = words.linearity(run.activations, "hidden-state values")
        text = f"{text} {driven(run.activations['decomposition'])}".rstrip()
        pairs.append(("Hidden states", text))
    if run.scores is not None:
        pairs += _chosen_in_words(run.scores)
        pairs.append(("Compared with", _last_rl(run)))
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
        pairs.append((name, text))
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
