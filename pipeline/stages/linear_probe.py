"""How straight the path is: R² of every weight, and of what the model computes on fixed texts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.artifacts import write_json
from pipeline.errors import PipelineError
from pipeline.stages import models, outside, problems, sampling
from pipeline.stages.base import Context
from pipeline.stages.candidates import checkpoint_fingerprint, single
from pipeline.stages.snapshot import planned_steps

if TYPE_CHECKING:
    from pipeline.inference.logprobs import Text
    from pipeline.trajectory.recipe import Recipe
    from pipeline.trajectory.sources import Trajectory

SECTIONS = ("linear_probe", "task", "engine", "model.dtype", "seed")
REUSES = False


def needs(context: Context) -> tuple[str, ...]:
    return ("snapshot",)


def inputs(context: Context) -> dict[str, Any]:
    return {"problems": problems.probed(context), **outside.recorded_settings(context)}


def standing(context: Context) -> str:
    return context.standing("linear_probe", "weights.json")


def plan(context: Context) -> str:
    probe = context.config.linear_probe
    steps = planned_steps(context)
    if steps is not None and len(steps) < 3:
        raise PipelineError(
            f"linear_probe needs at least 3 checkpoints, there are {len(steps)} (two points always "
            "lie on a line); leave it out of stages, or have more of them"
        )
    text = f"R² of every weight (filters: change > {probe.min_change:g}, {probe.min_unique} values)"
    probed = problems.probe_set(context)
    if probed is None:
        return f"{text}; no task given, so log-probs are not measured (task=math500, say)"
    problems.check_task(context, context.config.task, probed)
    text += (
        f"; log-probs of {probe.problems} x {probe.responses_per_problem} responses of the "
        f"base model to {context.config.task.name} ({probed[0]}), {sampling.check_engine(context)}"
    )
    if probe.activations:
        text += f"; hidden states at {probe.activation_tokens} positions of these texts"
    return text


def run(context: Context) -> dict[str, Any]:
    from pipeline.inference.activations import probe_activations
    from pipeline.trajectory.linearity import probe_weights

    config = context.config.linear_probe
    trajectory = models.load_trajectory(context)
    folder = context.stage_dir("linear_probe")
    weights = probe_weights(trajectory, config.min_change, config.min_unique)
    write_json(folder / "weights.json", weights)
    summary = _headline("weights", weights)
    probed = problems.probe_set(context)
    if probed is None:
        return summary
    sources = models.model_sources(context, trajectory, trajectory.steps)
    start = models.start_folder(context, trajectory)
    texts, tokens = _probe_logprobs(context, trajectory, start, sources, probed)
    write_json(folder / "logprobs.json", tokens)
    summary |= _headline("logprobs", tokens)
    if config.activations:
        states = probe_activations(
            [[*text.prompt, *text.response] for text in texts],
            sources,
            positions=config.activation_tokens,
            min_change=config.min_activation_change,
        )
        write_json(folder / "activations.json", states)
        summary |= _headline("activations", states)
    return summary


def _headline(name: str, probe: dict[str, Any]) -> dict[str, Any]:
    keys = ("r2_median", "r2_share_above_0.7", "scalars_kept", "scalars_total")
    return {f"{name}_{key.removeprefix('scalars_')}": probe[key] for key in keys}


def _probe_logprobs(
    context: Context,
    trajectory: Trajectory,
    base: Path,
    sources: dict[int, Path | Recipe],
    probed: tuple[str, int | None],
) -> tuple[list[Text], dict[str, Any]]:
    from pipeline.inference.interface import Sampling
    from pipeline.inference.logprobs import fixed_texts, probe_logprobs

    config, folder = context.config.linear_probe, context.stage_dir("linear_probe")
    n, limit = config.responses_per_problem, config.max_response_tokens
    draw = Sampling(temperature=1.0, max_tokens=limit, n=n, seed=context.config.seed)
    model = single(context, trajectory, checkpoint_fingerprint(trajectory, min(sources)), base)
    engine = sampling.start_engine(context, base)
    try:
        items = problems.probe_prompts(context, engine.tokenizer, *probed)
        texts = fixed_texts(engine, items, draw, model, folder, config.max_tokens)
        limits = config.min_logprob_change, config.min_unique
        return texts, probe_logprobs(engine, texts, sources, folder, *limits)
    finally:
        engine.close()
