"""Decoding speed: one model, two in lockstep, and the published way of extrapolating logits.

    python benchmarks/decode.py --model DIR          # a chat model such as SmolLM2-135M-Instruct
    python benchmarks/decode.py --model DIR --jobs vllm-one vllm-pair --sequences 64

Jobs, each in a process of its own, on the same prompts (bf16, temperature 1):

    vllm-plain  one checkpoint on vLLM as it comes, without what this project changes on a CPU
    vllm-one    one checkpoint on this project's vLLM engine
    vllm-pair   two checkpoints on vLLM, logits l0 + 1.5 (l1 - l0)
    vllm-sweep  extrapolated weights built in memory and loaded in place, seconds a target
    hf-one      one checkpoint on this project's HF engine
    hf-pair     two checkpoints on this project's HF engine
    generate    transformers' own generate on one checkpoint, batches of 64
    published   two checkpoints, one prompt at a time, 8 samples, as the published loop works

By default every response runs to --tokens; --chat asks questions whose answers end where the model
ends them, as in an evaluation: a batch of transformers' generate then waits for its longest.

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
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from pipeline.inference.device import ADAPT, set_threads
from pipeline.inference.engine import Engine, Sampling, open_engine
from pipeline.inference.recipe import Recipe

ALPHA = 1.5


@dataclass(frozen=True)
class Setting:
    """What every job is given."""

    first: Path
    second: Path
    sequences: int
    tokens: int
    threads: int | None
    chat: bool

    def prompts(self) -> list[list[int]]:
        """As many different prompts as sequences, about 16 tokens each (a chat turn: 40)."""
        tokenizer = AutoTokenizer.from_pretrained(self.first)
        if not self.chat:
            story = "Once upon a time, in village number {}, there lived an old man who"
            return [tokenizer.encode(story.format(i)) for i in range(self.sequences)]
        turns = [f"What is {i} plus {3 * i}? Explain." for i in range(self.sequences)]
        chats = [[{"role": "user", "content": turn}] for turn in turns]
        found: Any = tokenizer.apply_chat_template(
            chats, add_generation_prompt=True, return_dict=False
        )
        return list(found)


def _engine(setting: Setting, name: str, pair: bool) -> Engine:
    options: dict[str, Any] = {"max_model_len": 512, "kv_cache_gib": 2.0} if name == "vllm" else {}
    return open_engine(
        name,
        setting.first,
        second=setting.second if pair else None,
        alpha=ALPHA,
        dtype="bfloat16",
        batch_size=setting.sequences,
        threads=setting.threads,
        **options,
    )


def engine_speed(setting: Setting, name: str, pair: bool) -> dict[str, float]:
    """Tokens a second of an engine."""
    engine = _engine(setting, name, pair)
    prompts = setting.prompts()
    list(engine.generate(prompts[:8], Sampling(max_tokens=4)))  # first-call costs
    clock = Clock()
    made = list(engine.generate(prompts, Sampling(max_tokens=setting.tokens)))
    found = clock.speed(sum(len(g.token_ids) for g in made))
    engine.close()
    return found


def plain_speed(setting: Setting) -> dict[str, float]:
    """Tokens a second of vLLM with its own sampler, waiting and memory (see `vllm_cpu`)."""
    os.environ[ADAPT] = "0"
    return engine_speed(setting, "vllm", pair=False)


class Clock:
    """Wall time and processor time of this process and its children, from now on."""

    def __init__(self) -> None:
        self.cpu = self._cpu()
        self.start = time.perf_counter()

    @staticmethod
    def _cpu() -> float:
        process = psutil.Process()
        times = [p.cpu_times() for p in (process, *process.children(recursive=True))]
        return sum(t.user + t.system for t in times)

    def speed(self, tokens: int) -> dict[str, float]:
        """Seconds since the start, and the tokens that they gave."""
        seconds, cpu = time.perf_counter() - self.start, self._cpu() - self.cpu
        return {
            "tokens": tokens,
            "seconds": seconds,
            "cpu_seconds": cpu,
            "tokens/s": tokens / seconds,
            "tokens/cpu_s": tokens / cpu,
        }


def sweep(setting: Setting) -> dict[str, float]:
    """Seconds to put an extrapolated model into a running engine, checked by its checksum."""
    engine: Any = _engine(setting, "vllm", pair=False)
    times = []
    for alpha in (0.5, 1.0, 1.5, 2.0):
        start = time.perf_counter()
        engine.load_weights(Recipe((setting.first, setting.second), [0.0, alpha]))
        times.append(time.perf_counter() - start)
        assert engine.checksum
    engine.close()
    return {"targets": len(times), "seconds": sum(times), "seconds/target": sorted(times)[1]}


def generate(setting: Setting) -> dict[str, float]:
    """transformers.generate in batches of 64."""
    tokenizer = AutoTokenizer.from_pretrained(setting.first, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model: Any = AutoModelForCausalLM.from_pretrained(setting.first, dtype=torch.bfloat16)
    prompts = setting.prompts()

    def batch(part: list[list[int]], new: int) -> torch.Tensor:
        inputs = tokenizer.pad({"input_ids": part}, return_tensors="pt")
        out = model.generate(**inputs, do_sample=True, top_k=0, max_new_tokens=new)
        return out[:, inputs["input_ids"].shape[1] :]

    batch(prompts[:8], 4)  # first-call costs
    tokens, clock = 0, Clock()
    for begin in range(0, len(prompts), 64):
        ends = batch(prompts[begin : begin + 64], setting.tokens) == tokenizer.eos_token_id
        tokens += int((ends.cumsum(1) - ends.int() == 0).sum())  # up to the first end of text
    return clock.speed(tokens)


@torch.inference_mode()
def published(setting: Setting) -> dict[str, float]:
    """Two models, one prompt at a time, 8 samples that run until the last has ended."""
    models: list[Any] = [
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16)
        for path in (setting.first, setting.second)
    ]
    stop = models[0].generation_config.eos_token_id

    def samples(prompt: list[int], new: int) -> int:
        ids, tokens = torch.tensor([prompt] * 8), 0
        caches = [DynamicCache(config=model.config) for model in models]
        ended = torch.zeros(8, dtype=torch.bool)
        for _ in range(new):
            parts = [
                model(ids, past_key_values=cache, logits_to_keep=1).logits[:, -1].float()
                for model, cache in zip(models, caches, strict=True)
            ]
            mixed = parts[0] + ALPHA * (parts[1] - parts[0])
            ids = mixed.softmax(-1).multinomial(1)
            tokens += int((~ended).sum())
            ended |= ids[:, 0] == stop
            if bool(ended.all()):
                break
        return tokens

    samples(setting.prompts()[0], 4)  # first-call costs
    clock = Clock()
    return clock.speed(sum(samples(prompt, setting.tokens) for prompt in setting.prompts()[:3]))


JOBS: dict[str, Callable[[Setting], dict[str, float]]] = {
    "vllm-plain": plain_speed,
    "vllm-one": lambda s: engine_speed(s, "vllm", pair=False),
    "vllm-pair": lambda s: engine_speed(s, "vllm", pair=True),
    "vllm-sweep": sweep,
    "hf-one": lambda s: engine_speed(s, "hf", pair=False),
    "hf-pair": lambda s: engine_speed(s, "hf", pair=True),
    "generate": generate,
    "published": published,
}


def make_second(first: Path, folder: Path) -> Path:
    """A checkpoint beside `first`: every matrix moved by 1 % noise."""
    model: Any = AutoModelForCausalLM.from_pretrained(first, dtype=torch.bfloat16)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.add_(torch.randn_like(parameter) * parameter.std() * 0.01)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(first).save_pretrained(folder)
    return folder


def run_job(args: argparse.Namespace, job: str, second: Path) -> dict[str, float]:
    """One job in a process of its own."""
    command = [sys.executable, __file__, "--job", job]
    command += ["--model", str(args.model), "--second", str(second)]
    command += ["--sequences", str(args.sequences), "--tokens", str(args.tokens)]
    command += ["--threads", str(args.threads)] if args.threads else []
    command += ["--chat"] if args.chat else []
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, float] = json.loads(output.splitlines()[-1])
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
        "chat": args.chat,
        "jobs": {
            job: {key: spread([one[job][key] for one in rounds]) for key in rounds[0][job]}
            for job in args.jobs
        },
        "ratios": summarise(rounds),
    }


def spread(values: list[float]) -> dict[str, float]:
    """Median and range of the rounds' values."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def summarise(rounds: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """The ratios that matter, where both of their jobs were run."""
    pairs = {
        "vllm pair / one on plain vllm": ("vllm-pair", "vllm-plain"),
        "vllm pair / one": ("vllm-pair", "vllm-one"),
        "vllm pair / published loop": ("vllm-pair", "published"),
        "hf pair / published loop": ("hf-pair", "published"),
        "vllm one / transformers generate": ("vllm-one", "generate"),
    }
    return {
        f"{name}, {unit}": spread([jobs[a][unit] / jobs[b][unit] for jobs in rounds])
        for name, (a, b) in pairs.items()
        for unit in ("tokens/s", "tokens/cpu_s")
        if a in rounds[0] and b in rounds[0]
    }


def main() -> None:
    """Parse the arguments; run one job, or all and print the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="checkpoint folder")
    parser.add_argument("--sequences", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=64, help="new tokens a sequence")
    parser.add_argument("--threads", type=int, help="default: every core")
    parser.add_argument("--jobs", nargs="+", choices=list(JOBS), default=list(JOBS))
    parser.add_argument("--rounds", type=int, default=3, help="times that all jobs are run")
    parser.add_argument("--chat", action="store_true", help="answers that end by themselves")
    parser.add_argument("--job", choices=list(JOBS), help=argparse.SUPPRESS)
    parser.add_argument("--second", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        setting = Setting(
            args.model, args.second, args.sequences, args.tokens, args.threads, args.chat
        )
        set_threads(args.threads)
        print(json.dumps(JOBS[args.job](setting)))
        return
    print(json.dumps(run_all(args), indent=1))


if __name__ == "__main__":
    main()
