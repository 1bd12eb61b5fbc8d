"""Weights that are not written: θ0 + Σ c_i (θ_i - θ0), as the folders θ_i and the coefficients c_i.

An engine loads a recipe as readily as a folder (`recipe_weights`), so a sweep over horizons writes
no model to disk. Recipes come from the same plans as folders. One of a single folder is that
checkpoint itself: so engines load what is stored as a delta, an adapter or shards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.artifacts import read_own, write_json
from pipeline.errors import PipelineError
from pipeline.trajectory.checkpoint import Checkpoint
from pipeline.trajectory.folder import RECORD
from pipeline.trajectory.gram import Gram
from pipeline.trajectory.plan import Plan, union
from pipeline.trajectory.shards import Files
from pipeline.trajectory.spellings import Matching


@dataclass(frozen=True)
class Recipe:
    """An extrapolated model.

    Attributes:
        folders: the checkpoints that a method uses, θ0 first.
        coefficients: c of each folder (c[0] counts for nothing: δ0 = 0); for methods whose c
            differs by tensor, a mapping from tensor name to such a list.
        hold: globs of tensor names copied from the last folder instead.
        dtype: the sum is rounded to it, as when a folder is written.
        base: the model that training started from, where folders are no models of their own, or not
            under its names.
        matching: how the folders' tensors are brought to those of the base.
    """

    folders: tuple[Path, ...]
    coefficients: Sequence[float] | Mapping[str, Sequence[float]]
    hold: tuple[str, ...] = ("*norm*",)
    dtype: str = "bfloat16"
    base: Path | None = None
    matching: Matching = field(default_factory=Matching)

    @property
    def model(self) -> Path:
        """The folder with the configuration and tokenizer, which also loads as a model."""
        return self.folders[-1] if self.base is None else self.base

    def __str__(self) -> str:
        return " + ".join(str(folder) for folder in self.folders)

    def to_plain(self) -> dict[str, Any]:
        """As lists, numbers and strings, for another process."""
        coefficients: Any = self.coefficients
        if isinstance(coefficients, Mapping):
            plain: Any = {name: [float(c) for c in row] for name, row in coefficients.items()}
        else:
            plain = [float(c) for c in coefficients]
        return {
            "folders": [str(folder) for folder in self.folders],
            "coefficients": plain,
            "hold": list(self.hold),
            "dtype": self.dtype,
            "base": None if self.base is None else str(self.base),
            "matching": self.matching.to_plain(),
        }

    @staticmethod
    def from_plain(plain: Mapping[str, Any]) -> Recipe:
        """The opposite of `to_plain`."""
        base = plain.get("base")
        return Recipe(
            tuple(Path(folder) for folder in plain["folders"]),
            plain["coefficients"],
            tuple(plain["hold"]),
            plain["dtype"],
            None if base is None else Path(base),
            Matching.from_plain(plain.get("matching")),
        )


def recipes(plans: Sequence[Plan]) -> list[dict[int, Recipe]]:
    """For each plan (between the same two checkpoints) a recipe for each target.

    Methods that need Gram matrices read every checkpoint once, together; the others read nothing.

    Raises:
        PipelineError: a plan that differs by scalar, or checkpoints that no engine loads.
    """
    for plan in plans:
        plan.rule.check_sum()
        base = plan.trajectory.base
        if not (base.is_model or all(checkpoint.loadable for checkpoint in plan.checkpoints)):
            raise PipelineError(
                f"{base.weights}: stored as {base.layout}, which no engine loads; set "
                "weight_extrap.write=true"
            )
    measured = [plan for plan in plans if plan.rule.needs_gram and plan.targets]
    used = union(measured) if measured else ()
    grams = _measure(measured, used)
    return [{t: _recipe(plan, t, grams, used) for t in plan.targets} for plan in plans]


def write_recipes(jobs: Sequence[tuple[Plan, Mapping[int, Path]]]) -> list[dict[int, Any]]:
    """extrapolation.json alone, with the recipe from which an engine builds the same weights.

    Takes what `combine.write_all` takes, and returns what it returns.

    Raises:
        PipelineError: see `recipes`.
    """
    records = [{target: plan.record(target) for target in plan.targets} for plan, _ in jobs]
    todo = []
    for (plan, folders), mine in zip(jobs, records, strict=True):
        missing = [t for t, record in mine.items() if not _there(folders[t] / RECORD, record)]
        todo.append(replace(plan, targets=tuple(missing)))
    for (_, folders), mine, made in zip(jobs, records, recipes(todo), strict=True):
        for target, recipe in made.items():
            write_json(folders[target] / RECORD, mine[target] | {"recipe": recipe.to_plain()})
    return records


def _there(path: Path, record: Mapping[str, Any]) -> bool:
    return path.exists() and read_own(path)["plan"] == record["plan"]


def _measure(plans: Sequence[Plan], used: Sequence[Checkpoint]) -> dict[str, Gram]:
    """The Gram of every tensor that one of the plans moves, over all checkpoints that they use."""
    if not plans:
        return {}
    from pipeline.trajectory.measure import measure_grams  # numba, as in `_sum`

    entries = plans[0].last.entries
    moving = [e for n, e in entries.items() if any(n not in plan.copied for plan in plans)]
    with Files() as files:
        return measure_grams(used, moving, files)


def _recipe(
    plan: Plan, target: int, grams: Mapping[str, Gram], used: Sequence[Checkpoint]
) -> Recipe:
    """The recipe of one target; `grams` are over the checkpoints `used`."""
    coefficients: Any
    if plan.rule.by_tensor:
        still = Gram.zero(len(used))  # of a tensor without elements
        places = plan.places(used) if plan.rule.needs_gram else []
        coefficients = {
            name: plan.coefficients(name, grams.get(name, still).of(places).matrix, target).tolist()
            for name in plan.last.entries
            if name not in plan.copied
        }
    else:
        coefficients = plan.coefficients("", None, target).tolist()
    models = all(checkpoint.loadable for checkpoint in plan.checkpoints)
    return Recipe(
        tuple(checkpoint.weights for checkpoint in plan.checkpoints),
        coefficients,
        plan.hold,
        plan.dtype,
        None if models else plan.trajectory.base.weights,
        plan.trajectory.matching,
    )
