"""The problems of an evaluation as prompts for engines, and for their graders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.artifacts import hash_json
from pipeline.content import task_data
from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from pipeline.inference.run import PromptItem
    from pipeline.subject.found import Subject
    from pipeline.subject.problem_sets import ProblemSet
    from pipeline.tasks import Problem, TaskConfig


@dataclass(frozen=True)
class Posed:
    """What every model is asked: the same problems as their tasks have them, and as prompts.

    tasks: by name.
    """

    tasks: Mapping[str, TaskConfig]
    problems: Sequence[Problem]
    items: Sequence[PromptItem]


def pose(subject: Subject) -> Posed:
    """The problems of `subject.sets`, in the chat template of the run's base model."""
    from transformers import AutoTokenizer

    from pipeline.tasks import load_problems

    folder, seed = subject.trajectory.base.folder, subject.config.seed
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    problems: list[Problem] = []
    items: list[PromptItem] = []
    for task, split, count in subject.sets:
        loaded = load_problems(task, split, count, seed)
        items += encode(tokenizer, loaded, split, task.max_prompt_tokens)
        problems += loaded
    return Posed({each.task.name: each.task for each in subject.sets}, problems, items)


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


def probed(subject: Subject, wanted: ProblemSet | None) -> Any:
    """What stands for the problems of linear_probe: a hash of them, as they are posed.

    Where they are dear to load (the hub, an endless generator, a large file), what decides them.
    """
    if wanted is None:
        return None
    from pipeline.tasks import quick

    task, split, count = wanted
    if not quick(task):
        return [split, count, task_data([task], subject.hashes)]
    return hash_json([[p.id, p.prompt] for p in _probe_problems(subject, wanted)])


def probe_prompts(subject: Subject, tokenizer: Any, wanted: ProblemSet) -> list[PromptItem]:
    """The problems that linear_probe draws responses to, encoded."""
    problems = _probe_problems(subject, wanted)
    return encode(tokenizer, problems, wanted.split, wanted.task.max_prompt_tokens)


def _probe_problems(subject: Subject, wanted: ProblemSet) -> list[Problem]:
    """The first problems of a set."""
    from pipeline.tasks import load_problems

    problems = load_problems(wanted.task, wanted.split, wanted.limit, subject.config.seed)
    return problems[: subject.config.linear_probe.problems]
