"""The sections of the configuration that training processes read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipeline.config import ComputeConfig
from pipeline.stages.base import Context
from pipeline.training.spec import RlSpec, SftSpec


def sft_spec(context: Context, output: Path) -> SftSpec:
    """Supervised training of a model made from scratch. Always one process: it is small."""
    config = context.config
    compute = ComputeConfig(name="local", threads=config.compute.threads)
    return SftSpec(str(output), config.task, config.model, config.sft_train, compute, config.seed)


def rl_spec(context: Context, output: Path, model: Path) -> RlSpec:
    """The RL run from the model in the folder `model`."""
    config = context.config
    return RlSpec(
        output=str(output),
        task=config.task,
        model=replace(config.model, path=str(model)),
        algorithm=config.algorithm,
        rl_train=config.rl_train,
        compute=config.compute,
        seed=config.seed,
    )
