"""The problems that a run is evaluated and probed on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.artifacts import hash_json
from pipeline.config import TaskConfig
from pipeline.errors import PipelineError
from pipeline.fields import check_fields
from pipeline.stages import outside
from pipeline.stages.base import Context

if TYPE_CHECKING:
    from pipeline.inference.run import PromptItem
    from pipeline.tasks import Problem

_loaded: set[str] = set()  # what check_task has tried: several stages ask for the same problems
Sets = dict[tuple[str, str], list["Problem"]]  # problems by (task, split)


def task_arguments(task: TaskConfig) -> dict[str, Any]:
    """A task's values as keyword arguments of `pipeline.tasks.load_problems`."""
    return {
        "kind": task.kind,
        "dataset": asdict(task.dataset) if task.dataset is not None else None,
        "prompt_template": task.prompt_template,
        "system_prompt": task.system_prompt,
        "grade_after": task.grade_after,
        **task.options,
    }


def has_split(task: TaskConfig, split: str) -> bool:
    """Whether the task holds problems back for `split` (no word on splits: it has all three)."""
    splits = task.options.get("splits")
    if splits is None or task.kind == "none":
        return task.kind != "none"
    check_fields(f"task {task.name}: options", task.options, {"splits": dict[str, float]})
    return float(splits.get(split, 0)) > 0


def check_task(context: Context, task: TaskConfig, *sets: tuple[str, int | None]) -> None:
    """Find what can be found wrong with a task before anything starts.

    Unless this is a dry run, small data sets are fetched from the hub for that.

    Args:
        sets: (split, how many problems) that will be wanted.

    Raises:
        PipelineError: an unknown kind or option, a package that is not there, a data file that is
            missing or broken, has other columns or too few problems; a hub that does not answer.
    """
    from pipeline import tasks

    arguments = task_arguments(task)
    tasks.check_task(task.name, **arguments)
    seed, fetch = context.config.seed, not context.config.dry_run
    for split, count in sets:
        key = hash_json([task.name, split, count, seed, fetch, arguments])
        if key not in _loaded:
            tasks.try_load(task.name, split, count, seed, fetch=fetch, **arguments)
            _loaded.add(key)


def evaluation_sets(context: Context) -> list[tuple[TaskConfig, str, int | None]]:
    """(task, split, count) of all that is evaluated.

    Choices are made on the training task's validation split; reports are on the test splits. It is
    one model that thinks, so the tasks share the mark that ends its thought.
    """
    config = context.config
    evaluate = config.evaluate
    sets: list[tuple[TaskConfig, str, int | None]] = []
    if has_split(config.task, "validation"):
        sets.append((config.task, "validation", evaluate.validation_problems))
    tests = [
        replace(task, grade_after=task.grade_after or config.task.grade_after)
        for task in config.eval_tasks.values()
    ]
    if not tests and has_split(config.task, "test"):
        tests = [config.task]
    sets += [(task, "test", evaluate.test_problems) for task in tests]
    if not sets:
        raise PipelineError(
            "evaluate needs problems: give a task (task=addition, task=math500, ...) or eval_tasks"
        )
    return sets


def load_sets(context: Context) -> Sets:
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


def encode_sets(context: Context, model: Path, sets: Sets) -> list[PromptItem]:
    """All problems of all sets as prompts, the same for every model.

    Args:
        model: the folder of the run's base model, whose tokenizer and chat template are used.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    items: list[PromptItem] = []
    for task, split, _ in evaluation_sets(context):
        problems = sets[task.name, split]
        items += encode(tokenizer, problems, split, task.max_prompt_tokens)
    return items


def probe_set(context: Context) -> tuple[str, int | None] | None:
    """(split, count) of what is probed: validation, else test; None without a task."""
    task, evaluate = context.config.task, context.config.evaluate
    if has_split(task, "validation"):
        return "validation", evaluate.validation_problems
    return ("test", evaluate.test_problems) if has_split(task, "test") else None


def probed(context: Context) -> Any:
    """What stands for the problems of linear_probe: a hash of them, as they are posed.

    Where they are dear to load (the hub, an endless generator, a large file), what decides them.
    """
    found = probe_set(context)
    if found is None:
        return None
    from pipeline.tasks import quick

    task, (split, count) = context.config.task, found
    if not quick(task.name, **task_arguments(task)):
        return [split, count, outside.task_data(context, [task])]
    texts = [[p.id, p.prompt] for p in _probe_problems(context, split, count)]
    return hash_json(texts)


def probe_prompts(
    context: Context, tokenizer: Any, split: str, count: int | None
) -> list[PromptItem]:
    """The problems that linear_probe draws responses to, encoded."""
    problems = _probe_problems(context, split, count)
    return encode(tokenizer, problems, split, context.config.task.max_prompt_tokens)


def _probe_problems(context: Context, split: str, count: int | None) -> list[Problem]:
    """The first problems of `probe_set`."""
    from pipeline.tasks import load_problems

    task = context.config.task
    problems = load_problems(task.name, split, count, context.config.seed, **task_arguments(task))
    return problems[: context.config.linear_probe.problems]
