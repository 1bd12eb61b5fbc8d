"""Speculative sampling of the logit mixture against lockstep, on the HF engine, in one run.

    python benchmarks/speculative.py --first DIR --second DIR     # two checkpoints of an RL run
    python benchmarks/speculative.py --first DIR                  # and a copy moved by 1 % noise
    python benchmarks/speculative.py                              # so with the pipeline's SmolLM2

For each number of rows, lockstep and every draft length k take turns on the same prompts, and
their speeds are divided within a turn; the table has the median of the turns. The time to read
the prompts is measured apart and taken off. Beside it stands what a pass of l0 over k tokens
costs (c, in passes over one token), and the speed-up 2 E / (k + c) that c and the tokens a round,
E, allow (a little more where a last round drafts fewer than k).

Times are wall-clock times and, on a CPU, the process's own CPU time too: the latter is the one to
read on a machine that others use. Acceptance does not depend on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from pipeline.inference.hf.mixture import Mixture, Rows, prefill
from pipeline.inference.interface import Sampling
from pipeline.inference.open import open_engine

TEXTS = (
    "Explain in simple words why the sky is blue in the day and red in the evening.",
    "Write a short story about a miller, his daughter and a very old clock.",
    "Solve step by step: a train goes 60 km in 45 minutes. How far does it go in two hours?",
    "What should I pack for three days of walking in the mountains in October?",
    "Give me a recipe for lentil soup and say why each step is needed.",
    "Write a Python function that returns the longest word of a sentence, and explain it.",
    "Who was Marie Curie, and what is she known for?",
    "List the differences between a frog and a toad, then describe how each one lives.",
)
Clock = Callable[[], float]


def prompts_for(tokenizer: Any) -> list[list[int]]:
    """The texts as a chat model reads them, or as plain text for other models."""
    if tokenizer.chat_template is None:
        return [tokenizer.encode(text) for text in TEXTS]
    return [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
        )
        for text in TEXTS
    ]


def seconds_of(work: Callable[[], Any], device: str) -> tuple[float, float]:
    """Wall-clock and CPU seconds of a call."""
    if device == "cuda":
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def decode(engine: Any, prompts: list[list[int]], sampling: Sampling) -> dict[str, float]:
    """Tokens and seconds of one call of `generate`."""
    made: list[Any] = []
    wall, cpu = seconds_of(
        lambda: made.extend(engine.generate(prompts, sampling)), engine.mixture.device.type
    )
    return {"tokens": sum(len(g.token_ids) for g in made), "wall": wall, "cpu": cpu}


def chunk_cost(
    mixture: Mixture, prompts: list[list[int]], lengths: Sequence[int], turns: int
) -> dict[int, float]:
    """Time of a pass of l0 over k tokens, over that of a pass over one token; median."""
    rows, _ = prefill(mixture, prompts, [1] * len(prompts))
    device = mixture.device.type
    clock = 0 if device == "cuda" else 1
    ratios: dict[int, list[float]] = {k: [] for k in lengths}
    for _ in range(turns):
        base = _pass(mixture, rows, 1, device)[clock]
        for k in lengths:
            ratios[k].append(_pass(mixture, rows, k, device)[clock] / base)
    return {k: median(found) for k, found in ratios.items()}


def _pass(mixture: Mixture, rows: Rows, k: int, device: str) -> tuple[float, float]:
    """Seconds of a pass of the first model over k new tokens, which are taken back."""
    ids = torch.full((len(rows), k), 5, device=rows.mask.device)
    positions = rows.positions[:, None] + torch.arange(k, device=ids.device)
    mask = torch.cat([rows.mask, rows.mask.new_ones(len(rows), k)], dim=1)
    seen = mask if bool((mask == 0).any()) else None

    def work() -> None:
        mixture.model_logits(0, ids, positions, seen, rows.caches[0], k)

    spent = seconds_of(work, device)
    rows.caches[0].crop(-k)
    return spent


def measure(args: argparse.Namespace, first: Path, second: Path) -> list[dict[str, Any]]:
    """A row of results for every number of rows, α and draft length."""
    common = {"dtype": args.dtype, "device": args.device, "threads": args.threads}
    lockstep: Any = open_engine("hf", first, second, **common)
    drafting: Any = open_engine("hf", first, second, speculative=1, **common)
    prompts = prompts_for(lockstep.tokenizer)
    results = []
    for batch in args.batches:
        part = [prompts[i % len(prompts)] for i in range(batch)]
        cost = chunk_cost(lockstep.mixture, part, args.lengths, args.turns)
        for alpha in args.alphas:
            lockstep.set_coefficients([1 - alpha, alpha])
            drafting.set_coefficients([1 - alpha, alpha])
            found = _take_turns(args, lockstep, drafting, part)
            for row in found:
                k = row["k"]
                row |= {"rows": batch, "alpha": alpha, "c": cost[k]}
                row["allowed"] = 2 * row["tokens/round"] / (k + cost[k])
                print(json.dumps(row), file=sys.stderr, flush=True)
            results += found
    return results


def _take_turns(
    args: argparse.Namespace, lockstep: Any, drafting: Any, prompts: list[list[int]]
) -> list[dict[str, Any]]:
    """Lockstep and each draft length, `turns` times; medians of ratios within a turn."""
    speeds: dict[int, list[dict[str, float]]] = {k: [] for k in (0, *args.lengths)}
    counts = {k: dict.fromkeys(drafting.statistics, 0) for k in args.lengths}
    for turn in range(args.turns):
        sampling = Sampling(
            temperature=args.temperature, top_p=args.top_p, max_tokens=args.tokens, seed=turn
        )
        # reading the prompts and the first token of each: the same work on both engines
        before = decode(lockstep, prompts, replace(sampling, max_tokens=1))
        for k in speeds:
            if k:
                drafting.length = k
                drafting.statistics = counts[k]
            made = decode(drafting if k else lockstep, prompts, sampling)
            tokens = made["tokens"] - before["tokens"]
            speeds[k].append({c: tokens / (made[c] - before[c]) for c in ("wall", "cpu")})
    found = []
    for k in args.lengths:
        count = counts[k]
        judged = count["accepted"] + count["rejected"]
        row: dict[str, Any] = {
            "k": k,
            "accepted/judged": count["accepted"] / judged,
            "accepted/drafted": count["accepted"] / count["drafted"],
            "tokens/round": judged / count["rounds"],
        }
        for clock in ("wall", "cpu"):
            row[f"tokens/s {clock}"] = median(s[clock] for s in speeds[k])
            row[f"lockstep tokens/s {clock}"] = median(s[clock] for s in speeds[0])
            row[f"speed-up {clock}"] = median(
                a[clock] / b[clock] for a, b in zip(speeds[k], speeds[0], strict=True)
            )
        found.append(row)
    return found


def table(results: list[dict[str, Any]], clock: str) -> str:
    """The results in Markdown."""
    lines = [
        f"| rows | α | k | accepted of judged | tokens a round | c | allowed | lockstep tokens/s "
        f"| tokens/s | speed-up ({clock}) |",
        "|--:" * 10 + "|",
    ]
    for r in results:
        lines.append(
            f"| {r['rows']} | {r['alpha']:g} | {r['k']} | {r['accepted/judged']:.3f} "
            f"| {r['tokens/round']:.2f} | {r['c']:.2f} | {r['allowed']:.2f} "
            f"| {r[f'lockstep tokens/s {clock}']:.1f} | {r[f'tokens/s {clock}']:.1f} "
            f"| {r[f'speed-up {clock}']:.2f} |"
        )
    return "\n".join(lines)


def find_first(cache: Path) -> Path:
    """SmolLM2-135M-Instruct as a run of the pipeline has converted it into its cache."""
    found = sorted(cache.glob("models/smollm2-*"))
    if not found:
        raise SystemExit(
            f"error: no SmolLM2 in {cache}; a run of +experiment=smollm2 converts it, "
            "or give --first DIR"
        )
    return found[-1]


def make_second(first: Path, folder: Path, noise: float) -> Path:
    """A checkpoint beside `first`: every matrix moved by `noise` of its standard deviation."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(first, dtype=torch.float32)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.add_(torch.randn_like(parameter) * parameter.std() * noise)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(first).save_pretrained(folder)
    return folder


