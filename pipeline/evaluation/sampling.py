"""How an evaluation draws responses, and has them drawn from every model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.inference.interface import Sampling
    from pipeline.inference.parallel import Candidate, Draw
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


def sample_models(
    subject: Subject,
    draws: Sequence[Draw],
    candidates: Sequence[Candidate],
    items: Sequence[PromptItem],
    start: Path,
) -> int:
    """Append what the files lack of all models' responses; returns the rows added.

    Args:
        draws: how to draw, each with the file that its rows go to.
        candidates: single models, whose weights are exchanged in place.
        items: the problems (`posing.pose`).
        start: the folder that the engine is started on.
    """
    return _sample(subject, subject.engine.arguments(start), draws, candidates, items)


def sample_mixtures(
    subject: Subject,
    draws: Sequence[Draw],
    candidates: Sequence[Candidate],
    items: Sequence[PromptItem],
) -> int:
    """The same of mixtures of the checkpoints that the run extrapolates from, by their alpha.

    A checkpoint that no engine can start on is written as a folder first, in model.dtype.
    """
    from pipeline.trajectory.export import engine_sources, export

    trajectory = subject.trajectory
    ends = subject.ends(trajectory.steps)
    folders = []
    for step, source in engine_sources(trajectory, ends, subject.exported).items():
        if not isinstance(source, Path):
            source = subject.stage_dir("logit_extrap") / "models" / f"step_{step}"
            export(trajectory, step, source, subject.config.model.dtype)
        folders.append(source)
    speculative = {"speculative": subject.config.logit_extrap.speculative}
    engine = subject.engine.arguments(*folders) | speculative
    return _sample(subject, engine, draws, candidates, items)


def _sample(
    subject: Subject,
    engine: Mapping[str, Any],
    draws: Sequence[Draw],
    candidates: Sequence[Candidate],
    items: Sequence[PromptItem],
) -> int:
    """Rows say the engine and dtype that made them; the candidates' fingerprints hang on both."""
    from pipeline.inference.parallel import Work, run_local

    made_by = {"engine": engine["name"], "dtype": engine["dtype"]}
    first: dict[str, Candidate] = {}  # of a model with two names
    for candidate in candidates:
        first.setdefault(candidate.fingerprint, candidate)
    noted = [replace(each, extra={**each.extra, **made_by}) for each in first.values()]
    return run_local(Work(engine, noted, items, draws), subject.engine.replicas)
