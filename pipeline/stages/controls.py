"""The sharpening control of evaluate: what is reported, sampled greedy and at lower temperatures.

Its rows lie apart from the evaluation's, in `evaluate/controls/`, a file a temperature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipeline.stages import logit_extrap, models, sampling, scoring
from pipeline.stages.base import Context

if TYPE_CHECKING:
    from pipeline.evaluation.tally import Tally
    from pipeline.inference.parallel import Draw
    from pipeline.inference.run import PromptItem
    from pipeline.stages.candidates import Candidate
    from pipeline.stages.problems import Sets
    from pipeline.trajectory.sources import Trajectory

SHARES = (0.3, 0.6)  # of the evaluation's temperature, where no temperatures are given


def wanted(context: Context) -> bool:
    """Greedy evaluations need no control: there is no lower temperature."""
    evaluate = context.config.evaluate
    return evaluate.controls and evaluate.temperature > 0


def temperatures(context: Context) -> list[float]:
    """The temperatures below the evaluation's, greedy decoding (0) first."""
    evaluate = context.config.evaluate
    given = evaluate.control_temperatures
    if given is None:
        given = [round(share * evaluate.temperature, 6) for share in SHARES]
    return [0.0, *sorted(set(given))]


def describe(context: Context) -> str:
    """What is done, for the plan."""
    if not wanted(context):
        return ""
    words = ", ".join(f"{t:g}" for t in temperatures(context)[1:])
    return f"; what is reported also greedy{' and at temperature ' + words if words else ''}"


def draws(context: Context) -> list[Draw]:
    """How each control temperature is drawn, and its file."""
    from pipeline.inference.parallel import Draw

    folder = context.stage_dir("evaluate") / "controls"
    evaluation = sampling.sampling(context)
    n = min(context.config.evaluate.control_samples, evaluation.n)
    return [
        Draw(
            replace(evaluation, temperature=t, n=n if t else 1),
            folder / f"temperature_{t:g}.jsonl",
        )
        for t in temperatures(context)
    ]


def run(
    context: Context,
    trajectory: Trajectory,
    candidates: Sequence[Candidate],
    posed: tuple[Sequence[PromptItem], Sets],
    groups: Mapping[tuple[str, str, str], Tally],
    scores: Mapping[str, Any],
) -> dict[str, Any]:
    """Sample and score the controls; the part `controls` of scores.json.

    Args:
        posed: the problems as prompts, and for their graders.
        groups, scores: of the evaluation itself, which has chosen what is reported.
    """
    from pipeline.evaluation.controls import control_scores

    first, last = models.end_steps(context, trajectory.steps)
    trained = list(dict.fromkeys(["base", str(scores["start"]), str(scores["last_rl"])]))
    predicted = [str(choice["model"]) for choice in scores["chosen"].values()]
    reported = [c for c in candidates if c.name in {*trained, *predicted} or c.kind == "named"]
    lower = draws(context)
    single = [c for c in reported if c.source is not None]
    mixed = [c for c in reported if c.source is None]
    engine = sampling.engine_arguments(context, trajectory.base.folder)
    items, sets = posed
    sampling.sample(context, lower, single, engine, items)
    if mixed:
        pair = logit_extrap.mixture(context, trajectory, first, last)
        sampling.sample(context, lower, mixed, pair, items)
    by_temperature = {context.config.evaluate.temperature: groups} | {
        draw.sampling.temperature: scoring.tally_draw(context, draw, reported, items, sets)
        for draw in lower
    }
    config = context.config
    return control_scores(
        by_temperature,
        trained,
        predicted,
        resamples=config.evaluate.bootstrap,
        seed=config.seed,
    )