def main() -> None:
    """Parse the arguments, measure, print a table and JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--first", type=Path, help="earlier checkpoint, l0; default SmolLM2")
    parser.add_argument("--second", type=Path, help="later checkpoint, l1; default l0 and noise")
    parser.add_argument("--noise", type=float, default=0.01, help="of the default l1")
    parser.add_argument("--alphas", type=float, nargs="+", default=[1.5])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8], metavar="ROWS")
    parser.add_argument("--lengths", type=int, nargs="+", default=[2, 4, 8], metavar="K")
    parser.add_argument("--tokens", type=int, default=64, help="longest response")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--cache", type=Path, default=Path("outputs/cache"))
    args = parser.parse_args()
    first = args.first or find_first(args.cache)
    with tempfile.TemporaryDirectory() as scratch:
        second = args.second or make_second(first, Path(scratch) / "second", args.noise)
        results = measure(args, first, second)
    machine = torch.cuda.get_device_name() if args.device == "cuda" else platform.machine()
    print(
        f"{machine}, {args.threads or len(os.sched_getaffinity(0))} threads, {args.dtype}, torch "
        f"{torch.__version__}, {time.strftime('%Y-%m-%d')}, load {os.getloadavg()[0]:.1f}"
    )
    print(table(results, "wall"))
    if args.device == "cpu":
        print("\n" + table(results, "cpu"))
    print("\n" + json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
