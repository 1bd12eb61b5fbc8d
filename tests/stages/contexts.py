"""Stages without the command line: a context on a run directory, with other values set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

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
        config = _with(config, key.split("__"), value)
    return Context(config, run_dir, Tracker(run_dir, "pico", {}, config.tracking), Share())


def _with(section: Any, keys: list[str], value: object) -> Any:
    """The section with another value at a dotted key; a task's own cannot be set."""
    name, *below = keys
    inner = _with(getattr(section, name), below, value) if below else value
    return replace(section, **{name: inner})
