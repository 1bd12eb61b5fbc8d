"""Accuracy of a run's checkpoints and of what is predicted from them, in this process.

One engine for all models of a run; responses are kept, so what was interrupted resumes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from pipeline.config import CONF, EvaluateConfig
from pipeline.evaluation.candidates import (
    extrapolation_fingerprint,
    logit_candidates,
    rl_candidates,
    single,
)
from pipeline.evaluation.metrics import compare, score_groups
from pipeline.evaluation.posing import Posed, pose
from pipeline.evaluation.sampling import mixture_works, models_work, sample, sampling
from pipeline.evaluation.scoring import tally_draw
from pipeline.evaluation.tally import Tally
from pipeline.inference.parallel import Candidate, Draw
from pipeline.subject.found import Subject
from pipeline.subject.methods import Method, make_plans
from pipeline.trajectory import export
from pipeline.trajectory.recipe import recipes
from pipeline.trajectory.rule import make_rule
from pipeline.trajectory.sources import Trajectory
from studies.measured import rounded, subject

FIGURES = ("avg@k", "ci95", "entropy", "truncated_share", "tokens_mean", "extraction_failures")
FLIPS = 100  # p-values are not used


@dataclass(frozen=True)
class Asked:
    """A prediction: `option` of conf/extrapolation, from step 0 to `last`, for step `target`.

    options: beside those of the option's file; bf16: from checkpoints rounded to bfloat16.
    """

    name: str
    option: str
    target: int
    last: int
    options: Mapping[str, Any] = field(default_factory=dict)
    bf16: bool = False


@dataclass(frozen=True)
class Size:
    """Problems of each split, and responses to each at temperature 1 (greedy: one)."""

    validation: int
    test: int
    samples: int


def measure(
    folder: Path,
    asked: Sequence[Asked],
    checkpoints: Sequence[int],
    size: Size,
    *,
    alphas: Sequence[float] = (),
    last: int | None = None,
    rival: int | None = None,
) -> list[dict[str, Any]]:
    """Rows by model, split and temperature (0 and 1), with paired differences: `against_seen`, to
    the last checkpoint that a prediction has seen, and `against_rival`.

    Args:
        folder: of a finished run.
        checkpoints: of real training that are measured as well.
        alphas: of logit mixtures of the first checkpoint and `last`.
        rival: a step of real training that predictions are compared with as well.
    """
    found = subject(folder)
    evaluate = EvaluateConfig(
        samples_per_problem=size.samples,
        validation_problems=size.validation,
        test_problems=size.test,
        max_tokens=found.config.evaluate.max_tokens,
    )
    found = _with(replace(found, config=replace(found.config, evaluate=evaluate)), last, alphas)
    seen = {one.last for one in asked} | ({last} if last is not None else set())
    seen |= {rival} if rival is not None else set()
    single_models = rl_candidates(found, sorted({*checkpoints, *seen}))
    starts = {one.name: f"rl-{one.last}" for one in asked}
    single_models += _predictions(found, asked)
    mixtures = logit_candidates(found, 0, last) if last is not None else []
    starts |= {mixture.name: f"rl-{last}" for mixture in mixtures}
    posed, draws = pose(found), _draws(found)
    start = export.start_folder(found.trajectory, found.exported)
    works = [models_work(found, draws, single_models, posed.items, start)]
    sample(found, [*works, *mixture_works(found, draws, mixtures, posed.items)])
    candidates = [*single_models, *mixtures]
    others = {"against_seen": starts}
    if rival is not None:
        others["against_rival"] = dict.fromkeys(starts, f"rl-{rival}")
    return [row for draw in draws for row in _rows(draw, candidates, posed, others)]


def _with(found: Subject, last: int | None, alphas: Sequence[float]) -> Subject:
    config = found.config
    extrapolation = replace(config.extrapolation, first=0, last=last)
    logits = replace(config.logit_extrap, alphas=list(alphas))
    config = replace(config, extrapolation=extrapolation, logit_extrap=logits)
    return Subject(config, found.run_dir)


def _draws(found: Subject) -> list[Draw]:
    drawn, folder = sampling(found), found.run_dir / "accuracy"
    greedy = replace(drawn, temperature=0.0, n=1)
    return [Draw(greedy, folder / "greedy.jsonl"), Draw(drawn, folder / "sampled.jsonl")]


def _predictions(found: Subject, asked: Sequence[Asked]) -> list[Candidate]:
    """Plans of one `last` are between the same checkpoints, so their inputs are read once."""
    made = []
    for last, bf16 in sorted({(one.last, one.bf16) for one in asked}):
        mine = [one for one in asked if (one.last, one.bf16) == (last, bf16)]
        trajectory = found.trajectory
        if bf16:
            trajectory = rounded(trajectory, found.run_dir / "bf16")
        made += _from(_with(found, last, ()), trajectory, mine)
    return made


def _from(found: Subject, trajectory: Trajectory, asked: Sequence[Asked]) -> list[Candidate]:
    wanted = [(method(one), [one.target]) for one in asked]
    plans = make_plans(found, trajectory, wanted)
    made = []
    for one, plan, recipe in zip(asked, plans, recipes(plans), strict=True):
        record, source = plan.record(one.target), recipe[one.target]
        content = single(found, extrapolation_fingerprint(record), source)
        extra = {"step": one.target, "method": one.option}
        made.append(Candidate(one.name, "weight", content, source, extra))
    return made


def method(one: Asked) -> Method:
    """As the option's file has it, with what is asked for besides."""
    plain: Any = OmegaConf.to_container(
        OmegaConf.load(CONF / "extrapolation" / f"{one.option}.yaml")
    )
    rule = make_rule(plain["method"], {**plain["options"], **one.options})
    return Method(rule, tuple(plain.get("hold", ["*norm*"])))


def _rows(
    draw: Draw,
    candidates: Sequence[Candidate],
    posed: Posed,
    others: Mapping[str, Mapping[str, str]],
) -> list[dict[str, Any]]:
    groups = tally_draw(draw, candidates, posed)
    rows = []
    for row in score_groups(groups, pass_k=[1], resamples=FLIPS):
        place = (row["task"], row["split"])
        kept = {key: row[key] for key in ("model", "kind", "split", *FIGURES)}
        kept["temperature"] = draw.sampling.temperature
        for key, names in others.items():
            if row["model"] in names:
                own: Tally = groups[(row["model"], *place)]
                kept[key] = compare(own, groups[(names[row["model"]], *place)], FLIPS, 0)
                del kept[key]["p"]
        rows.append(kept)
    return rows
