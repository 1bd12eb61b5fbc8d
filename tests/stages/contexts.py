"""Stages without the command line: a context on a run directory, with other values set."""

from __future__ import annotations

from functools import reduce
from pathlib import Path
from typing import cast

from omegaconf import OmegaConf

from pipeline.config import PipelineConfig
from pipeline.stages.base import Context
from pipeline.tracking import Tracker
from pipeline.trajectory.share import Share


def context_of(run_dir: Path, **values: object) -> Context:
    """The context of a run with its own configuration.

    Args:
        values: other ones, keys with "__" for ".": model__dtype="bfloat16".
    """
    stored = OmegaConf.merge(
        OmegaConf.structured(PipelineConfig), OmegaConf.load(run_dir / "config.yaml")
    )
    config = cast(PipelineConfig, OmegaConf.to_object(stored))
    for key, value in values.items():
        *sections, name = key.split("__")
        setattr(reduce(getattr, sections, config), name, value)
    return Context(config, run_dir, Tracker(run_dir, "pico", {}, config.tracking), Share())
