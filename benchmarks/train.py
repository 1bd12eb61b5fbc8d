"""Seconds of an RL step by what they go into, with rollouts by transformers' generate and by vLLM.

    python benchmarks/train.py +experiment=smollm2            # SmolLM2, its own recipe
    python benchmarks/train.py --steps 5 --turns 1 +experiment=smollm2 \\
        algorithm.max_response_tokens=128

Arguments that are not options are overrides of the pipeline's configuration. The two ways take
turns, each in a process of its own, from the same weights on the same problems, and write one
snapshot a step. The first step of each, which warms up, is left out; the table has the median of
the others of all turns, and the least and the greatest median of a turn:

    generate    drawing the responses, without the sync
    reward      grading them
    update      forward, backward and optimiser passes, and what is not any of the others
    sync        giving the engine the new weights
    snapshot    writing the model
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, cast

from pipeline.processes import die_with_parent

ROOT = Path(__file__).resolve().parents[1]
WAYS = ("hf", "vllm")
PARTS = ("generate", "reward", "update", "sync", "snapshot")


def spec_of(overrides: list[str], steps: int, output: Path, vllm: bool) -> Any:
    """The RL run of a configuration, cut to `steps` with a snapshot each."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from pipeline import config as schema
    from pipeline.subject import base_model
    from pipeline.training.spec import RlSpec

    schema.register()
    with initialize_config_dir(version_base="1.3", config_dir=str(schema.CONF)):
        raw = compose("config", overrides=[*overrides, f"run.dir={output}"])
    config = cast(schema.PipelineConfig, OmegaConf.to_object(raw))
    config.run.cache = str(Path(config.run.cache).resolve())
    model = base_model.base_model(config.model, Path(config.run.cache), output / "sft" / "model")
    return RlSpec(
        output=str(output),
        task=config.task,
        model=replace(config.model, path=str(model)),
        algorithm=config.algorithm,
        rl_train=replace(config.rl_train, steps=steps, snapshot_every=1, checkpoint_every=steps),
        compute=replace(config.compute, vllm_rollouts=vllm),
        seed=config.seed,
    )


def timed(owner: Any, method: str, spent: dict[str, float], part: str) -> None:
    """Add the seconds of every call of a method to `spent[part]`."""
    call: Callable[..., Any] = getattr(owner, method)

    def measured(*arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        try:
            return call(*arguments, **options)
        finally:
            spent[part] += time.perf_counter() - start

    setattr(owner, method, measured)


def measure(spec: Any) -> list[dict[str, float]]:
    """Train in this process; the seconds of each step by part, and its tokens and log-prob gap."""
    from pipeline.training.callbacks import SnapshotCallback
    from pipeline.training.rollouts import Rollouts
    from pipeline.training.trainers import Grpo, Rloo
    from pipeline.training.worker import run

    spent: dict[str, float] = defaultdict(float)
    for trainer in (Grpo, Rloo):
        timed(trainer, "_generate_single_turn", spent, "generate")
        timed(trainer, "_calculate_rewards", spent, "reward")
    timed(Rollouts, "sync_weights", spent, "sync")
    timed(SnapshotCallback, "on_step_end", spent, "snapshot")
    algorithm, rows = spec.algorithm, []
    rollouts = algorithm.prompts_per_step * algorithm.rollouts_per_prompt

    def step(row: dict[str, Any]) -> None:
        spent["generate"] -= spent["sync"]  # TRL syncs inside
        others = sum(spent[part] for part in PARTS)
        rows.append(
            {
                **{part: spent[part] for part in PARTS},
                "update": row["seconds"] - others,
                "step": row["seconds"],
                "tokens": row["completion_length"] * rollouts,
                "gap": row.get("rollout_logprob_gap", 0.0),
            }
        )
        spent.clear()

    run(spec, step)
    return rows[1:]


def table(found: dict[str, list[list[dict[str, float]]]]) -> str:
    """One line for each way of drawing, from the steps of each of its turns; times faster than the
    first line."""
    lines = ["| rollouts | step | of the turns | " + " | ".join(PARTS) + " | tokens/s | gap |"]
    lines[0] += " times faster |"
    lines.append("|---|" + "--:|" * (len(PARTS) + 5))
    first = 0.0
    for name, turns in found.items():
        rows = [row for turn in turns for row in turn]
        middle = {key: median(row[key] for row in rows) for key in rows[0]}
        first = first or middle["step"]
        each = [median(row["step"] for row in turn) for turn in turns]
        parts = " | ".join(f"{middle[part]:.2f}" for part in PARTS)
        rate = median(row["tokens"] / row["generate"] for row in rows)
        lines.append(
            f"| {name} | {middle['step']:.2f} | {min(each):.2f} to {max(each):.2f} | {parts} | "
            f"{rate:.0f} | {middle['gap']:.1e} | {first / middle['step']:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run each way in a child process, in turns, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=4, help="the first one warms up")
    parser.add_argument("--turns", type=int, default=3, help="of each way")
    parser.add_argument("--json", type=Path, help="write every step's figures there")
    parser.add_argument("--child", choices=WAYS, help=argparse.SUPPRESS)
    args, overrides = parser.parse_known_args()
    if args.steps < 2:
        parser.error("--steps: at least 2, since the first one warms up")
    if args.child:
        with tempfile.TemporaryDirectory() as folder:
            spec = spec_of(overrides, args.steps, Path(folder), args.child == "vllm")
            rows = measure(spec)
        print(json.dumps(rows))
        return
    found: dict[str, list[list[dict[str, float]]]] = {way: [] for way in WAYS}
    for _ in range(args.turns):
        for way in WAYS:
            found[way].append(turn(way, args.steps, overrides))
            if args.json:
                args.json.write_text(json.dumps(found))
    print(f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores; seconds, median of steps\n")
    print(table(found))


def turn(way: str, steps: int, overrides: list[str]) -> list[dict[str, float]]:
    """The rows of `measure`, in a process of its own."""
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, __file__, "--child", way, "--steps", str(steps), *overrides],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        preexec_fn=die_with_parent,
    )
    return list(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    main()
