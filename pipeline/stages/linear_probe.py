"""How straight the path is: R² of every weight, and of what the model computes on fixed texts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.artifacts import hash_file, hash_json, read_own, write_json
from pipeline.content import recorded_settings
from pipeline.errors import PipelineError
from pipeline.estimates import sampling
from pipeline.estimates.words import size
from pipeline.evaluation import posing
from pipeline.hardware import gpu_memory
from pipeline.stages.base import Context
from pipeline.subject.problem_sets import ProblemSet, probe_set

if TYPE_CHECKING:
    from pipeline.inference.logprobs import Text
    from pipeline.trajectory.recipe import Recipe

SECTIONS = ("linear_probe", "task", "engine", "model.dtype", "seed")
REUSES = True  # responses, scores and figures of the weights know what they were made from
OUTPUTS = ("weights.json", "logprobs.json", "activations.json")


def needs(context: Context) -> tuple[str, ...]:
    return ("snapshot",)


def inputs(context: Context) -> dict[str, Any]:
    problems = posing.probed(context, probe_set(context.config))
    return {"problems": problems, **recorded_settings(context.recorded)}


def standing(context: Context) -> str:
    return context.standing("linear_probe", "weights.json")


def plan(context: Context) -> str:
    probe, steps = context.config.linear_probe, context.steps
    if steps is not None and len(steps) < 3:
        raise PipelineError(
            f"linear_probe needs at least 3 checkpoints, there are {len(steps)} (two points always "
            "lie on a line); leave it out of stages, or have more of them"
        )
    text = f"R² of every weight (filters: change > {probe.min_change:g}, {probe.min_unique} values)"
    probed = probe_set(context.config)
    if probed is None:
        text += "; no task given, so log-probs are not measured (task=math500, say)"
        return text + sampling.linear_probe(context, None)
    context.check_task(probed.task, (probed.split, probed.limit))
    text += (
        f"; log-probs of {probe.problems} x {probe.responses_per_problem} responses of the "
        f"base model to {context.config.task.name} ({probed.split}), {context.engine.check()}"
    )
    if probe.activations:
        _check_room(context)
        text += f"; hidden states at {probe.activation_tokens} positions of these texts"
    return text + sampling.linear_probe(context, probed)


def _check_room(context: Context) -> None:
    """Refuse models that the GPU has no room for in fp32, before hours of log-probs.

    Raises:
        PipelineError: names the setting.
    """
    room = 0 if context.config.dry_run else gpu_memory()
    if room and (wanted := sampling.hidden_states(context) or 0) > room:
        raise PipelineError(
            f"linear_probe.activations: two models in fp32 take {size(wanted)}, and the GPU has "
            f"{size(room)}; set linear_probe.activations=false"
        )


def run(context: Context) -> dict[str, Any]:
    from pipeline.inference.activations import probe_activations
    from pipeline.trajectory import export

    config = context.config.linear_probe
    trajectory = context.trajectory
    folder = context.stage_dir("linear_probe")
    for name in OUTPUTS[1:]:  # of other settings; what is not asked for now is not to stand there
        (folder / name).unlink(missing_ok=True)
    weights = _weights(context)
    summary, outlook = _headline("weights", weights), _outlook(trajectory.steps, weights)
    probed = probe_set(context.config)
    if probed is None:
        return summary | outlook
    sources = export.engine_sources(trajectory, trajectory.steps, context.exported)
    start = export.start_folder(trajectory, context.exported)
    texts, tokens = _probe_logprobs(context, start, sources, probed)
    write_json(folder / "logprobs.json", tokens)
    summary |= _headline("logprobs", tokens)
    if config.activations:
        states = probe_activations(
            [[*text.prompt, *text.response] for text in texts],
            sources,
            positions=config.activation_tokens,
            min_change=config.min_activation_change,
            times=trajectory.times,
        )
        write_json(folder / "activations.json", states)
        summary |= _headline("activations", states)
    return summary | outlook


def _weights(context: Context) -> dict[str, Any]:
    """The content of weights.json: what stands there, if it is of this path under these filters;
    else all weights are read."""
    from pipeline.trajectory.linearity import probe_weights

    config, path = context.config.linear_probe, context.stage_dir("linear_probe") / "weights.json"
    made_from = hash_json([hash_file(context.recorded), config.min_change, config.min_unique])
    note = path.with_name("weights_from.json")
    try:
        found: dict[str, Any] = read_own(path, "tensors")
        if read_own(note) == {"key": made_from, "sha256": hash_file(path)}:
            return found
    except PipelineError:  # one is absent or broken
        pass
    path.unlink(missing_ok=True)  # it is not of what is asked for now
    measured = probe_weights(context.trajectory, config.min_change, config.min_unique)
    write_json(path, measured)
    write_json(note, {"key": made_from, "sha256": hash_file(path)})
    return measured


def _headline(name: str, probe: dict[str, Any]) -> dict[str, Any]:
    keys = ("r2_median", "r2_share_above_0.7", "scalars_kept", "scalars_total")
    return {f"{name}_{key.removeprefix('scalars_')}": probe[key] for key in keys}


def _outlook(steps: list[int], weights: dict[str, Any]) -> dict[str, Any]:
    """What the whole path says of predictions from it, as figures and in words. How far targets
    reach, weight_extrap says: other targets are no reason to measure the path again."""
    from pipeline.trajectory.prospects import prospects

    try:
        found = prospects(weights, steps, steps[0], steps[-1], [])
    except PipelineError as error:  # a run that jumped: it has been measured, but is no line
        return {"outlook": f"not given: {error}"}
    far = f"a target f times as far has a reach of (f - 1) x {found.relative_movement or 0:.3g}"
    return found.summary(far)


def _probe_logprobs(
    context: Context, base: Path, sources: dict[int, Path | Recipe], probed: ProblemSet
) -> tuple[list[Text], dict[str, Any]]:
    from pipeline.evaluation.candidates import checkpoint_fingerprint, single
    from pipeline.inference.crew import start_engines
    from pipeline.inference.interface import Sampling
    from pipeline.inference.logprobs import fixed_texts, probe_logprobs

    config, folder = context.config.linear_probe, context.stage_dir("linear_probe")
    n, limit = config.responses_per_problem, config.max_response_tokens
    draw = Sampling(temperature=1.0, max_tokens=limit, n=n, seed=context.config.seed)
    path = context.trajectory
    model = single(context, checkpoint_fingerprint(path, min(sources)), base)
    made_from = {
        step: single(context, checkpoint_fingerprint(path, step), source)
        for step, source in sources.items()
    }
    engine = start_engines(context.engine_on(base), context.engine.replicas)
    try:
        items = posing.probe_prompts(context, engine.tokenizer, probed)
        texts = fixed_texts(engine, items, draw, model, folder, config.max_tokens)
        limits = config.min_logprob_change, config.min_unique
        return texts, probe_logprobs(engine, texts, sources, folder, *limits, path.times, made_from)
    finally:
        engine.close()
