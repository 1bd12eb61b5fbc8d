"""The jobs of `decode.py`: what each engine, or another way of working, is timed at."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from pipeline.inference.device import ADAPT
from pipeline.inference.interface import Engine, Sampling
from pipeline.inference.open import open_engine
from pipeline.trajectory.recipe import Recipe

ALPHA = 1.5
SEED = 1  # lengths of the responses, and so the speed, hang on the draw
SAMPLES = 8  # responses a problem
BATCH = 64  # sequences that transformers' generate decodes at once
LOOP_PROBLEMS = 8  # that the published loop gets: it needs about as long for each
PROBLEM = (
    "Tom has {} apples and buys {} bags with 3 apples each. He gives half of what he has to Anna, "
    "who had 7. How many apples does Anna have in the end? Reason step by step, and put the final "
    "answer in \\boxed{{}}."
)
STORY = "Once upon a time, in village number {}, there lived an old man who"
Speed = dict[str, float]


@dataclass(frozen=True)
class Setting:
    """What every job is given."""

    first: Path
    second: Path
    sequences: int
    tokens: int
    threads: int | None
    short: bool

    def prompts(self) -> list[list[int]]:
        """A word problem for each eighth sequence (in the chat template, if there is one).

        Where they are to be short: the begin of a story of about 17 tokens.
        """
        tokenizer = AutoTokenizer.from_pretrained(self.first)
        text = STORY if self.short else PROBLEM
        problems = [text.format(i, 3 * i) for i in range(-(-self.sequences // SAMPLES))]
        if self.short or not tokenizer.chat_template:
            return [tokenizer.encode(problem) for problem in problems]
        chats = [[{"role": "user", "content": problem}] for problem in problems]
        found: Any = tokenizer.apply_chat_template(
            chats, add_generation_prompt=True, return_dict=False
        )
        return list(found)


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

    def speed(self, tokens: int) -> Speed:
        """Seconds since the start, and the tokens that they gave."""
        seconds, cpu = time.perf_counter() - self.start, self._cpu() - self.cpu
        return {
            "tokens": tokens,
            "seconds": seconds,
            "cpu_seconds": cpu,
            "tokens/s": tokens / seconds,
            "tokens/cpu_s": tokens / cpu,
        }


def _engine(setting: Setting, name: str, pair: bool) -> Engine:
    options: dict[str, Any] = {"max_model_len": 1024, "kv_cache_gib": 4.0} if name == "vllm" else {}
    return open_engine(
        name,
        *((setting.first, setting.second) if pair else (setting.first,)),
        coefficients=[1.0 - ALPHA, ALPHA] if pair else None,
        dtype="bfloat16",
        batch_size=setting.sequences,
        threads=setting.threads,
        **options,
    )


def engine_speed(setting: Setting, name: str, pair: bool) -> Speed:
    """Tokens a second of one of this project's engines."""
    engine = _engine(setting, name, pair)
    prompts = setting.prompts()
    list(engine.generate(prompts[:2], Sampling(max_tokens=4, n=SAMPLES)))  # first-call costs
    clock = Clock()
    made = list(engine.generate(prompts, Sampling(max_tokens=setting.tokens, n=SAMPLES, seed=SEED)))
    found = clock.speed(sum(len(g.token_ids) for g in made))
    engine.close()
    return found


def plain_speed(setting: Setting, pair: bool) -> Speed:
    """The same of vLLM with its own sampler, norms, waiting, blocks and memory (see `vllm.cpu`)."""
    os.environ[ADAPT] = "0"
    return engine_speed(setting, "vllm", pair)


def sweep(setting: Setting) -> Speed:
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


def generate(setting: Setting) -> Speed:
    """transformers.generate in batches."""
    tokenizer = AutoTokenizer.from_pretrained(setting.first, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model: Any = AutoModelForCausalLM.from_pretrained(setting.first, dtype=torch.bfloat16)
    prompts = [prompt for prompt in setting.prompts() for _ in range(SAMPLES)]

    def batch(part: list[list[int]], new: int) -> torch.Tensor:
        inputs = tokenizer.pad({"input_ids": part}, return_tensors="pt")
        out = model.generate(**inputs, do_sample=True, top_k=0, max_new_tokens=new)
        return out[:, inputs["input_ids"].shape[1] :]

    batch(prompts[:8], 4)  # first-call costs
    torch.manual_seed(SEED)
    tokens, clock = 0, Clock()
    for begin in range(0, len(prompts), BATCH):
        ends = batch(prompts[begin : begin + BATCH], setting.tokens) == tokenizer.eos_token_id
        tokens += int((ends.cumsum(1) - ends.int() == 0).sum())  # up to the first end of text
    return clock.speed(tokens)


@torch.inference_mode()
def published(setting: Setting) -> Speed:
    """Two models, one prompt at a time, 8 samples that run until the last has ended."""
    models: list[Any] = [
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16)
        for path in (setting.first, setting.second)
    ]
    stop = models[0].generation_config.eos_token_id

    def samples(prompt: list[int], new: int) -> int:
        ids, tokens = torch.tensor([prompt] * SAMPLES), 0
        caches = [DynamicCache(config=model.config) for model in models]
        ended = torch.zeros(SAMPLES, dtype=torch.bool)
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

    prompts = setting.prompts()[:LOOP_PROBLEMS]
    samples(prompts[0], 4)  # first-call costs
    torch.manual_seed(SEED)
    clock = Clock()
    return clock.speed(sum(samples(prompt, setting.tokens) for prompt in prompts))


JOBS: dict[str, Callable[[Setting], Speed]] = {
    "plain-one": lambda s: plain_speed(s, pair=False),
    "plain-pair": lambda s: plain_speed(s, pair=True),
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
