"""Sections on training and scores: each takes the artefacts and returns its part of the page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from markupsafe import Markup

from pipeline.report import figures, words
from pipeline.report.html import Album, Section, absent, absent_section, words_table
from pipeline.report.inputs import Artefacts
from pipeline.report.judgement import temperature

Row = Mapping[str, Any]


def training(run: Artefacts, album: Album) -> Section:
    """The reward over the RL steps."""
    if not any(row.get("reward") is not None for row in run.rewards):
        return absent_section("training", "Reward curve", ["rl_train"])
    body = album.figure(
        "reward",
        partial(figures.reward_curve, run.rewards, run.steps, _marked_step(run)),
        "Mean reward over the RL steps",
        "Reward during RL.",
        "Mean over the rollouts of a step on training problems, so it is "
        "not comparable with the scores below. Short marks at the foot are snapshots.",
    )
    return Section("training", "RL run", "The RL run", body)


def horizon(run: Artefacts, album: Album) -> Section:
    """Weight extrapolation against real RL over the horizon."""
    if not any(row["kind"] == "weight" for row in run.rows):
        return absent_section("horizon", "Horizon curve", ["weight_extrap", "evaluate"])
    last = run.last_step
    beyond = [r for r in run.rows if r["kind"] == "rl" and last is not None and r["step"] > last]
    caption = (
        "Blue is real RL with its 95 % band; whiskers are the "
        "95 % intervals of predicted weights"
        + (f", made from steps {run.first_step} to {last} only (dotted line)" if last else "")
        + ". A prediction is worth something where it lies above real RL at the same step, "
        "since it costs no training. The ring marks the "
        f"{'method and ' if len(methods_of(run)) > 1 else ''}horizon chosen on validation; "
        "the test panel shows what that choice was worth."
    )
    if beyond:
        caption += " The dashed part of blue was never seen by the extrapolation."
    body = album.figure(
        "horizon",
        partial(figures.horizon_curve, run.rows, last),
        "avg@k against the step, real RL and weight extrapolation",
        "How far the line carries.",
        caption,
    )
    return Section("horizon", "Horizon", "Weight extrapolation", body)


def logits(run: Artefacts, album: Album) -> Section:
    """Logit extrapolation over α."""
    scores = run.scores
    if scores is None or not any(row["kind"] == "logit" for row in run.rows):
        return absent_section("logits", "α curve", ["logit_extrap", "evaluate"])
    last = run.last_step
    meaning = ""
    if last is not None and last > run.first_step:
        target = run.first_step + 1.5 * (last - run.first_step)
        meaning = (
            f" With checkpoints at steps {run.first_step} and {last}, α = 1.5 stands for "
            f"step {target:g}."
        )
    body = album.figure(
        "alpha",
        partial(figures.alpha_curve, run.rows, str(scores["last_rl"])),
        "avg@k of logit extrapolation against α",
        "How far the logits carry.",
        "At every decoding step the two models' logits are "
        "mixed as l₀ + α (l₁ − l₀); α = 1 is the later checkpoint itself, beyond it is "
        f"prediction.{meaning} The band is {scores['last_rl']} "
        "with its 95 % interval; dashed, if there, real RL at its end; the ring marks the α "
        "chosen on validation.",
    )
    return Section("logits", "Logits", "Logit extrapolation", body)


def models(run: Artefacts, album: Album) -> Section:
    """The chosen models beside base and real RL on the test problems, task by task."""
    scores = run.scores
    if scores is None or not run.rows:
        return absent_section("models", "Comparison of models", ["evaluate"])
    methods = methods_of(run)
    body = Markup("")
    tasks = dict.fromkeys(str(row["task"]) for row in run.rows if row["split"] == "test")
    for task, name in zip(tasks, file_names(tasks), strict=True):
        rows = compared(run, task)
        labels = [words.model_label(row) for row in rows]
        body += album.figure(
            f"models_{name}",
            partial(figures.model_bars, rows, labels, str(scores["last_rl"]), methods=methods),
            f"avg@k of the models on the test problems of {task} and paired differences",
            f"{task}, test problems.",
            "Left, avg@k with 95 % intervals over "
            f"problems. Right, the difference to {scores['last_rl']}, problem by "
            "problem (paired, so its interval is narrower than the two on the left suggest); "
            "filled dots are those whose interval excludes zero.",
        )
    body = body or absent("Test scores", ["evaluate"])
    return Section("models", "Models", "Models side by side", body)


def file_names(tasks: Iterable[str]) -> list[str]:
    """A name for the figure of each task: letters, digits and _, and no two alike."""
    names: list[str] = []
    for task in tasks:
        name = "".join(c if c.isalnum() else "_" for c in task)
        while name.lower() in map(str.lower, names):  # some file systems know no case
            name += "_"
        names.append(name)
    return names


def sharpening(run: Artefacts, album: Album) -> Section:
    """Base, real RL and the chosen extrapolations over the temperature."""
    controls = (run.scores or {}).get("controls")
    if not controls:
        return absent_section("sharpening", "Accuracy over temperature", ["evaluate"])
    split = "test" if any(row["split"] == "test" for row in controls["rows"]) else "validation"
    sampled = list(dict.fromkeys(str(row["model"]) for row in controls["rows"]))
    rows = [
        row
        for row in [*controls["rows"], *run.rows]
        if row["split"] == split and row["model"] in sampled
    ]
    named = {str(row["model"]): words.model_label(row) for row in rows}
    body = album.figure(
        "temperature",
        partial(
            figures.temperature_curve,
            rows,
            {model: named[model] for model in sampled},
            methods=methods_of(run),
        ),
        "Share of correct answers against the temperature",
        f"The sharpening control, {split} problems.",
        "A lower temperature makes any model "
        "surer of itself, at no cost, and so does RL. A line that lies above all others is a "
        "gain; one that only starts higher on the right, where the evaluation is, has been "
        "sharpened. Whiskers are 95 % intervals.",
    )
    body += _controls_in_words(controls)
    return Section("sharpening", "Control", "Gain or sharpening", body)


def _controls_in_words(controls: Mapping[str, Any]) -> Markup:
    """The temperatures that validation prefers, and what is left of each prediction there."""
    pairs = [
        (
            model,
            f"best on validation: {temperature(best['temperature'])}, "
            f"{words.percent(best['validation avg@k'])}",
        )
        for model, best in controls["best"].items()
    ]
    pairs += [
        (
            f"{c['model']} on {c['task']}",
            f"{temperature(c['temperature'])}, against "
            f"{c['control']['model']} with "
            f"{temperature(c['control']['temperature'])}: {words.gap(c)}",
        )
        for c in controls["comparisons"]
    ]
    return words_table(pairs) if pairs else Markup("")


def methods_of(run: Artefacts) -> list[str]:
    """The weight extrapolation methods of the run: a method keeps its colour in all figures."""
    return list(dict.fromkeys(str(r["method"]) for r in run.rows if r["kind"] == "weight"))


def compared(run: Artefacts, task: str) -> list[Row]:
    """Rows to compare on `task`: base, models that the user named, RL where extrapolation starts,
    RL at its end, chosen."""
    rows = [row for row in run.rows if row["split"] == "test" and row["task"] == task]
    scores = run.scores or {"rows": [], "last_rl": None}
    kept = [row for row in rows if row["kind"] in {"base", "named", "mixture"}]
    marks = {run.last_step, words.final_step(scores)}
    kept += [
        row
        for row in rows
        if row["kind"] == "rl" and (row["step"] in marks or row["model"] == scores["last_rl"])
    ]
    picked = [row for row in words.chosen_rows(scores, "test") if row["task"] == task]
    return kept + sorted(picked, key=lambda row: row["kind"] == "logit")


def _marked_step(run: Artefacts) -> int | None:
    """The last step that extrapolation may see, if RL continued beyond it."""
    last = run.last_step
    return last if last is not None and run.steps and last < run.steps[-1] else None
