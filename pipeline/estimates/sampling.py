"""Estimates of the stages that read checkpoints, sample and score, as a dry run prints them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import EngineConfig, ModelConfig
from pipeline.estimates.setting import WIDTHS, Setting, local_folder, parts, setting_of
from pipeline.estimates.shape import Shape, shape_of
from pipeline.estimates.speed import TEXT, Read, decoding_seconds, pass_flops
from pipeline.estimates.training import UNKNOWN
from pipeline.estimates.words import duration, lines, number, size
from pipeline.estimates.words import memory as memory_line
from pipeline.evaluation import controls
from pipeline.evaluation.members import step_of
from pipeline.subject.found import Subject
from pipeline.subject.problem_sets import ProblemSet

Model = tuple[float, Shape | None]  # parameters, and shape where it is known
# problems of data sets on the hub, in the revisions of conf/task, that are evaluated whole
SIZES = {
    "HuggingFaceH4/MATH-500": 500,
    "HuggingFaceH4/aime_2024": 30,
    "math-ai/aime25": 30,
    "openai/openai_humaneval": 164,
}
TIGHT = "no room for one sequence at its limit (raise engine.tensor_parallel)"
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


def hidden_states(subject: Subject) -> float | None:
    """Bytes that the probe of hidden states needs on its device, at its end: the base model and the
    last checkpoint in fp32. None where the model's size is not known."""
    parameters = _setting(subject).parameters
    return None if parameters is None else 8 * parameters


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
    texts = _sampled(subject, setting, work, more, jobs=1)
    if probe.activations and (states := hidden_states(subject)):
        texts.insert(1, f"memory, hidden states: {size(states)}, two models in fp32")
    texts[-1] += f"; {number(kept)} tokens scored under {steps} checkpoints"
    return lines(*texts)


def logit_extrap(subject: Subject) -> str:
    """Memory, disk, tokens and time of sampling mixtures, of two checkpoints and of the user's
    members; "" but in a dry run."""
    if not subject.config.dry_run:
        return ""
    setting, logit = _setting(subject), subject.config.logit_extrap
    if setting.parameters is None:
        return lines(UNKNOWN)
    texts, own = [], (setting.parameters, setting.shape)
    if logit.alphas:
        work = _evaluated(subject, len(logit.alphas))
        texts += _sampled(subject, setting, work, 0.0, [own, own])
    if logit.members:
        found, unknown = _members(subject, own)
        if unknown:
            texts.append(f"the members' mixture: without {unknown}, whose size is not known here")
        else:
            texts.append(f"the mixture of {len(found)} members:")
            texts += _sampled(subject, setting, _evaluated(subject, 1), 0.0, found)
    return lines(*texts)


def _members(subject: Subject, own: Model) -> tuple[list[Model], str]:
    """The members' sizes, and which of them nobody knows before they are fetched."""
    found, unknown = [], []
    for member in subject.config.logit_extrap.members:
        folder = Path(member.model)
        shape = shape_of(ModelConfig(name=member.model), folder)
        if step_of(member.model) is not None:
            found.append(own)
        elif shape is not None:
            found.append((float(shape.parameters), shape))
        else:
            unknown.append(member.model)
    return found, ", ".join(unknown)


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
    if subject.given is not None:
        return setting_of(subject.config, subject.given.base.folder)
    return setting_of(subject.config, local_folder(subject))


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

    if wanted.limit is not None:
        return wanted.limit
    if not tasks.quick(wanted.task):
        whole = wanted.task.options.get("splits") == {wanted.split: 1.0}
        return SIZES.get(wanted.task.source.path) if whole else None
    return len(tasks.load_problems(wanted.task, wanted.split, None, seed))


def _sampled(
    subject: Subject,
    setting: Setting,
    work: Work,
    more: float,
    models: Sequence[Model] | None = None,
    jobs: int | None = None,
) -> list[str]:
    """Lines for memory, disk, tokens and time of drawing `work`.

    Args:
        more: seconds beside the sampling.
        models: in one engine; None: the run's, alone.
        jobs: that the work is dealt over; None: as submit.sh does.
    """
    config = subject.config
    engines = setting.engines * (parts(config) if jobs is None else jobs)
    assert setting.parameters is not None
    width, engine = WIDTHS[config.model.dtype], config.engine
    read = Read.of(models or [(setting.parameters, setting.shape)], width)
    held, at_once = _engine_memory(setting, engine, read, work.prompt + work.response)
    row_share = (work.rows / engines, max(1, at_once), float(work.prompt), float(work.response))
    ways = engine.tensor_parallel if engine.name == "vllm" else 1
    seconds = work.models * decoding_seconds(read, row_share, setting.sampling.times(ways))
    tokens = work.models * work.rows * work.response
    drawn = "1 model" if work.models == 1 else f"{work.models} models"
    room = f"{at_once} sequences at once" if at_once else TIGHT
    return [
        memory_line(room, held, setting.memory),
        f"disk: at most {size(tokens * TEXT)} of responses",
        f"tokens: at most {number(tokens)} from {drawn}{work.unknown}",
        f"time on {engines * ways} x {setting.device}: at most {duration(seconds + more)} and the "
        "start",
    ]


def _engine_memory(
    setting: Setting, engine: EngineConfig, read: Read, length: int
) -> tuple[dict[str, float], int]:
    """Bytes a device by part, and how many sequences of full length are drawn at once: 0 where not
    even one has room in vLLM's cache, which then stands for that one."""
    parts = {"parameters": read.weights, "KV cache": 0.0}
    if engine.name == "hf":
        parts["KV cache"] = engine.batch_size * length * read.cache
        return parts, engine.batch_size
    parts["parameters"] /= engine.tensor_parallel
    pool = engine.kv_cache_gib * 2**30
    if setting.memory is not None:
        pool = max(0.0, engine.gpu_memory_utilization * setting.memory - parts["parameters"])
    one = length * read.cache / engine.tensor_parallel
    parts["KV cache"] = max(pool, one)
    return parts, min(engine.batch_size, int(pool / one) if one else engine.batch_size)
