"""Decoding speed: one model, two in lockstep, and the published way of extrapolating logits.

    python benchmarks/decode.py --model DIR          # a chat model such as SmolLM2-135M-Instruct
    python benchmarks/decode.py --model DIR --jobs vllm-one vllm-pair --sequences 64

Every job does what an evaluation does: 8 responses to each of some word problems (prompts of about
90 tokens, --sequences responses in all), which end by themselves or after --tokens tokens, at
temperature 1 in bf16. With --short the prompts are beginnings of stories (17 tokens), and next to
all of the time is decoding. Jobs, each in a process of its own:

    plain-one   one checkpoint on stock vLLM, without what this project changes on a CPU
    plain-pair  two checkpoints on that vLLM, logits l0 + 1.5 (l1 - l0)
    vllm-one    one checkpoint on this project's vLLM engine
    vllm-pair   two checkpoints on it
    vllm-sweep  extrapolated weights built in memory and loaded in place, seconds a target
    hf-one      one checkpoint on this project's HF engine
    hf-pair     two checkpoints on this project's HF engine
    generate    transformers' own generate on one checkpoint, batches of 64
    published   two checkpoints, one prompt at a time, 8 samples, as the published loop works

The second checkpoint is the first plus 1 % noise: what it says does not matter for speed. Times
are of prefill and decoding, without start-up and first-call costs. All jobs are run --rounds times
in turn; the ratios are taken within a round, and the median is printed with the whole range, since
a machine's speed may change from minute to minute. Processor seconds are those of all processes of
the job. Results go to standard output as lines and JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from decode_jobs import JOBS, Setting, Speed, make_second

from pipeline.inference.device import set_threads
from pipeline.processes import die_with_parent

RATIOS = {
    "pair / one, stock vllm": ("plain-pair", "plain-one"),
    "pair / one": ("vllm-pair", "vllm-one"),
    "pair / one on stock vllm": ("vllm-pair", "plain-one"),
    "pair / published loop": ("vllm-pair", "published"),
    "hf pair / published loop": ("hf-pair", "published"),
    "one / one on stock vllm": ("vllm-one", "plain-one"),
    "one / transformers generate": ("vllm-one", "generate"),
}


def run_job(args: argparse.Namespace, job: str, second: Path) -> Speed:
    """One job in a process of its own."""
    command = [sys.executable, __file__, "--job", job]
    command += ["--model", str(args.model), "--second", str(second)]
    command += ["--sequences", str(args.sequences), "--tokens", str(args.tokens)]
    command += ["--threads", str(args.threads)] if args.threads else []
    command += ["--short"] if args.short else []
    output = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, preexec_fn=die_with_parent
    ).stdout
    found: Speed = json.loads(output.splitlines()[-1])
    print(f"{job:12}", json.dumps(found), flush=True)
    return found


def run_all(args: argparse.Namespace) -> dict[str, Any]:
    """Every job, round after round."""
    with tempfile.TemporaryDirectory() as scratch:
        second = make_second(args.model, Path(scratch) / "second")
        rounds = [
            {job: run_job(args, job, second) for job in args.jobs} for _ in range(args.rounds)
        ]
    return {
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, "
        f"torch {torch.__version__}",
        "model": args.model.name,
        "sequences": args.sequences,
        "tokens": args.tokens,
        "short": args.short,
        "jobs": {
            job: {key: spread([one[job][key] for one in rounds]) for key in rounds[0][job]}
            for job in args.jobs
        },
        "ratios": {
            f"{name}, {unit}": spread([jobs[a][unit] / jobs[b][unit] for jobs in rounds])
            for name, (a, b) in RATIOS.items()
            for unit in ("tokens/s", "tokens/cpu_s")
            if a in args.jobs and b in args.jobs
        },
    }


def spread(values: list[float]) -> dict[str, float]:
    """Median and range of the rounds' values."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def main() -> None:
    """Parse the arguments; run one job, or all and print the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="checkpoint folder")
    parser.add_argument("--sequences", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=256, help="most new tokens a sequence")
    parser.add_argument("--threads", type=int, help="default: every core")
    parser.add_argument("--jobs", nargs="+", choices=list(JOBS), default=list(JOBS))
    parser.add_argument("--rounds", type=int, default=3, help="times that all jobs are run")
    parser.add_argument("--short", action="store_true", help="prompts of 17 tokens")
    parser.add_argument("--job", choices=list(JOBS), help=argparse.SUPPRESS)
    parser.add_argument("--second", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        set_threads(args.threads)
        setting = Setting(
            args.model, args.second, args.sequences, args.tokens, args.threads, args.short
        )
        print(json.dumps(JOBS[args.job](setting)))
        return
    print(json.dumps(run_all(args), indent=1))


if __name__ == "__main__":
    main()
