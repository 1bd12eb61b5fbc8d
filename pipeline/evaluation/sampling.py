"""How an evaluation draws responses, and has them drawn from every model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.inference.interface import Sampling
    from pipeline.inference.parallel import Candidate, Draw, Work
    from pipeline.inference.run import PromptItem
    from pipeline.subject.found import Subject


def sampling(subject: Subject) -> Sampling:
    """How evaluation draws its responses."""
    from pipeline.inference.interface import Sampling

    evaluate = subject.config.evaluate
    return Sampling(
        temperature=evaluate.temperature,
        top_p=evaluate.top_p,
        max_tokens=evaluate.max_tokens,
        n=evaluate.samples_per_problem,
        seed=subject.config.seed,
    )


def models_work(
    subject: Subject,
    draws: Sequence[Draw],
    candidates: Sequence[Candidate],
    items: Sequence[PromptItem],
    start: Path,
) -> Work:
    """The responses of single models, whose weights are exchanged in place.

    Args:
        draws: how to draw, each with the file that its rows go to.
        items: the problems (`posing.pose`).
        start: the folder that the engine is started on.
    """
    return _work(subject.engine_on(start), draws, candidates, items)


def mixture_works(
    subject: Subject,
    draws: Sequence[Draw],
    candidates: Sequence[Candidate],
    items: Sequence[PromptItem],
) -> list[Work]:
    """The same of mixtures: of the checkpoints that the run extrapolates from, by their alpha, and
    of the user's members. An engine for each of the two sets of models.
    """
    from pipeline.evaluation.members import open_members
    from pipeline.inference.parallel import coefficients

    pairs = [candidate for candidate in candidates if candidate.kind == "logit"]
    others = [candidate for candidate in candidates if candidate.kind == "mixture"]
    works = []
    if pairs:
        ends = subject.ends(subject.trajectory.steps)
        engine = subject.engine_on(*model_folders(subject, ends).values())
        engine["speculative"] = subject.config.logit_extrap.speculative
        works.append(_work(engine, draws, pairs, items))
    if others:
        engine = subject.engine_on(*open_members(subject))
        engine["coefficients"] = coefficients(others[0])
        works.append(_work(engine, draws, others, items))
    return works


def sample(subject: Subject, works: Sequence[Work]) -> int:
    """Append what the files lack of all models' responses; returns the rows added."""
    from pipeline.inference.parallel import run_local

    return sum(run_local(work, subject.engine.replicas) for work in works)


def model_folders(subject: Subject, steps: Sequence[int]) -> dict[int, Path]:
    """A folder that an engine can start on for each step, in the order of the steps.

    A checkpoint that no engine can start on is written first, in model.dtype.
    """
    from pipeline.trajectory.export import engine_sources, export

    folders = {}
    for step, source in engine_sources(subject.trajectory, steps, subject.exported).items():
        if not isinstance(source, Path):
            source = subject.stage_dir("logit_extrap") / "models" / f"step_{step}"
            export(subject.trajectory, step, source, subject.config.model.dtype)
        folders[step] = source
    return folders


def _work(
    engine: Mapping[str, Any],
    draws: Sequence[Draw],
    candidates: Sequence[Candidate],
    items: Sequence[PromptItem],
) -> Work:
    """Rows say the engine and dtype that made them; the candidates' fingerprints hang on both."""
    from pipeline.inference.parallel import Work

    made_by = {"engine": engine["name"], "dtype": engine["dtype"]}
    first: dict[str, Candidate] = {}  # of a model with two names
    for candidate in candidates:
        first.setdefault(candidate.fingerprint, candidate)
    noted = [replace(each, extra={**each.extra, **made_by}) for each in first.values()]
    return Work(engine, noted, items, draws)
