"""What every task is made of: a problem with a checkable answer, and the grade of one response."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_type_hints

from pipeline.errors import PipelineError
from pipeline.fields import check_fields

PROBLEM = "{problem}"  # in a prompt template, where the problem goes
MARK = "grade_after"  # in a problem's meta: what ends a thought
Message = dict[str, str]  # {"role": "user", "content": "..."}
Status = Literal["ok", "no_answer", "timeout", "no_reference"]


@dataclass(frozen=True)
class Problem:
    """One problem of a task.

    id: unique within (task, split), the same in every run; answer: the reference, as text;
    meta: whatever the grader needs besides (JSON values only); task, kind: name and grader;
    lesson: the response that supervised training shows; None for the bare answer.
    """

    id: str
    prompt: list[Message] | str
    answer: str
    split: str
    meta: Mapping[str, Any] = field(default_factory=dict)
    task: str = ""
    kind: str = ""
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

    task: str
    split: str
    count: int | None
    seed: int
    dataset: Mapping[str, Any] = field(default_factory=dict)
    prompt_template: str | None = None
    system_prompt: str | None = None

    def pose(
        self, problem: str, default: str = PROBLEM, *, chat: bool = True
    ) -> list[Message] | str:
        """The prompt: the problem in the template, after the system prompt; plain text if not chat.

        Args:
            default: the template of the kind, where none is given.
        """
        template = default if self.prompt_template is None else self.prompt_template
        # not str.format: templates hold LaTeX
        content = template.replace(PROBLEM, problem)
        if not chat:
            return content if self.system_prompt is None else f"{self.system_prompt}\n{content}"
        turns = [{"role": "user", "content": content}]
        if self.system_prompt is not None:
            turns.insert(0, {"role": "system", "content": self.system_prompt})
        return turns


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


def check_template(task: str, template: str | None) -> None:
    """Raise PipelineError if the template has no place for the problem."""
    if template is not None and PROBLEM not in template:
        raise PipelineError(
            f"task {task}: prompt_template {template!r} has no {PROBLEM}; put it where the problem "
            "goes"
        )


Schema = TypeVar("Schema")


def parse_options(schema: type[Schema], task: str, values: Mapping[str, Any]) -> Schema:
    """Fill the dataclass `schema` from free options; a key it does not know is an error."""
    known = [f.name for f in dataclasses.fields(schema)]  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise PipelineError(
            f"task {task}: unknown option {unknown[0]!r}; known options: {', '.join(known)}"
        )
    check_fields(f"task {task}: options", values, get_type_hints(schema))
    return schema(**values)
