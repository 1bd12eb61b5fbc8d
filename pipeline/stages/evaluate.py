"""Sample every model on the same problems, grade, choose on validation, score on test."""

from __future__ import annotations

from typing import Any

from pipeline.artifacts import write_json
from pipeline.stages import controls, models, named_models, outside, problems, sampling, scoring
from pipeline.stages.base import Context
from pipeline.stages.candidates import (
    check_steps,
    logit_candidates,
    rl_candidates,
    weight_candidates,
)
from pipeline.stages.snapshot import planned_steps

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
    tasks = [task for task, _, _ in problems.evaluation_sets(context)]
    data = outside.task_data(context, tasks)
    return {**named_models.inputs(context), **data, **outside.recorded_settings(context)}


def standing(context: Context) -> str:
    return context.standing("evaluate", "generations.jsonl", "scores.json")


def plan(context: Context) -> str:
    evaluate = context.config.evaluate
    steps = planned_steps(context)
    if steps is not None:
        models.end_steps(context, steps)
        check_steps(evaluate.checkpoints or [], steps)
    named_models.check(context, steps)
    sets = problems.evaluation_sets(context)
    for task, split, count in sets:
        problems.check_task(context, task, (split, count))
    words = ", ".join(
        f"{task.name} {split} ({count or 'all'} problems)" for task, split, count in sets
    )
    named = f"; also {', '.join(evaluate.models)}" if evaluate.models else ""
    engine = sampling.check_engine(context)
    return (
        f"{words}, {evaluate.samples_per_problem} samples each; "
        f"{engine}{named}{controls.describe(context)}"
    )


def run(context: Context) -> dict[str, Any]:
    from pipeline.inference.parallel import Draw
    from pipeline.report import judgement

    trajectory = models.load_trajectory(context)
    first, last = models.end_steps(context, trajectory.steps)
    wanted = context.config.evaluate.checkpoints
    candidates = rl_candidates(
        context, trajectory, None if wanted is None else [*wanted, last, trajectory.steps[-1]]
    )
    candidates += weight_candidates(context, trajectory)
    candidates += named_models.named_candidates(context, trajectory)
    draw = Draw(sampling.sampling(context), context.stage_dir("evaluate") / "generations.jsonl")
    engine = sampling.engine_arguments(context, named_models.start_folder(context, trajectory))
    sets = problems.load_sets(context)
    items = problems.encode_sets(context, trajectory.base.folder, sets)
    sampling.sample(context, [draw], candidates, engine, items)
    if context.is_done("logit_extrap"):
        candidates += logit_candidates(context, trajectory, first, last)
    scoring.copy_logit_rows(context, draw)
    groups = scoring.tally_draw(context, draw, candidates, items, sets)
    scores = scoring.score(context, groups, f"rl-{trajectory.steps[-1]}", f"rl-{last}")
    if controls.wanted(context):
        posed = (items, sets)
        scores["controls"] = controls.run(context, trajectory, candidates, posed, groups, scores)
    write_json(context.stage_dir("evaluate") / "scores.json", scores)
    columns = ["model", "task", "split", "avg@k", "low", "high", "chosen"]
    table = [
        [r["model"], r["task"], r["split"], r["avg@k"], *r["ci95"], r["chosen"]]
        for r in scores["rows"]
    ]
    context.tracker.table("scores", columns, table)
    context.tracker.summary("evaluate", judgement.summary(scores))
    return {"models": len(candidates), **_headline(scores)}


def _headline(scores: dict[str, Any]) -> dict[str, Any]:
    """Test scores of the last RL checkpoint and of what was chosen."""
    chosen = {choice["model"] for choice in scores["chosen"].values()}
    return {
        f"{row['task']}/{row['model']}": row["avg@k"]
        for row in scores["rows"]
        if row["split"] == "test" and (row["model"] in chosen or row["model"] == scores["last_rl"])
    }
