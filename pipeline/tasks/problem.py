"""What every task is made of: a problem with a checkable answer, and the grade of one response."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.tasks.task import Message, TaskConfig

Status = Literal["ok", "no_answer", "timeout", "no_reference"]


@dataclass(frozen=True)
class Problem:
    """One problem of a task.

    id: unique within (task, split), the same in every run; answer: the reference, as text;
    meta: whatever the grader needs besides (JSON values only); task: its name;
    lesson: the response that supervised training shows; None for the bare answer.
    """

    id: str
    prompt: list[Message] | str
    answer: str
    split: str
    meta: Mapping[str, Any] = field(default_factory=dict)
    task: str = ""
    lesson: str | None = None


@dataclass(frozen=True)
class Grade:
    """The verdict on one response.

    status "no_answer": nothing to grade was found in the response; "timeout": the grader was
    killed at its time limit or died; "no_reference": the problem's reference answer cannot be read.
    All count as wrong but are reported apart. prediction: the extracted answer, for votes (maj@k).
    """

    correct: bool
    status: Status
    prediction: str | None = None

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Request:
    """Which problems of a task are wanted: the arguments of registry.load_problems."""

    task: TaskConfig
    split: str
    count: int | None
    seed: int


def after_thought(text: str, mark: str | None) -> str | None:
    """What follows the last `mark`; None if the thought that it ends is not finished.

    Args:
        mark: for instance </think>; a <think> after the last one opens another thought. None: the
            whole text counts.
    """
    if mark is None:
        return text
    _, found, rest = text.rpartition(mark)
    opening = mark.replace("</", "<", 1)
    return rest if found and (opening == mark or opening not in rest) else None
