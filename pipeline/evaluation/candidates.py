"""The models that are evaluated: the base, RL checkpoints, extrapolated weights and logits.

A model's fingerprint is what its responses hang on beside the prompts and the draw: its content,
wherever its folder lies, the engine and the dtype it computes in. Responses of another content,
engine or dtype are never taken for its own; they stay in the file and count again when the
configuration that made them comes back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.artifacts import hash_json, read_own
from pipeline.content import model_config, model_settings
from pipeline.inference.parallel import Candidate
from pipeline.subject.checkpoints import check_step
from pipeline.subject.found import Subject
from pipeline.trajectory.checkpoint import Checkpoint
from pipeline.trajectory.conversation import default_ends
from pipeline.trajectory.export import engine_sources
from pipeline.trajectory.recipe import Recipe
from pipeline.trajectory.sources import Trajectory


def identity(
    subject: Subject, weights: str, configs: Iterable[Path], engine: Sequence[Path]
) -> str:
    """Fingerprint of a model as this run samples from it.

    Args:
        weights: hash of its weights.
        configs: the folders whose config.json they are loaded under.
        engine: the folders that the engine starts on: their tokenizers and generation configs.
    """
    ends = subject.end_tokens
    own = default_ends(engine[-1])  # where these files say all
    return hash_json(
        {
            "weights": weights,
            "configs": [model_config(folder) for folder in configs],
            "settings": [model_settings(folder) for folder in engine],
            "engine": subject.config.engine.name,
            "dtype": subject.config.model.dtype,
            **({} if ends == own else {"ends": ends}),
        }
    )[:16]


def single(subject: Subject, weights: str, source: Path | Recipe) -> str:
    """`identity` of a model that an engine, started on the base, loads from `source`."""
    folder = source if isinstance(source, Path) else source.model
    return identity(subject, weights, [folder], [subject.trajectory.base.folder])


def checkpoint_fingerprint(trajectory: Trajectory, step: int) -> str:
    """Hash of a checkpoint's weights, whatever its folder is called."""
    files = trajectory.checkpoints[step].files
    return hash_json([(file.path.name, file.sha256) for file in files])[:16]


def rl_candidates(subject: Subject, wanted: list[int] | None) -> list[Candidate]:
    """The base model and the RL checkpoints to evaluate (all of them if `wanted` is None).

    Raises:
        PipelineError: a wanted step is not there.
    """
    trajectory = subject.trajectory
    steps = trajectory.steps if wanted is None else sorted({trajectory.steps[0], *wanted})
    for step in steps:
        check_step("evaluate.checkpoints", step, trajectory.steps)
    sources = engine_sources(trajectory, steps, subject.exported)
    return [
        Candidate(
            name="base" if step == trajectory.steps[0] else f"rl-{step}",
            kind="base" if step == trajectory.steps[0] else "rl",
            fingerprint=single(subject, checkpoint_fingerprint(trajectory, step), sources[step]),
            source=sources[step],
            extra={"step": step},
        )
        for step in steps
    ]


def weight_candidates(subject: Subject) -> list[Candidate]:
    """The extrapolated checkpoints of this trajectory, of every method that was run."""
    found = []
    trajectory = subject.trajectory
    ours = {frozenset(f.sha256 for f in c.files): c for c in trajectory.checkpoints.values()}
    for path in sorted(subject.stage_dir("weight_extrap").glob("*/step_*/extrapolation.json")):
        record = read_own(path)
        contents = [
            frozenset(file["sha256"] for file in each["files"]) for each in record["inputs"]
        ]
        if not ours.keys() >= {*contents}:
            continue  # made from checkpoints that this run no longer has
        method, target = path.parent.parent.name, record["target"]
        source = _source(path.parent, record, [ours[each] for each in contents], trajectory.base)
        weights = extrapolation_fingerprint(record)
        found.append(
            Candidate(
                name=f"{method}-{target}",
                kind="weight",
                fingerprint=single(subject, weights, source),
                source=source,
                extra={"step": target, "method": method, "alpha": record["alpha"]},
            )
        )
    return sorted(found, key=lambda c: (c.extra["method"], c.extra["step"]))


def _source(
    folder: Path, record: dict[str, Any], used: list[Checkpoint], base: Checkpoint
) -> Path | Recipe:
    """The written model, or the recipe of one that was not written, with its checkpoints as they
    are now: their folders may have been moved since."""
    if "recipe" not in record:
        return folder
    recipe = Recipe.from_plain(record["recipe"])
    start = None if recipe.base is None else base.weights
    return replace(recipe, folders=tuple(each.weights for each in used), base=start)


def extrapolation_fingerprint(record: dict[str, Any]) -> str:
    """Hash of what decides the weights: the content of the inputs, and what was done with them."""
    inputs = [[file["sha256"] for file in item["files"]] for item in record["inputs"]]
    rules = ["format", "method", "options", "damping", "alpha_by_tensor", "copied", "dtype"]
    rules += ["max_norm"] if "max_norm" in record else []
    return hash_json([inputs, {key: record[key] for key in (*rules, "steps", "target")}])[:16]


def logit_candidates(subject: Subject, first: int, last: int) -> list[Candidate]:
    """One mixture for each alpha."""
    trajectory = subject.trajectory
    ends = [checkpoint_fingerprint(trajectory, step) for step in (first, last)]
    folders = [trajectory.checkpoints[step].folder for step in (first, last)]
    return [
        Candidate(
            name=f"logit-{alpha:g}",
            kind="logit",
            fingerprint=identity(subject, hash_json([*ends, alpha]), folders, folders),
            source=None,
            extra={"alpha": alpha, "step": round(first + alpha * (last - first))},
        )
        for alpha in sorted(subject.config.logit_extrap.alphas)
    ]
