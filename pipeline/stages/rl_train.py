"""The RL run whose path is extrapolated: TRL's GRPO, in this process or in many ranks."""

from __future__ import annotations

import importlib.util
import os
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.artifacts import iter_jsonl, read_jsonl
from pipeline.content import model_content, task_data
from pipeline.errors import PipelineError
from pipeline.estimates import training
from pipeline.hardware import gpus
from pipeline.stages.base import DONE, RESUME, Context
from pipeline.subject import base_model
from pipeline.training.disk import training_disk
from pipeline.training.schema import RegroundConfig
from pipeline.training.spec import RlSpec

SECTIONS = (
    *("rl_train", "algorithm", "task", "compute", "seed"),
    *("model.path", "model.revision", "model.package", "model.gguf"),
)
REUSES = False
TAIL = 20  # steps that the final reward is averaged over
SHOWN = 64  # rollouts in W&B's table


def needs(context: Context) -> tuple[str, ...]:
    return ("sft_train",) if base_model.made_here(context.config.model) else ()


def inputs(context: Context) -> dict[str, Any]:
    """The content of local data and of a model given as a folder; a hub id has its revision."""
    found, path = task_data([context.config.task], context.hashes), context.config.model.path
    if path is not None and Path(path).is_dir():
        found["model"] = model_content(Path(path), context.hashes)
    return found


def standing(context: Context) -> str:
    """A run of more steps, or with more snapshots, has what is asked for as well."""
    from pipeline.training import checkpoints

    spec = _spec(context, Path())
    if checkpoints.finished(spec):
        return DONE
    resumed, whole = checkpoints.resumable(spec), checkpoints.newest_step(spec)
    if resumed is not None and resumed[1] == whole:
        return RESUME
    if missing := checkpoints.missing_snapshots(spec, min(whole, spec.steps)):
        return (
            f"rl_train.snapshot_every={spec.rl_train.snapshot_every}: no snapshot of step "
            f"{missing[0]} was written"
        )
    if whole == 0 and not context.is_done("rl_train"):
        return RESUME  # killed before the first checkpoint
    return f"no checkpoint of at most rl_train.steps={spec.steps} is left to continue from"


def plan(context: Context) -> str:
    config = context.config
    rl, algorithm, compute = config.rl_train, config.algorithm, config.compute
    base = base_model.describe(config.model)
    sets: list[tuple[str, int | None]] = [("train", rl.problems)]
    if rl.reground.every is not None and rl.reground.guard.problems:
        sets.append(("validation", rl.reground.guard.problems))
    if rl.validation.every is not None:
        sets.append(("validation", rl.validation.problems))
    context.check_task(config.task, *sets)
    missing = _check_machine(context)
    where = "in this process" if compute.launcher == "none" else f"{compute.world_size} ranks, "
    if compute.launcher != "none":
        where += f"{compute.launcher}, ZeRO-{compute.zero_stage}"
    snapshots = rl.steps // rl.snapshot_every
    disk = training_disk(config, context.stage_dir("rl_train"))
    return (
        f"{algorithm.name} on {config.task.name} from {base}: {rl.steps} steps of "
        f"{algorithm.prompts_per_step} x {algorithm.rollouts_per_prompt} rollouts, {where}; "
        f"{snapshots} snapshots{disk}{_jumps(rl.reground, rl.steps)}{missing}"
        f"{training.rl_train(context, _spec(context, Path()))}"
    )


def run(context: Context) -> dict[str, Any]:
    from pipeline.training.launch import launch

    spec = _spec(context, context.base_model())
    launch(spec, lambda row: context.tracker.log("rl_train", row))
    folder = context.stage_dir("rl_train")
    rows = read_jsonl(folder / "metrics.jsonl")
    first, last = rows[:TAIL], rows[-TAIL:]
    key = "reward" if "reward" in rows[-1] else "loss"  # of supervised training
    _show_rollouts(context, folder / "rollouts.jsonl")
    return {
        "steps": rows[-1]["step"],
        f"{key}_first": sum(row[key] for row in first) / len(first),
        f"{key}_last": sum(row[key] for row in last) / len(last),
    }


def _show_rollouts(context: Context, path: Path) -> None:
    """The last ones that were kept, as a table in W&B."""
    kept = deque(iter_jsonl(path), maxlen=SHOWN)
    if kept:
        columns = ("step", "prompt", "text", "reward", "advantage", "truncated")
        shown = [[row[column] for column in columns] for row in kept]
        for row in shown:
            row[1] = row[1] if isinstance(row[1], str) else row[1][-1]["content"]
        context.tracker.table("rl_train/rollouts", columns, shown)


def _spec(context: Context, model: Path) -> RlSpec:
    """The run from the model in a folder."""
    config = context.config
    return RlSpec(
        output=str(context.stage_dir("rl_train")),
        task=config.task,
        model=replace(config.model, path=str(model)),
        algorithm=config.algorithm,
        rl_train=config.rl_train,
        compute=config.compute,
        seed=config.seed,
    )


def _check_machine(context: Context) -> str:
    """What this machine lacks, in words for a dry run, which may be of another one.

    Raises:
        PipelineError: a package or a GPU that training needs is not here.
    """
    compute, attention = context.config.compute, context.config.model.attention
    for package, wanted in (
        ("deepspeed", compute.launcher == "deepspeed" or compute.zero_stage > 0),
        ("vllm", compute.vllm_rollouts),
    ):
        if wanted and importlib.util.find_spec(package) is None:
            raise PipelineError(
                f"compute={compute.name} needs {package}, which is not installed; "
                f"pip install {package}, or choose compute=local"
            )
    if context.config.algorithm.lora.rank and importlib.util.find_spec("peft") is None:
        raise PipelineError(
            "algorithm.lora needs peft, which is not installed; pip install peft, or set "
            "algorithm.lora.rank=0"
        )
    lacks = []
    # transformers takes the kernels package's build where flash-attn itself is not there
    flash = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}
    names = (flash.get(attention), "kernels")
    if names[0] and not any(importlib.util.find_spec(name) for name in names if name):
        lacks.append(
            f"model.attention={attention}: flash-attn is not installed; install it, or set "
            "model.attention=sdpa"
        )
    nodes = int(os.environ.get("SLURM_JOB_NUM_NODES", 0))
    if compute.launcher == "srun" and nodes < compute.nodes:
        lacks.append(
            f"compute={compute.name} wants a Slurm job of {compute.nodes} nodes, and this one has "
            f"{nodes}; submit it with launchers/slurm/submit.sh"
        )
    if compute.vllm_rollouts or compute.launcher != "none":
        found = gpus()
        inside = compute.vllm_rollouts and compute.vllm_host is None
        if inside and not found and compute.world_size > 1:
            lacks.append(
                "compute.vllm_rollouts: no GPU is visible, and on the CPU vLLM serves one process; "
                "set compute.processes=1 with compute.launcher=none, or vllm_rollouts=false"
            )
        elif 0 < found < compute.processes:
            lacks.append(
                f"compute.processes={compute.processes}: {found} GPUs are visible; "
                f"set compute.processes={found}"
            )
    if lacks and not context.config.dry_run:
        raise PipelineError(lacks[0])
    return "".join(f" (here: {words})" for words in lacks)


def _jumps(reground: RegroundConfig, steps: int) -> str:
    if reground.every is None:
        return ""
    guard = f", guarded by {reground.guard.problems} problems" if reground.guard.problems else ""
    count = steps // reground.every
    return f"; {count} jumps of {reground.jump} after {reground.every} steps each{guard}"
