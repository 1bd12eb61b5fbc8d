"""What a kind of task consists of: options, an example, a loader and a grader.

The module of a kind holds all of it together, as `KIND`; registry.py collects them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_type_hints

from pipeline.errors import PipelineError
from pipeline.fields import check_fields
from pipeline.tasks.problem import Grade, Problem, Request
from pipeline.tasks.task import TaskConfig

Pairs = Sequence[tuple[Problem, str]]  # problems, each with a response
Done = Callable[[], object] | None  # called once a response or so while grading


@dataclass(frozen=True)
class Example:
    """One problem of a kind from beginning to end.

    prompt: what is asked (the user's turn, if it is a chat); right, wrong: responses with the
    rewards 1.0 and 0.0. record: a row of the data set; None for a kind that makes its problems, of
    which this is one with these options.
    """

    prompt: str
    right: str
    wrong: str
    record: Mapping[str, Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Kind:
    """A way to load and grade; `schema` is the dataclass of its options.

    check: finds what is wrong with the options of a task without loading it.
    """

    schema: type[Any]
    load: Callable[[Request, Any], list[Problem]]
    grade: Callable[[TaskConfig, Pairs, Any, Done], list[Grade]]
    example: Example
    check: Callable[[TaskConfig, Any], object] | None = None
    endless: bool = False  # makes as many problems as are asked for, which may take its time
    large: bool = False  # gigabytes to fetch

    def options(self, task: TaskConfig) -> Any:
        """The task's free options as the dataclass `schema`; a key it does not know is an error."""
        known = [option.name for option in dataclasses.fields(self.schema)]
        unknown = sorted(set(task.options) - set(known))
        if unknown:
            raise PipelineError(
                f"task {task.name}: unknown option {unknown[0]!r}; "
                f"known options: {', '.join(known)}"
            )
        check_fields(f"task {task.name}: options", task.options, get_type_hints(self.schema))
        return self.schema(**task.options)


def one_by_one(
    grade_one: Callable[[Problem, str], Grade],
) -> Callable[[TaskConfig, Pairs, Any, Done], list[Grade]]:
    """The grader of a kind that decides at once."""

    def grade(task: TaskConfig, pairs: Pairs, options: Any, done: Done) -> list[Grade]:
        grades = []
        for problem, text in pairs:
            grades.append(grade_one(problem, text))
            if done is not None:
                done()
        return grades

    return grade
