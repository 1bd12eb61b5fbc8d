"""A task as its file in `conf/task/` gives it: one value, which is passed whole.

Whatever is said of how problems are posed is said here: a key of the prompt is a field of
`TaskConfig` and a line of `TaskConfig.pose`, and no other module names it. Imported by the schema
of the configuration, so nothing heavy is imported here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import FrozenInstanceError, dataclass, field, replace
from typing import Any

from omegaconf import MISSING

from pipeline.errors import PipelineError

PROBLEM = "{problem}"  # in a prompt template, where the problem goes
Message = dict[str, str]  # {"role": "user", "content": "..."}


class _Fixed:
    """Attributes are given once; another value is `dataclasses.replace`.

    OmegaConf cannot merge YAML into a dataclass that is declared frozen.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name in vars(self):
            raise FrozenInstanceError(f"{type(self).__name__}.{name} is fixed; use replace()")
        super().__setattr__(name, value)


@dataclass
class DatasetConfig(_Fixed):
    path: str = MISSING  # hub id, or a .jsonl / .parquet file
    name: str | None = None
    revision: str | None = None
    split: str = "test"
    problem: str = "problem"
    answer: str = "answer"


@dataclass
class TaskConfig(_Fixed):
    name: str = MISSING
    kind: str = MISSING  # which loader and grader (pipeline/tasks)
    dataset: DatasetConfig | None = None
    prompt_template: str | None = None  # holds {problem}; null: as the kind poses it
    system_prompt: str | None = None
    grade_after: str | None = None  # only what follows this mark is graded, e.g. "</think>"
    max_prompt_tokens: int = 2048
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def source(self) -> DatasetConfig:
        """The data set.

        Raises:
            PipelineError: there is none.
        """
        if self.dataset is None:
            raise PipelineError(
                f"task {self.name}: kind {self.kind} needs task.dataset (path, problem, answer)"
            )
        return self.dataset

    def check(self) -> None:
        """Refuse values that no kind of task can work with.

        Raises:
            PipelineError: the template has no place for the problem, or the mark is empty.
        """
        if self.prompt_template is not None and PROBLEM not in self.prompt_template:
            raise PipelineError(
                f"task {self.name}: prompt_template {self.prompt_template!r} has no {PROBLEM}; "
                "put it where the problem goes"
            )
        if self.grade_after == "":
            raise PipelineError(
                f"task {self.name}: grade_after is empty; name the mark that ends a thought, e.g. "
                '"</think>", or null'
            )

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


def sharing_mark(first: TaskConfig, others: Iterable[TaskConfig]) -> list[TaskConfig]:
    """A run's other tasks, with the mark of its first one where they name none.

    It is one model that thinks.
    """
    return [replace(t, grade_after=t.grade_after or first.grade_after) for t in others]
