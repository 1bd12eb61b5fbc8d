"""The problems a run samples on, and the engines it samples with."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import TaskConfig
from pipeline.errors import PipelineError
from pipeline.stages.base import Context

if TYPE_CHECKING:
    from pipeline.inference.engine import Engine, Sampling
    from pipeline.inference.run import PromptItem
    from pipeline.stages.candidates import Candidate
    from pipeline.tasks import Problem


def task_arguments(task: TaskConfig) -> dict[str, Any]:
    """A task's values as keyword arguments of `pipeline.tasks.load_problems`."""
    return {
        "kind": task.kind,
        "dataset": asdict(task.dataset) if task.dataset is not None else None,
        "prompt_suffix": task.prompt_suffix,
        **task.options,
    }


def has_split(task: TaskConfig, split: str) -> bool:
    """Whether the task holds problems back for `split` (no word on splits: it has all three)."""
    splits = task.options.get("splits")
    return task.kind != "none" and (splits is None or float(splits.get(split, 0)) > 0)


def check_task(task: TaskConfig) -> None:
    """Find what can be found wrong with a task without loading it.

    Raises:
        PipelineError: an unknown kind or option, a local data file or a package that is not there.
    """
    from pipeline import tasks

    tasks.check_task(task.name, **task_arguments(task))


def evaluation_sets(context: Context) -> list[tuple[TaskConfig, str, int | None]]:
    """(task, split, count) of all that is evaluated.

    Choices are made on the training task's validation split; reports are on the test splits.
    """
    config = context.config
    evaluate = config.evaluate
    sets: list[tuple[TaskConfig, str, int | None]] = []
    if has_split(config.task, "validation"):
        sets.append((config.task, "validation", evaluate.validation_problems))
    tests = list(config.eval_tasks.values())
    if not tests and has_split(config.task, "test"):
        tests = [config.task]
    sets += [(task, "test", evaluate.test_problems) for task in tests]
    if not sets:
        raise PipelineError(
            "evaluate needs problems: give a task (task=addition, task=math500, ...) or eval_tasks"
        )
    return sets


def load_sets(context: Context) -> dict[tuple[str, str], list[Problem]]:
    """The problems of `evaluation_sets`, by (task, split)."""
    from pipeline.tasks import load_problems

    return {
        (task.name, split): load_problems(
            task.name, split, count, context.config.seed, **task_arguments(task)
        )
        for task, split, count in evaluation_sets(context)
    }


def encode(tokenizer: Any, problems: Sequence[Problem], split: str, limit: int) -> list[PromptItem]:
    """Problems as token ids.

    Raises:
        PipelineError: a prompt is longer than the task's max_prompt_tokens.
    """
    from pipeline.inference.run import PromptItem
    from pipeline.tasks import encode_prompt

    items = []
    for problem in problems:
        ids = tuple(encode_prompt(tokenizer, problem))
        if len(ids) > limit:
            raise PipelineError(
                f"task {problem.task}: problem {problem.id} has {len(ids)} tokens; "
                f"raise task.max_prompt_tokens ({limit})"
            )
        items.append(PromptItem(problem.task, split, problem.id, ids))
    return items


def probe_split(context: Context) -> str | None:
    """The split whose problems are probed: validation, else test; None without a task."""
    for split in ("validation", "test"):
        if has_split(context.config.task, split):
            return split
    return None


def probe_prompts(context: Context, tokenizer: Any, split: str) -> list[PromptItem]:
    """The problems that linear_probe draws responses to: the first that evaluate uses."""
    from pipeline.tasks import load_problems

    evaluate, task = context.config.evaluate, context.config.task
    count = evaluate.validation_problems if split == "validation" else evaluate.test_problems
    problems = load_problems(task.name, split, count, context.config.seed, **task_arguments(task))
    problems = problems[: context.config.linear_probe.problems]
    return encode(tokenizer, problems, split, task.max_prompt_tokens)


def encode_sets(
    context: Context, tokenizer: Any, sets: dict[tuple[str, str], list[Problem]]
) -> list[PromptItem]:
    """All problems of all sets as prompts."""
    items: list[PromptItem] = []
    for task, split, _ in evaluation_sets(context):
        problems = sets[task.name, split]
        items += encode(tokenizer, problems, split, task.max_prompt_tokens)
    return items


def sampling(context: Context) -> Sampling:
    """How evaluation draws its responses."""
    from pipeline.inference.engine import Sampling

    evaluate = context.config.evaluate
    return Sampling(
        temperature=evaluate.temperature,
        top_p=evaluate.top_p,
        max_tokens=evaluate.max_tokens,
        n=evaluate.samples_per_problem,
        seed=context.config.seed,
    )


def engine_arguments(context: Context, model: Path, second: Path | None = None) -> dict[str, Any]:
    """The configured engine on a checkpoint, or on the two of a mixture: for `open_engine`."""
    engine, config = context.config.engine, context.config
    arguments: dict[str, Any] = {
        "name": engine.name,
        "model": str(model),
        "second": None if second is None else str(second),
        "dtype": config.model.dtype,
        "batch_size": engine.batch_size,
        "seed": config.seed,
    }
    if engine.name == "vllm":
        arguments |= {
            "tensor_parallel": engine.tensor_parallel,
            "gpu_memory_utilization": engine.gpu_memory_utilization,
            "max_model_len": engine.max_model_len,
            "enforce_eager": engine.enforce_eager,
            "kv_cache_gib": engine.kv_cache_gib,
        }
    return arguments


def start_engine(context: Context, model: Path) -> Engine:
    """The configured engine on a checkpoint, in this process."""
    from pipeline.inference.engine import open_engine

    arguments = engine_arguments(context, model)
    name = arguments.pop("name")
    del arguments["model"], arguments["second"]
    return open_engine(name, model, **arguments)


def sample(
    context: Context, path: Path, candidates: Sequence[Candidate], engine: dict[str, Any]
) -> int:
    """Append what `path` lacks of all candidates' responses; returns the rows added.

    Args:
        candidates: models of one engine: their weights are exchanged in place, or their alpha set.
        engine: from `engine_arguments`; `engine.replicas` of them share the problems.
    """
    from transformers import AutoTokenizer

    from pipeline.inference.parallel import Job, Work, run_local

    tokenizer = AutoTokenizer.from_pretrained(engine["model"], local_files_only=True)
    jobs = [
        Job(
            source=candidate.source,
            model=candidate.name,
            kind=candidate.kind,
            fingerprint=candidate.fingerprint,
            extra=candidate.extra,
            alpha=candidate.extra["alpha"] if candidate.source is None else None,
        )
        for candidate in candidates
    ]
    items = encode_sets(context, tokenizer, load_sets(context))
    work = Work(engine, jobs, items, sampling(context), path)
    return run_local(work, context.config.engine.replicas)


def check_engine(context: Context) -> str:
    """The engine in words.

    Raises:
        PipelineError: vLLM is asked for and not installed.
    """
    name = context.config.engine.name
    if name == "vllm" and importlib.util.find_spec("vllm") is None:
        raise PipelineError(
            "engine=vllm: vLLM is not installed; pip install vllm==0.31.0 (CPU: make setup), "
            "or use engine=hf"
        )
    replicas = context.config.engine.replicas
    return f"{name} engine" if replicas == 1 else f"{replicas} {name} engines"
