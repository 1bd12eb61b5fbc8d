"""The grader as what TRL trains on: rows of a data set, and a reward function."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.errors import PipelineError
from pipeline.tasks.problem import Problem
from pipeline.tasks.registry import grade_many, parse
from pipeline.tasks.task import Message, TaskConfig


def training_rows(problems: Sequence[Problem]) -> list[dict[str, Any]]:
    """Rows for a TRL data set: prompt, answer, problem_id, and meta as JSON (one type a column)."""
    return [
        {"prompt": p.prompt, "answer": p.answer, "problem_id": p.id, "meta": json.dumps(p.meta)}
        for p in problems
    ]


def reward_function(task: TaskConfig) -> Callable[..., list[float]]:
    """The grader as a TRL reward: 1.0 for a right completion, 0.0 for any other.

    The returned function takes what TRL 1.16 passes, `f(prompts, completions, completion_ids,
    **columns)`, reads the columns of `training_rows`, and reports the shares of time-outs and of
    completions without an answer through TRL's `log_metric`, if that is given.
    """
    parse(task)  # mistakes show before training

    def reward(
        prompts: Sequence[str | list[Message]],
        completions: Sequence[str | list[Message]],
        completion_ids: Sequence[Sequence[int]] | None = None,
        **columns: Any,
    ) -> list[float]:
        if "answer" not in columns:
            raise PipelineError(
                f"reward of task {task.name}: the training data has no column 'answer'"
            )
        metas = columns.get("meta") or ["{}"] * len(completions)
        pairs = [
            (Problem("", prompt, answer, "", json.loads(meta), task.name), completion_text(c))
            for prompt, c, answer, meta in zip(
                prompts, completions, columns["answer"], metas, strict=True
            )
        ]
        grades = grade_many(task, pairs)
        log_metric = columns.get("log_metric")
        if log_metric is not None and grades:
            for status in ("no_answer", "timeout"):
                log_metric(status, sum(g.status == status for g in grades) / len(grades))
        return [float(g.correct) for g in grades]

    reward.__name__ = f"{task.name}_reward"
    return reward


def completion_text(completion: str | list[Message]) -> str:
    """What the model wrote: the string itself, or the content of the assistant's messages."""
    if isinstance(completion, str):
        return completion
    return "".join(message["content"] or "" for message in completion)
