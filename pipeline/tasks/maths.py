r"""Maths benchmarks: a problem in LaTeX, an answer in \boxed{}, equality by math-verify.

The last box of the response is the answer (the published code grades the first, which is often an
intermediate result). Equality is decided in processes that can be killed (grader_pool.py).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.tasks.boxed import last_boxed
from pipeline.tasks.grader_pool import shared_pool
from pipeline.tasks.problem import PROBLEM, Grade, Problem, Request
from pipeline.tasks.rows import column, load_rows
from pipeline.tasks.splits import check_splits, choose, split_of

# The published prompt (arXiv 2601.04537, training recipe): one user turn.
TEMPLATE = f"{PROBLEM} Let's think step by step and output the final answer within \\boxed{{}}."
LONGEST_ANSWER = 2000  # characters; no reference answer comes near, and parsers are slow on it


@dataclass(frozen=True)
class MathOptions:
    r"""splits: shares of the data set's rows that are called train, validation and test here.

    chat: one user turn for the chat template, or plain text if false. answer_after: the reference
    is what follows the last of these marks in its column (GSM8K: "####"). workers, limit: grader
    processes (0: one a core, up to 16) and seconds for one answer.
    """

    splits: Mapping[str, float] = field(default_factory=lambda: {"test": 1.0})
    split_seed: int = 0
    chat: bool = True
    answer_after: str | None = None
    workers: int = 0
    limit: float = 10.0


def load_math(request: Request, o: MathOptions) -> list[Problem]:
    """Rows of the split; with a count, a seeded random choice, else all in the file's order.

    Duplicate problem texts are kept once: two copies would count one problem twice.
    """
    task, dataset = request.task, request.dataset
    check_splits(task, request.split, o.splits)
    problems: dict[str, Problem] = {}
    for row in load_rows(task, dataset):
        text = str(column(task, dataset, row, dataset.get("problem") or "problem")).strip()
        if split_of(text, o.splits, o.split_seed) != request.split:
            continue
        answer = reference(column(task, dataset, row, dataset.get("answer") or "answer"), o)
        prompt = request.pose(text, TEMPLATE, chat=o.chat)
        identity = hashlib.sha256(text.encode()).hexdigest()[:16]
        problems.setdefault(identity, Problem(identity, prompt, answer, request.split))
    return choose(list(problems.values()), request)


def reference(value: Any, options: MathOptions) -> str:
    """The reference answer as text: numbers and one-element lists (OlympiadBench) unpacked."""
    if isinstance(value, list | tuple):
        value = ", ".join(str(item) for item in value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value)
    if options.answer_after is not None:
        text = text.rpartition(options.answer_after)[2].replace(",", "")
    boxed = last_boxed(text)
    return (text if boxed is None else boxed).strip().strip("$").strip()


def grade_math(
    task: str,
    pairs: Sequence[tuple[Problem, str]],
    o: MathOptions,
    done: Callable[[], object] | None = None,
) -> list[Grade]:
    """Grade (problem, response) pairs, in their order.

    Equal texts and plain integers are decided here; the rest goes to the worker processes, each
    distinct (reference, answer) pair once.
    """
    grades: list[Grade | None] = []
    jobs: dict[tuple[str, str], list[int]] = {}
    for index, (problem, text) in enumerate(pairs):
        prediction = last_boxed(text)
        grade = quick_grade(problem.answer, prediction)
        grades.append(grade)
        if grade is not None and done is not None:
            done()
        if grade is None and prediction is not None:
            jobs.setdefault((problem.answer, prediction.strip()), []).append(index)
    if jobs:
        pool = shared_pool("math", o.workers, o.limit)
        verdicts = pool.run([{"answer": a, "prediction": p} for a, p in jobs], done)
        for ((_, prediction), indices), verdict in zip(jobs.items(), verdicts, strict=True):
            for index in indices:
                grades[index] = (
                    Grade(False, "timeout", prediction)
                    if verdict is None
                    else Grade(verdict["correct"], "ok", prediction)
                )
    return [grade for grade in grades if grade is not None]


def quick_grade(answer: str, prediction: str | None) -> Grade | None:
    """The grade where no algebra is needed, else None."""
    if prediction is None or not prediction.strip():
        return Grade(False, "no_answer")
    text = prediction.strip()
    if text == answer:
        return Grade(True, "ok", text)
    if len(text) > LONGEST_ANSWER:
        return Grade(False, "ok", text[:80])
    integer = r"[+-]?[0-9]{1,100}"
    if re.fullmatch(integer, text) and re.fullmatch(integer, answer):
        return Grade(int(text) == int(answer), "ok", text)
    return None
