"""Make the base model of the tiny experiment: supervised training from scratch.

The result depends on the configuration alone, so it is kept in run.cache and shared by runs.
"""

from __future__ import annotations

import fcntl
import shutil
from pathlib import Path
from typing import Any

from pipeline.content import task_data
from pipeline.estimates import training
from pipeline.faults import naming
from pipeline.stages.base import Context
from pipeline.training.schema import ComputeConfig
from pipeline.training.spec import SftSpec, fingerprint

SECTIONS = ("sft_train", "model.architecture", "task", "seed")
REUSES = False


def needs(context: Context) -> tuple[str, ...]:
    return ()


def inputs(context: Context) -> dict[str, Any]:
    return task_data([context.config.task], context.hashes)


def standing(context: Context) -> str:
    return context.standing("sft_train", "model/config.json")


def plan(context: Context) -> str:
    sft = context.config.sft_train
    context.check_task(context.config.task, (sft.split, sft.problems))
    return (
        f"a model from scratch on {context.config.task.name}: {sft.steps} steps of "
        f"{sft.batch_size} problems{training.sft_train(context, _spec(context, Path()))}"
    )


def run(context: Context) -> dict[str, Any]:
    from pipeline.training.launch import launch

    key = fingerprint(_spec(context, Path()))[:16]
    cached = Path(context.config.run.cache, "sft_train", key).resolve()
    cached.mkdir(parents=True, exist_ok=True)
    with open(cached / ".lock", "w") as lock:
        with naming(cached / ".lock"):
            fcntl.flock(lock, fcntl.LOCK_EX)  # a second run waits here and then finds the model
        fresh = not (cached / "model").exists()
        if fresh:
            launch(_spec(context, cached), lambda row: context.tracker.log("sft_train", row))
    model = context.stage_dir("sft_train") / "model"
    partial = model.with_name(".model.partial")
    for leftover in (partial, model):
        shutil.rmtree(leftover, ignore_errors=True)
    shutil.copytree(cached / "model", partial)
    partial.rename(model)
    return {"model": str(model), "from_cache": not fresh}


def _spec(context: Context, output: Path) -> SftSpec:
    """Always one process: the model is small."""
    config = context.config
    compute = ComputeConfig(name="local", threads=config.compute.threads)
    return SftSpec(str(output), config.task, config.model, config.sft_train, compute, config.seed)
