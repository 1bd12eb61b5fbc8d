"""The runs of `tiny` that several studies look at, each made once.

All are 120 steps long with a checkpoint every twenty, but for `long`, which continues the same RL
to step 240: the run of `+experiment=tiny` itself. A seed has a base model of its own, which its
runs share.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from studies import jobs
from studies.jobs import Job

SEEDS = (0, 1, 2)
STEPS = 120
LONG = 240
EVERY = 20
RATE = "2e-5"  # of the experiment
NOISE = {-20: SEEDS[:1], -10: SEEDS, -5: SEEDS, 0: SEEDS, 10: SEEDS}  # of token losses, dB: seeds
SHARED = (
    "+experiment=tiny",
    "stages=[sft_train,rl_train,snapshot,linear_probe]",
    "tracking.mode=disabled",
    f"rl_train.snapshot_every={EVERY}",
    "rl_train.checkpoint_every=60",
    "rl_train.linearity_scalars=0",
    "weight_extrap.dtype=float32",
    "compute.threads=1",
)
FAST = "3.2e-4"  # a rate near the best for plain RL (studies.reground)
VARIANTS = {  # of RL; what is not named is as in `rl`
    f"rate {FAST}": (f"algorithm.learning_rate={FAST}",),
    "SGD": ("algorithm.optimizer=sgd", "algorithm.learning_rate=0.05"),
    "GSPO": ("algorithm=gspo", f"algorithm.learning_rate={RATE}"),
    "groups of 4": ("algorithm.prompts_per_step=64", "algorithm.rollouts_per_prompt=4"),
    "groups of 32": ("algorithm.prompts_per_step=8", "algorithm.rollouts_per_prompt=32"),
}


def rl(seed: int, variant: str = "", steps: int = STEPS) -> Job:
    """GRPO on `tiny` as its experiment has it, or a variant of it."""
    name = f"rl-{variant.replace(' ', '-')}-s{seed}" if variant else f"rl-s{seed}"
    rest = VARIANTS[variant] if variant else ()
    return Job(name, (f"seed={seed}", f"rl_train.steps={steps}", *rest))


def long(seed: int) -> Job:
    """The same RL to step 240; continues what `rl` has made."""
    return Job(f"long-s{seed}", rl(seed, steps=LONG).overrides)


def sft(seed: int, noise: int | None = None, rate: str = RATE) -> Job:
    """Supervised training on right answers to the same problems, with the batch that RL has."""
    rest: tuple[str, ...] = ("algorithm=sft",)
    if noise is not None:
        rest = ("algorithm=sft_noise", f"algorithm.sft_noise_db={noise}")
    batch = ("algorithm.prompts_per_step=256", f"algorithm.learning_rate={rate}")
    name = "sft" if noise is None else f"sft{noise:+d}dB"
    name += "" if rate == RATE else f"-rate-{rate}"
    return Job(f"{name}-s{seed}", (f"seed={seed}", f"rl_train.steps={STEPS}", *rest, *batch))


def run(wanted: Sequence[Job], out: Path) -> None:
    """Make them, as far as they are not there."""
    jobs.run(wanted, out, (*SHARED, f"run.shared={out / 'store'}"), last="linear_probe")
