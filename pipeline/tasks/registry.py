"""The front door of the tasks: load problems, check them early, grade responses.

A task is one value, `TaskConfig`, as its file in `conf/task/` gives it. The grader of evaluation
and the reward of training are the same function.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pipeline.errors import PipelineError
from pipeline.tasks import (
    arithmetic,
    differences,
    gym,
    humaneval,
    ifeval,
    livecodebench,
    maths,
    mbpp,
)
from pipeline.tasks.kind import Done, Kind, Pairs
from pipeline.tasks.problem import Grade, Problem, Request, after_thought
from pipeline.tasks.rows import local_file
from pipeline.tasks.sandbox import check_mode
from pipeline.tasks.splits import check_shares
from pipeline.tasks.task import TaskConfig

QUICK = 64 * 2**20  # bytes of a data file that is read in a moment

KINDS: dict[str, Kind] = {
    "addition": arithmetic.ADDITION,
    "arithmetic": arithmetic.ARITHMETIC,
    "differences": differences.KIND,
    "math": maths.KIND,
    "reasoning_gym": gym.KIND,
    "humaneval": humaneval.KIND,
    "ifeval": ifeval.KIND,
    "mbpp": mbpp.KIND,
    "livecodebench": livecodebench.KIND,
}


def parse(task: TaskConfig) -> tuple[Kind, Any]:
    """The task's kind and options; raises for what is wrong with any of its values."""
    if task.kind not in KINDS:
        raise PipelineError(
            f"task {task.name}: unknown kind {task.kind!r}; known: {', '.join(KINDS)}"
        )
    task.check()
    kind = KINDS[task.kind]
    return kind, kind.options(task)


def shares(task: TaskConfig) -> Mapping[str, float]:
    """{split: share of the problems}; the kind's own where the options say nothing.

    Raises:
        PipelineError: an unknown kind or option.
    """
    _, options = parse(task)
    found: Mapping[str, float] = options.splits
    return found


def check_task(task: TaskConfig) -> None:
    """Find what can be found wrong with a task without loading it.

    Raises:
        PipelineError: unknown kind or option, shares that do not sum to 1, a local file that is
            not there, a package or the sandbox missing.
    """
    kind, options = _parse_source(task)
    check_shares(task, options.splits)
    if hasattr(options, "sandbox"):
        check_mode(task.name, options.sandbox)
    if kind.check is not None:
        kind.check(task, options)
    local_file(task)


def _parse_source(task: TaskConfig) -> tuple[Kind, Any]:
    """`parse` of a task whose problems will be loaded: with its data set, if the kind needs one."""
    kind, options = parse(task)
    if kind.example.record is not None:
        _ = task.source
    return kind, options


def try_load(
    task: TaskConfig, split: str, count: int | None, seed: int, *, fetch: bool = False
) -> None:
    """Load problems and drop them again, where that is cheap; arguments of load_problems.

    A large file is not read; of an endless kind one problem is made.

    Args:
        fetch: get data sets from the hub now (its cache then has them), but for large ones.

    Raises:
        PipelineError: as load_problems.
    """
    kind, _ = parse(task)
    if task.dataset is not None:
        file = local_file(task)
        cheap = fetch and not kind.large if file is None else file.stat().st_size <= QUICK
        if not cheap:
            return
    if kind.endless and count is not None:
        count = min(count, 1)
    load_problems(task, split, count, seed)


def quick(task: TaskConfig) -> bool:
    """Whether all of a task's problems are loaded in a moment."""
    file = local_file(task)
    here = task.dataset is None or (file is not None and file.stat().st_size <= QUICK)
    kind, _ = parse(task)
    return here and not kind.endless


def load_problems(task: TaskConfig, split: str, count: int | None, seed: int) -> list[Problem]:
    """Problems of one split, the same for the same arguments in every process.

    Args:
        task: its name is stored with every generation.
        split: train, validation, test, ...: disjoint whatever `seed` and `count` are (splits.py).
        count: how many; None for all of a finite split. With the same seed a smaller count of a
            generated task is a prefix of a larger one.
        seed: which problems, and their order; not which split a problem is in.

    Raises:
        PipelineError: unknown kind, option, split or column; missing file; too few problems, or
            none at all.
    """
    kind, options = _parse_source(task)
    problems = kind.load(Request(task, split, count, seed), options)
    if not problems:
        raise PipelineError(
            f"task {task.name}: its {split} split has no problems; give it a larger share in "
            "options.splits, or a data set with more rows"
        )
    return [replace(problem, task=task.name) for problem in problems]


def grade_many(task: TaskConfig, pairs: Pairs, *, done: Done = None) -> list[Grade]:
    """Grade (problem, response) pairs of one task, in parallel where the kind needs processes.

    Where the task has a mark (grade_after), only what follows it is graded.

    Args:
        done: called once a response or so as grading proceeds (progress).
    """
    if not pairs:
        return []
    kind, options = parse(task)
    answers = [after_thought(text, task.grade_after) for _, text in pairs]
    finished = [(p, a) for (p, _), a in zip(pairs, answers, strict=True) if a is not None]
    graded = iter(kind.grade(task, finished, options, done) if finished else [])
    if done is not None:
        for _ in range(len(pairs) - len(finished)):
            done()
    return [Grade(False, "no_answer") if answer is None else next(graded) for answer in answers]


def grade(task: TaskConfig, problem: Problem, text: str) -> Grade:
    """Grade one response."""
    return grade_many(task, [(problem, text)])[0]
