"""The grading pass over stored generations: apart from generating, so it can be repeated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pipeline.errors import PipelineError
from pipeline.tasks.problem import Problem
from pipeline.tasks.registry import grade_many
from pipeline.tasks.task import TaskConfig

KEY = ("model", "task", "split", "problem_id", "sample")


def grade_rows(
    rows: Sequence[Mapping[str, Any]],
    problems: Iterable[Problem],
    tasks: Mapping[str, TaskConfig],
    *,
    done: Callable[[], object] | None = None,
) -> list[dict[str, Any]]:
    """Grade generations.

    Args:
        rows: with task, split, problem_id and text.
        problems: those that the rows refer to; more do no harm.
        tasks: those that the rows name, by name.
        done: called once a response (progress).

    Returns:
        One row for each generation, in the same order: the generation's key, correct, status
        (problem.Status) and prediction.

    Raises:
        PipelineError: a row refers to a problem that is not among `problems`.
    """
    known = {(p.task, p.split, p.id): p for p in problems}
    by_task: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        if (row["task"], row["split"], row["problem_id"]) not in known:
            raise PipelineError(
                f"generation {index + 1}: no problem {row['problem_id']!r} in "
                f"{row['task']}/{row['split']}; the task's options or seed differ from those that "
                "generated it: restore them, or delete the file and rerun"
            )
        by_task.setdefault(row["task"], []).append(index)
    grades: list[dict[str, Any]] = [{} for _ in rows]
    for name, indices in by_task.items():
        pairs = [
            (known[rows[i]["task"], rows[i]["split"], rows[i]["problem_id"]], rows[i]["text"])
            for i in indices
        ]
        graded = grade_many(tasks[name], pairs, done=done)
        for index, grade in zip(indices, graded, strict=True):
            key = {part: rows[index].get(part) for part in KEY}
            grades[index] = {**key, **grade.to_json()}
    return grades
