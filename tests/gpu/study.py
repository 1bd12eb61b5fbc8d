"""The step `study`: what re-grounding saves and what extrapolation predicts, on a GPU.

Models of 25 M parameters are made there, one a seed, for the task of `tiny`. Then, side by side:
- `predict`: the whole of `+experiment=tiny` for every seed;
- `tuning`: plain RL and jumps with as many tries each, on the first seed, for a part of the time;
- `finals`: the two best plain rates, the best jumps and the same with a guard, on every seed.
A round's runs end together when its time is up: what a run has logged until then counts, and
steps and seconds compare within a round.
"""

from __future__ import annotations

import math
import shutil
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.artifacts import read_json
from studies.jobs import Curve, curve
from studies.reground import ACCURACIES, TUNED_TO
from tests.gpu.bench import Bench

SEEDS = (0, 1, 2)
RATES = ("1e-5", "2e-5", "4e-5", "8e-5", "1.6e-4", "3.2e-4")  # of plain RL
JUMPS = (  # every, jump, rate
    *((2, 4, rate) for rate in ("1e-5", "2e-5", "4e-5", "8e-5")),
    *((5, 5, rate) for rate in ("4e-5", "8e-5")),
)
GUARD = ("rl_train.reground.guard.problems=100", "rl_train.reground.guard.samples=2")
TUNING = 0.42  # share of the time behind the base models that the first round has
MODEL = {"layers": 8, "hidden": 512, "intermediate": 2048}
TINY_MODEL = {"layers": 1, "hidden": 32, "intermediate": 64}
KEPT = ("evaluate/scores.json", "linear_probe/weights.json", "report/index.html")

Overrides = Sequence[str]
Process = tuple[str, "subprocess.Popen[str]"]


def plain(rate: str) -> tuple[str, ...]:
    return (f"algorithm.learning_rate={rate}",)


def jumps(every: int, ahead: int, rate: str) -> tuple[str, ...]:
    ways = (f"rl_train.reground.every={every}", f"rl_train.reground.jump={ahead}")
    return (*plain(rate), *ways)


def tries(tiny: bool) -> dict[str, dict[str, Overrides]]:
    """Side -> the overrides of each of its tries; as many on both."""
    found: dict[str, dict[str, Overrides]] = {
        "plain": {f"plain, {rate}": plain(rate) for rate in RATES},
        "jumps": {f"({m}, {n}), {rate}": jumps(m, n, rate) for m, n, rate in JUMPS},
    }
    return {side: dict(list(each.items())[: 2 if tiny else None]) for side, each in found.items()}


def shared(tiny: bool) -> list[str]:
    """What all runs have."""
    model = TINY_MODEL if tiny else MODEL
    return [
        "+experiment=tiny",
        "compute.threads=1",
        f"sft_train.steps={10 if tiny else 1000}",
        "sft_train.learning_rate=5e-4",
        *(f"model.architecture.{name}={size}" for name, size in model.items()),
    ]


def training(tiny: bool) -> list[str]:
    """What the runs of the rounds have."""
    every, steps = (2, 6) if tiny else (4, 240)
    return [
        *shared(tiny),
        "stages=[sft_train,rl_train]",
        "rl_train.linearity_scalars=0",
        f"rl_train.steps={steps}",
        f"rl_train.snapshot_every={steps}",
        f"rl_train.checkpoint_every={steps}",
        f"rl_train.validation.every={every}",
        "rl_train.validation.problems=500",
        "rl_train.validation.samples=2",
    ]


def prediction(tiny: bool) -> list[str]:
    """What the runs of `predict` have."""
    sizes = ["rl_train.steps=160", "rl_train.checkpoint_every=80", "extrapolation.last=80"]
    sizes += ["weight_extrap.targets=[100,120,160,200,240,320,400]", "weight_extrap.dtype=float32"]
    sizes += ["evaluate.validation_problems=300", "evaluate.test_problems=500"]
    sizes += ["engine.batch_size=2048"]
    if tiny:
        sizes = ["rl_train.steps=8", "rl_train.snapshot_every=2", "rl_train.checkpoint_every=8"]
        sizes += ["extrapolation.last=4", "weight_extrap.targets=[6,8]", "logit_extrap.alphas=[2]"]
        sizes += ["evaluate.validation_problems=20", "evaluate.test_problems=20"]
    return [*shared(tiny), *sizes]


