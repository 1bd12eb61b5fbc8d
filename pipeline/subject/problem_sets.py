"""Which problems a run is evaluated and probed on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from pipeline.config import PipelineConfig
from pipeline.errors import PipelineError
from pipeline.tasks.task import TaskConfig, sharing_mark


class ProblemSet(NamedTuple):
    """Problems of one split of a task; limit None: all that it has."""

    task: TaskConfig
    split: str
    limit: int | None


def has_split(task: TaskConfig, split: str) -> bool:
    """Whether the task holds problems back for `split`."""
    from pipeline.tasks import shares

    return task.kind != "none" and float(shares(task).get(split, 0)) > 0


def evaluation_sets(config: PipelineConfig) -> list[ProblemSet]:
    """All that is evaluated.

    Choices are made on the training task's validation split; reports are on the test splits. It is
    one model that thinks, so the tasks share the mark that ends its thought. A task under two keys
    is one.

    Raises:
        PipelineError: there are none, or two different tasks have one name.
    """
    evaluate = config.evaluate
    sets: list[ProblemSet] = []
    if has_split(config.task, "validation"):
        sets.append(ProblemSet(config.task, "validation", evaluate.validation_problems))
    tests = sharing_mark(config.task, config.eval_tasks.values())
    if not tests and has_split(config.task, "test"):
        tests = [config.task]
    for task in tests:
        wanted = ProblemSet(task, "test", evaluate.test_problems)
        sets += [wanted] if wanted not in sets else []
    if not sets:
        raise PipelineError(
            "evaluate needs problems: give a task (task=addition, task=math500, ...) or eval_tasks"
        )
    _check_names(each.task for each in sets)
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


def probe_set(config: PipelineConfig) -> ProblemSet | None:
    """What linear_probe draws responses to: validation, else test; None without a task."""
    task, evaluate = config.task, config.evaluate
    if has_split(task, "validation"):
        return ProblemSet(task, "validation", evaluate.validation_problems)
    return ProblemSet(task, "test", evaluate.test_problems) if has_split(task, "test") else None
