"""Estimates of the stages that read checkpoints, sample and score, as a dry run prints them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import EngineConfig
from pipeline.estimates import memory
from pipeline.estimates.setting import WIDTHS, Setting, local_folder, setting_of
from pipeline.estimates.speed import TEXT, decoding_seconds, pass_flops
from pipeline.estimates.training import UNKNOWN
from pipeline.estimates.words import duration, lines, number, size
from pipeline.estimates.words import memory as memory_line
from pipeline.evaluation import controls
from pipeline.subject.found import Subject
from pipeline.subject.problem_sets import ProblemSet

REPORTED = 3  # models that the sharpening control samples: start, end and what was chosen


@dataclass(frozen=True)
class Work:
    """Responses that a stage draws: from each of `models`, so many `rows` of at most `response`
    tokens to prompts of at most `prompt`; `unknown`: what it counts without."""

    models: int
    rows: float
    prompt: int
    response: int
    unknown: str = ""


def snapshot(subject: Subject) -> str:
    """Disk and time of recording checkpoints; "" but in a dry run."""
    if not subject.config.dry_run:
        return ""
    setting, exported = _setting(subject), len(subject.config.snapshot.export)
    read = _checkpoints(subject, setting)
    if read is None:
        return ""
    written = exported * (setting.parameters or 0) * 4
    seconds = (read + written) / setting.sampling.disk
    disk = f"disk: {exported} exported, up to {size(written)}" if exported else "disk: some kB"
    return lines(f"memory: a tensor at a time; no tokens; {disk}", _disk_time(seconds, read))


def weight_extrap(subject: Subject, methods: int) -> str:
    """Disk and time of predicting weights by so many methods; "" but in a dry run."""
    if not subject.config.dry_run:
        return ""
    setting, extrap = _setting(subject), subject.config.weight_extrap
    read = _checkpoints(subject, setting)
    if read is None or setting.parameters is None:
        return ""
    width, targets = WIDTHS[extrap.dtype], len(extrap.targets or extrap.alphas)
    written = setting.parameters * width * targets * methods * extrap.write
    seconds = (read + written) / setting.sampling.disk
    disk = f"disk: {size(written)}" if extrap.write else "disk: some kB"
    return lines(
        f"memory: a tensor of every checkpoint at a time; no tokens; {disk}",
        _disk_time(seconds, read),
    )


def linear_probe(subject: Subject, probed: ProblemSet | None) -> str:
    """Memory, disk, tokens and time of the probes; "" but in a dry run."""
    if not subject.config.dry_run:
        return ""
    setting, probe = _setting(subject), subject.config.linear_probe
    read = _checkpoints(subject, setting)
    if setting.parameters is None or read is None:
        return lines(UNKNOWN)
    if probed is None:
        return lines(
            "memory: a tensor of every checkpoint at a time; no tokens",
            _disk_time(read / setting.sampling.disk, read),
        )
    prompt = probed.task.max_prompt_tokens
    work = Work(1, probe.problems * probe.responses_per_problem, prompt, probe.max_response_tokens)
    steps = len(subject.steps or [])
    kept = min(probe.max_tokens, work.rows * work.response)
    rows = kept / work.response
    scored = steps * pass_flops(
        setting.parameters, setting.shape, kept + rows * prompt, prompt + work.response
    )
    more = scored / (setting.sampling.flops * setting.engines) + read / setting.sampling.disk
    states = 8 * setting.parameters  # the base model twice in fp32
    texts = _sampled(subject, setting, work, more)
    if probe.activations:
        texts.insert(1, f"memory, hidden states: {size(states)}, two models in fp32")
    texts[-1] += f"; {number(kept)} tokens scored under {steps} checkpoints"
    return lines(*texts)


def logit_extrap(subject: Subject) -> str:
    """Memory, disk, tokens and time of sampling mixtures; "" but in a dry run."""
    if not subject.config.dry_run:
        return ""
    setting = _setting(subject)
    if setting.parameters is None:
        return lines(UNKNOWN)
    work = _evaluated(subject, len(subject.config.logit_extrap.alphas))
    return lines(*_sampled(subject, setting, work, 0.0, members=2))


def evaluate(subject: Subject) -> str:
    """Memory, disk, tokens and time of the evaluation; "" but in a dry run."""
    if not subject.config.dry_run:
        return ""
    setting, config = _setting(subject), subject.config
    if setting.parameters is None:
        return lines(UNKNOWN)
    steps, chosen = subject.steps or [], config.evaluate.checkpoints
    models = len(steps if chosen is None else {*chosen, *steps[:1], *steps[-1:]})
    if "weight_extrap" in config.stages:
        extrap = config.weight_extrap
        models += len(extrap.targets or extrap.alphas) * len(subject.methods)
    models += len(config.evaluate.models or {})
    work = _evaluated(subject, models)
    loaded = models * setting.parameters * WIDTHS[config.model.dtype] / setting.sampling.disk
    return lines(*_sampled(subject, setting, work, loaded))


def report(subject: Subject) -> str:
    """There is no model in it."""
    if not subject.config.dry_run:
        return ""
    return lines("memory, disk: some MB; no tokens; time: seconds")


def _setting(subject: Subject) -> Setting:
    """With the shape of the given checkpoints, where there are some."""
    config = subject.config
    given: Path | None = None
    if subject.given is not None:
        given = subject.given.base.folder
    made = subject.stage_dir("sft_train") / "model"
    return setting_of(config, given or local_folder(config, made))


def _checkpoints(subject: Subject, setting: Setting) -> float | None:
    """Bytes of all checkpoints of the trajectory; None where nobody knows them yet."""
    if subject.given is not None:
        return float(sum(f.nbytes for c in subject.given.checkpoints.values() for f in c.files))
    if setting.parameters is None or subject.steps is None:
        return None
    width = 4 if subject.config.rl_train.snapshot_dtype.endswith("float32") else 2
    return setting.parameters * width * len(subject.steps)


def _disk_time(seconds: float, read: float) -> str:
    return f"time: {duration(seconds)} at the disk's speed, {size(read)} read"


def _evaluated(subject: Subject, models: int) -> Work:
    """What each of `models` answers in an evaluation, with the sharpening control's part."""
    evaluate, sets = subject.config.evaluate, subject.sets
    counts = [_count(each, subject.config.seed) for each in sets]
    problems = sum(count or 0 for count in counts)
    rows = float(problems * evaluate.samples_per_problem)
    if controls.wanted(evaluate) and models:
        cooler = len(controls.temperatures(evaluate)) - 1
        rows += problems * (1 + cooler * evaluate.control_samples) * REPORTED / models
    counted = zip(sets, counts, strict=True)
    unknown = [f"{each.task.name} {each.split}" for each, count in counted if count is None]
    words = f"; without {', '.join(unknown)}, whose size is known when loaded" if unknown else ""
    prompt = max(each.task.max_prompt_tokens for each in sets)
    return Work(models, rows, prompt, evaluate.max_tokens, words)