def study(bench: Bench) -> dict[str, Any]:
    """Curves of all runs of both rounds, and what is kept of the predictions."""
    seeds = SEEDS[: 2 if bench.tiny else None]
    failed: dict[str, str] = {}

    def start(name: str, values: Overrides, seed: int) -> Process:
        command = bench.pipeline(name, *values, f"seed={seed}")
        return name, bench.start(name, *command)

    only = [*shared(bench.tiny), "stages=[sft_train]"]
    for name, process in [start(f"base-{seed}", only, seed) for seed in seeds]:
        bench.wait(name, process)
    behind = time.monotonic()
    predicted = [start(f"predict-{s}", prediction(bench.tiny), s) for s in seeds]

    def round_of(
        which: str, chosen: Mapping[str, Overrides], seeds: Sequence[int], end: float
    ) -> dict[tuple[str, int], Curve]:
        """Run each of `chosen` with each seed, all at once, until `end`."""
        base = training(bench.tiny)
        folders = {(n, s): f"{which}-{i}-{s}" for i, n in enumerate(chosen) for s in seeds}
        started = [start(f, [*base, *chosen[n]], s) for (n, s), f in folders.items()]
        failed.update(bench.until(started, end))
        return {key: curve(bench.work / folder) for key, folder in folders.items()}

    last = bench.deadline - 8
    sides = tries(bench.tiny)
    every = {name: values for side in sides.values() for name, values in side.items()}
    tuning = round_of("tuning", every, seeds[:1], behind + TUNING * (last - behind))
    tuned = {name: found for (name, _), found in tuning.items()}
    points = min(len(found.steps) for found in tuned.values())
    first, second = sorted(sides["plain"], key=lambda name: rank(tuned[name], points))[:2]
    jump = min(sides["jumps"], key=lambda name: rank(tuned[name], points))
    chosen = {name: every[name] for name in (first, second, jump)}
    chosen[f"{jump}, guard"] = [*every[jump], *GUARD]
    finals = round_of("finals", chosen, seeds, last)
    others = {f"{name}, seed {seed}": found for (name, seed), found in finals.items()}
    return {
        "chosen": list(chosen),
        "tuning": {name: reached(found) for name, found in tuned.items()},
        "finals": {name: reached(found) for name, found in others.items()},
        "predicted": {name: kept(bench, name, process) for name, process in predicted},
        "failed": failed,
        "curves": {
            "tuning": {name: vars(found) for name, found in tuned.items()},
            "finals": {name: vars(found) for name, found in others.items()},
        },
    }


def kept(bench: Bench, name: str, process: subprocess.Popen[str]) -> str:
    """What became of a run of `predict`; what it has made of KEPT goes to the output."""
    failed = bench.until([(name, process)], bench.deadline - 4)
    run, out = bench.work / name, bench.log.parent
    seconds = {}
    for done in sorted(run.glob("*/done.json")):
        seconds[done.parent.name] = read_json(done)["seconds"]
    for file in (*KEPT, "rl_train/metrics.jsonl"):
        if (run / file).is_file():
            shutil.copy(run / file, out / f"{name}-{file.replace('/', '-')}")
    words = [f"{stage} {value:.0f} s" for stage, value in seconds.items()]
    return ", ".join([*words, *failed.values()])


def rank(found: Curve, points: int) -> tuple[float, float]:
    """What tuning minimises: steps to `TUNED_TO`, then minus the mean accuracy of some points."""
    at = found.first(TUNED_TO)
    mean = statistics.mean(found.accuracies[:points]) if points else 0.0
    return at[0] if at else math.inf, -mean


def reached(found: Curve) -> str:
    """Real step and second at which it reaches each accuracy, and what it came to."""
    if not found.steps:
        return "nothing"
    firsts = ((accuracy, found.first(accuracy)) for accuracy in ACCURACIES)
    words = [f"{a:.0%} at {at[0]:.1f} ({at[1]:.1f} s)" for a, at in firsts if at]
    words.append(f"best {max(found.accuracies):.3f}, {found.accuracies[-1]:.3f} at the end")
    return ", ".join([*words, f"step {found.steps[-1]} ({found.seconds[-1]:.1f} s)"])
