"""What can be said of a run's path before anything is evaluated, and paths rounded to bfloat16."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from pipeline import discover, linearity
from pipeline.artifacts import read_own, write_json
from pipeline.config import PipelineConfig
from pipeline.subject.found import Subject
from pipeline.trajectory.fingerprint import fingerprint
from pipeline.trajectory.sources import Trajectory


def subject(folder: Path) -> Subject:
    """A finished run as the stages see it."""
    schema = OmegaConf.structured(PipelineConfig)
    for free in (schema.task.options, schema.extrapolation.options):
        OmegaConf.set_struct(free, False)
    merged = OmegaConf.merge(schema, OmegaConf.load(folder / "config.yaml"))
    return Subject(cast(PipelineConfig, OmegaConf.to_object(merged)), folder)


def halves(trajectory: Trajectory, last: int) -> Trajectory:
    """Its start, step `last` and the step half-way: as many points of every path, so that figures
    which hang on their number can be compared."""
    kept = {step: trajectory.checkpoints[step] for step in (0, last // 2, last)}
    return replace(trajectory, checkpoints=kept)


def record(checkpoints: Mapping[int, Path], folder: Path, config: Path) -> None:
    """Note checkpoints of a run in `folder`, as the stage snapshot does, with the run's config."""
    recorded = folder / "snapshot" / "trajectory.json"
    if not recorded.exists():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy2(config, folder / "config.yaml")
        write_json(recorded, fingerprint(discover(checkpoints)).to_json())


def rounded(trajectory: Trajectory, out: Path) -> Trajectory:
    """The same path as a trainer that saves bfloat16 would have left it, its start included.

    Args:
        out: folders are written to it, one a step; those that are there are kept.
    """
    for step, checkpoint in trajectory.checkpoints.items():
        folder = out / f"step_{step}"
        if folder.exists():
            continue
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.copytree(checkpoint.folder, partial, dirs_exist_ok=True)
        for path in partial.glob("*.safetensors"):
            values = {name: v.to(torch.bfloat16) for name, v in load_file(path).items()}
            save_file(values, path, {"format": "pt"})
        partial.rename(folder)
    return fingerprint(discover({step: out / f"step_{step}" for step in trajectory.checkpoints}))


def features(trajectory: Trajectory) -> dict[str, float]:
    """Of a whole path: figures of `pipeline.linearity`, and three made from them.

    straightness: mean cosine between successive movements; rank1_share: of the squared movements
    away from the start; noise: the share of them that lines in the step do not explain.
    """
    found = linearity(trajectory)
    cosines = [c for c in found["segment_cosines"] if c is not None]
    return {
        "r2_median": found["r2_median"] or 0.0,
        "r2_share": found["r2_share_above_0.7"] or 0.0,
        "r2_median_unfiltered": found["unfiltered"]["r2_median"],
        "r2_share_unfiltered": found["unfiltered"]["r2_share_above_0.7"],
        "dropped": found["share_dropped"],
        "constant": found["unfiltered"]["constant"] / found["scalars_total"],
        "relative_movement": found["relative_movement"],
        "rank1_share": found["explained_variance"][0] if found["explained_variance"] else 0.0,
        "straightness": statistics.mean(cosines) if cosines else 0.0,
        "noise": 1.0 - (found["linear_r2"] or 0.0),
    }


def computed(folder: Path, what: str) -> dict[str, float]:
    """R² of `what` the model computes, logprobs or activations, as linear_probe has measured it."""
    found: Mapping[str, Any] = read_own(folder / "linear_probe" / f"{what}.json")
    return {
        "r2_median": found["r2_median"] or 0.0,
        "r2_median_unfiltered": found["unfiltered"]["r2_median"],
        "dropped": found["share_dropped"],
    }