def _count(wanted: ProblemSet, seed: int) -> int | None:
    """Problems of a set; None where all of a data set that is not at hand are wanted."""
    from pipeline import tasks

    if wanted.limit is not None or not tasks.quick(wanted.task):
        return wanted.limit
    return len(tasks.load_problems(wanted.task, wanted.split, None, seed))


def _sampled(
    subject: Subject, setting: Setting, work: Work, more: float, members: int = 1
) -> list[str]:
    """Lines for memory, disk, tokens and time of drawing `work`.

    Args:
        more: seconds beside the sampling.
        members: models in one engine.
    """
    config, shape, engines = subject.config, setting.shape, setting.engines
    assert setting.parameters is not None
    width, engine = WIDTHS[config.model.dtype], config.engine
    weights = members * setting.parameters
    length = work.prompt + work.response
    parts, at_once = _engine_memory(setting, engine, weights, members, length, width)
    row_share = (work.rows / engines, at_once, float(work.prompt), float(work.response))
    seconds = work.models * decoding_seconds(weights, shape, row_share, width, setting.sampling)
    tokens = work.models * work.rows * work.response
    models = "1 model" if work.models == 1 else f"{work.models} models"
    texts: Iterable[str] = (
        memory_line(f"{at_once} sequences at once", parts, setting.memory),
        f"disk: at most {size(tokens * TEXT)} of responses",
        f"tokens: at most {number(tokens)} from {models}{work.unknown}",
        f"time on {engines} x {setting.device}: at most {duration(seconds + more)} and the start",
    )
    return list(texts)


def _engine_memory(
    setting: Setting, engine: EngineConfig, weights: float, members: int, length: int, width: int
) -> tuple[dict[str, float], int]:
    """Bytes a device by part, and how many sequences of full length are drawn at once."""
    parts = memory.sampling(weights, None, 0, 0, width)
    cache = members * setting.shape.cache_bytes(width) if setting.shape is not None else 0
    if engine.name == "hf":
        parts["KV cache"] = float(engine.batch_size * length * cache)
        return parts, engine.batch_size
    parts["parameters"] /= engine.tensor_parallel
    pool = engine.kv_cache_gib * 2**30
    if setting.memory is not None:
        pool = max(0.0, engine.gpu_memory_utilization * setting.memory - parts["parameters"])
    parts["KV cache"] = pool
    room = engine.tensor_parallel * pool / (length * cache) if cache else engine.batch_size
    return parts, max(1, min(engine.batch_size, int(room)))
