"""The problems that a run is evaluated and probed on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.artifacts import hash_json
from pipeline.errors import PipelineError
from pipeline.stages import outside
from pipeline.stages.base import Context
from pipeline.tasks.task import TaskConfig, sharing_mark

if TYPE_CHECKING:
    from pipeline.inference.run import PromptItem
    from pipeline.tasks import Problem

_loaded: set[str] = set()  # what check_task has tried: several stages ask for the same problems
Sets = dict[tuple[str, str], list["Problem"]]  # problems by (task, split)


def has_split(task: TaskConfig, split: str) -> bool:
    """Whether the task holds problems back for `split`."""
    from pipeline.tasks import shares

    return task.kind != "none" and float(shares(task).get(split, 0)) > 0


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

    tasks.check_task(task)
    seed, fetch = context.config.seed, not context.config.dry_run
    for split, count in sets:
        key = hash_json([asdict(task), split, count, seed, fetch])
        if key not in _loaded:
            tasks.try_load(task, split, count, seed, fetch=fetch)
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
    tests = sharing_mark(config.task, config.eval_tasks.values())
    if not tests and has_split(config.task, "test"):
        tests = [config.task]
    sets += [(task, "test", evaluate.test_problems) for task in tests]
    if not sets:
        raise PipelineError(
            "evaluate needs problems: give a task (task=addition, task=math500, ...) or eval_tasks"
        )
    _check_names(task for task, _, _ in sets)
    return sets


def _check_names(tasks: Iterable[TaskConfig]) -> None:
    """Refuse two tasks of one name: rows name their task, and nothing else tells them apart."""
    known: dict[str, TaskConfig] = {}
    for task in tasks:
        if known.setdefault(task.name, task) != task:
            raise PipelineError(
                f"eval_tasks: two different tasks are named {task.name}; give one another name, "
                f"e.g. eval_tasks.KEY.name={task.name}_2"
            )


def load_sets(context: Context) -> Sets:
    """The problems of `evaluation_sets`, by (task, split)."""
    from pipeline.tasks import load_problems

    return {
        (task.name, split): load_problems(task, split, count, context.config.seed)
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
    if not quick(task):
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
    problems = load_problems(task, split, count, context.config.seed)
    return problems[: context.config.linear_probe.problems]
