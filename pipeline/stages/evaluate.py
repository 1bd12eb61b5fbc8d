"""Sample every model on the same problems, grade, choose on validation, score on test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.artifacts import write_json
from pipeline.content import recorded_settings, task_data
from pipeline.evaluation import members, named_models
from pipeline.stages.base import Context
from pipeline.subject.checkpoints import check_step

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.evaluation.posing import Posed
    from pipeline.inference.parallel import Candidate, Draw, Work

SECTIONS = (
    "evaluate",
    "extrapolation",
    "extrapolations",
    "logit_extrap",
    "task",
    "eval_tasks",
    "engine",
    "model.dtype",
    "seed",
)
REUSES = True  # rows know what they were made from


def needs(context: Context) -> tuple[str, ...]:
    """The trajectory, and whatever extrapolations this run has."""
    made = tuple(s for s in ("weight_extrap", "logit_extrap") if context.runs_or_done(s))
    return ("snapshot", *made)


def inputs(context: Context) -> dict[str, Any]:
    data = task_data([each.task for each in context.sets], context.hashes)
    models = named_models.inputs(context) | members.inputs(context)
    return models | data | recorded_settings(context.recorded)


def standing(context: Context) -> str:
    return context.standing("evaluate", "generations.jsonl", "scores.json")


def plan(context: Context) -> str:
    from pipeline.estimates import sampling
    from pipeline.evaluation import controls

    evaluate = context.config.evaluate
    if context.steps is not None:
        context.ends(context.steps)
        for step in evaluate.checkpoints or []:
            check_step("evaluate.checkpoints", step, context.steps)
    named_models.check(context)
    for task, split, count in context.sets:
        context.check_task(task, (split, count))
    words = ", ".join(
        f"{task.name} {split} ({count or 'all'} problems)" for task, split, count in context.sets
    )
    named = f"; also {', '.join(evaluate.models)}" if evaluate.models else ""
    return (
        f"{words}, {evaluate.samples_per_problem} samples each; "
        f"{context.engine.check()}{named}{controls.describe(evaluate)}"
        f"{sampling.evaluate(context)}"
    )


@dataclass(frozen=True)
class _Prepared:
    """What is sampled: the models, how, the problems, and the folder that engines start on."""

    candidates: list[Candidate]
    draw: Draw
    posed: Posed
    start: Path


def _prepare(context: Context) -> _Prepared:
    from pipeline.evaluation.candidates import rl_candidates, weight_candidates
    from pipeline.evaluation.posing import pose
    from pipeline.evaluation.sampling import sampling
    from pipeline.inference.parallel import Draw

    steps, wanted = context.trajectory.steps, context.config.evaluate.checkpoints
    _, last = context.ends(steps)
    candidates = rl_candidates(context, None if wanted is None else [*wanted, last, steps[-1]])
    candidates += weight_candidates(context)
    named = named_models.open_checkpoints(context)
    candidates += named_models.named_candidates(context, named)
    draw = Draw(sampling(context), context.stage_dir("evaluate") / "generations.jsonl")
    return _Prepared(candidates, draw, pose(context), named_models.start_folder(context, named))


def works(context: Context) -> list[Work]:
    """What is drawn."""
    return [_work(context, _prepare(context))]


def _work(context: Context, made: _Prepared) -> Work:
    from pipeline.evaluation.sampling import models_work

    return models_work(context, [made.draw], made.candidates, made.posed.items, made.start)


def run(context: Context) -> dict[str, Any]:
    from pipeline.evaluation import controls, scoring
    from pipeline.evaluation.candidates import logit_candidates
    from pipeline.evaluation.sampling import sample
    from pipeline.report import charts, judgement

    steps = context.trajectory.steps
    first, last = context.ends(steps)
    made = _prepare(context)
    sample(context, [_work(context, made)])
    candidates, draw, posed = made.candidates, made.draw, made.posed
    if context.is_done("logit_extrap"):
        candidates += logit_candidates(context, first, last)
        candidates += members.mixture_candidates(context)
    scoring.copy_rows(context.stage_dir("logit_extrap") / "generations.jsonl", draw)
    shown: list[list[Any]] = []
    groups = scoring.tally_draw(draw, candidates, posed, shown)
    scores = scoring.score(context, groups, f"rl-{steps[-1]}", f"rl-{last}")
    if controls.wanted(context.config.evaluate):
        scores["controls"] = controls.control(
            context, candidates, posed, groups, scores, made.start
        )
    write_json(context.stage_dir("evaluate") / "scores.json", scores)
    columns = ["model", "task", "split", "avg@k", "low", "high", "chosen", "collapsed"]
    table = [
        [r["model"], r["task"], r["split"], r["avg@k"], *r["ci95"], r["chosen"], r["collapsed"]]
        for r in scores["rows"]
    ]
    tracker = context.tracker
    tracker.table("scores", columns, table)
    tracker.table("generations", scoring.SHOWN, shown)
    for chart in charts.charts(scores):
        tracker.chart(*chart)
    tracker.artifact("scores", [context.stage_dir("evaluate") / "scores.json"], {})
    collapsed = sorted({row["model"] for row in scores["rows"] if row["collapsed"]})
    figures = judgement.summary(scores) | charts.best_on_validation(scores)
    tracker.summary("evaluate", figures | {"collapsed_models": ", ".join(collapsed)})
    return {"models": len(candidates), "collapsed": len(collapsed), **_headline(scores)}


def _headline(scores: dict[str, Any]) -> dict[str, Any]:
    """Test scores of the last RL checkpoint and of what was chosen."""
    chosen = {choice["model"] for choice in scores["chosen"].values()}
    return {
        f"{row['task']}/{row['model']}": row["avg@k"]
        for row in scores["rows"]
        if row["split"] == "test" and (row["model"] in chosen or row["model"] == scores["last_rl"])
    }
