"""Reads what a run left in its directory, and says in one line what is wrong with it.

The page needs none of the artefacts: what is missing leaves out its section. An artefact that is
there but lacks a key was written by another version or by hand, and is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.artifacts import read_jsonl, read_own
from pipeline.errors import PipelineError, first_line

_PROBE_KEYS = (
    "scalars_total",
    "scalars_kept",
    "r2_mean",
    "r2_median",
    "r2_share_above_0.7",
    "unfiltered",
    "histogram",
)
_SCORE_KEYS = ("model", "kind", "task", "split", "n_problems", "avg@k", "k", "ci95")


@dataclass(frozen=True)
class Artefacts:
    """Everything the page is made from; None or empty where the stage has not run."""

    run_dir: Path
    config: Mapping[str, Any]
    steps: list[int]
    times: Sequence[float]  # where they lie on the line of a run that jumped; else the steps
    parameters: int | None
    weights: Mapping[str, Any] | None
    logprobs: Mapping[str, Any] | None
    activations: Mapping[str, Any] | None
    weight_examples: list[Mapping[str, Any]]
    token_examples: list[Mapping[str, Any]]
    rewards: list[dict[str, Any]]
    extrapolations: list[Mapping[str, Any]]
    scores: Mapping[str, Any] | None
    done: Mapping[str, Mapping[str, Any]]

    @property
    def name(self) -> str:
        """The experiment's name, or the folder's where there is no configuration."""
        return str(self.config.get("name") or self.run_dir.name)

    @property
    def last_step(self) -> int | None:
        """The last step that extrapolation may see: as configured, else the last snapshot."""
        configured = self.section("extrapolation").get("last")
        if configured is not None:
            return int(configured)
        return self.steps[-1] if self.steps else None

    @property
    def first_step(self) -> int:
        """The step that extrapolation starts from."""
        return int(self.section("extrapolation").get("first") or 0)

    @property
    def rows(self) -> list[Mapping[str, Any]]:
        """Rows of scores.json, [] if there are none."""
        return list(self.scores["rows"]) if self.scores is not None else []

    def section(self, key: str) -> Mapping[str, Any]:
        """A section of the configuration, {} if it has none of that name."""
        value = self.config.get(key)
        return value if isinstance(value, Mapping) else {}


def read_artefacts(run_dir: Path) -> Artefacts:
    """Read a run directory.

    Raises:
        PipelineError: there is no such directory, or a file in it is torn or lacks a key.
    """
    if not run_dir.is_dir():
        raise PipelineError(f"{run_dir}: no such run directory; give the folder of a run")
    probe = run_dir / "linear_probe"
    weights = _probe(probe / "weights.json", ("tensors",))
    logprobs = _probe(probe / "logprobs.json", ("tensors",))
    trajectory = _optional(run_dir / "snapshot" / "trajectory.json", ("steps",))
    extras = _optional(probe / "examples.json", ())
    steps = sorted(int(step) for step in trajectory["steps"]) if trajectory else []
    return Artefacts(
        run_dir=run_dir,
        config=read_config(run_dir / "config.yaml"),
        steps=steps,
        times=(trajectory or {}).get("virtual_steps") or steps,
        parameters=_parameters(trajectory, weights),
        weights=weights,
        logprobs=logprobs,
        activations=_probe(probe / "activations.json", ("layers", "decomposition", "positions")),
        weight_examples=_examples(weights, extras, "weights"),
        token_examples=_examples(logprobs, extras, "logprobs"),
        rewards=read_jsonl(run_dir / "rl_train" / "metrics.jsonl"),
        extrapolations=_extrapolations(run_dir / "weight_extrap"),
        scores=read_scores(run_dir / "evaluate" / "scores.json"),
        done={path.parent.name: read_own(path) for path in sorted(run_dir.glob("*/done.json"))},
    )


def _optional(path: Path, keys: Iterable[str]) -> dict[str, Any] | None:
    """The JSON object in `path`, with `keys` present, or None if the file is not there."""
    if not path.exists():
        return None
    value = read_own(path)
    if not isinstance(value, dict):
        raise PipelineError(f"{path}: an object was expected; delete it and rerun its stage")
    _require(value, keys, path, "")
    return value


def _require(value: Mapping[str, Any], keys: Iterable[str], path: Path, place: str) -> None:
    for key in keys:
        if key not in value:
            raise PipelineError(f"{path}: {place}no key {key!r}; delete it and rerun its stage")


def _probe(path: Path, extra: Iterable[str]) -> dict[str, Any] | None:
    """A probe's figures with the keys that all probes have, and its `extra` ones."""
    probe = _optional(path, (*_PROBE_KEYS, *extra))
    if probe is not None:
        _require(probe["histogram"], ("edges", "counts"), path, "in histogram ")
        keys = ("r2_mean", "r2_median", "r2_share_above_0.7")
        _require(probe["unfiltered"], keys, path, "in unfiltered ")
    return probe


def read_scores(path: Path) -> dict[str, Any] | None:
    """scores.json, checked; None if it is not there.

    Raises:
        PipelineError: it is torn or lacks a key.
    """
    scores = _optional(path, ("rows", "last_rl"))
    if scores is not None:
        for number, row in enumerate(scores["rows"]):
            _require(row, _SCORE_KEYS, path, f"in row {number} ")
            extra = {"rl": ("step",), "weight": ("step", "method"), "logit": ("alpha",)}
            extra["mixture"] = ("members",)
            _require(row, extra.get(row["kind"], ()), path, f"in row {number} ")
        if scores.get("controls") is not None:
            keys = ("rows", "best", "comparisons")
            _require(scores["controls"], keys, path, "in controls ")
    return scores


def _extrapolations(folder: Path) -> list[Mapping[str, Any]]:
    """Every extrapolation.json, with its `method` and `target` as its folders name them."""
    found = []
    for path in folder.glob("*/step_*/extrapolation.json"):
        number = path.parent.name.removeprefix("step_")
        if not number.isdecimal():
            raise PipelineError(f"{path.parent}: not a step; the folder must be named step_N")
        entry = {**read_own(path), "method": path.parent.parent.name, "target": int(number)}
        found.append(entry)
    return sorted(found, key=lambda entry: (entry["method"], entry["target"]))


def _examples(
    probe: Mapping[str, Any] | None, extras: Mapping[str, Any] | None, key: str
) -> list[Mapping[str, Any]]:
    """Fits to plot: from the probe's own file, else from examples.json."""
    own = probe.get("examples") if probe is not None else None
    return list(own or (extras or {}).get(key) or [])


def _parameters(
    trajectory: Mapping[str, Any] | None, weights: Mapping[str, Any] | None
) -> int | None:
    for source, key in ((trajectory, "parameters"), (weights, "scalars_total")):
        if source is not None and source.get(key) is not None:
            return int(source[key])
    return None


def read_config(path: Path) -> dict[str, Any]:
    """config.yaml of a run; empty if it is not there.

    Raises:
        PipelineError: it is not valid YAML.
    """
    if not path.exists():
        return {}
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        line = first_line(error)
        raise PipelineError(f"{path}: not valid YAML ({line}); rerun to write it anew") from None
    return value if isinstance(value, dict) else {}
