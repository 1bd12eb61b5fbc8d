r"""Maths benchmarks: a problem in LaTeX, an answer in \boxed{}, equality as in answers/.

The last box of the response is the answer (the published code grades the first, which is often an
intermediate result). Equality is decided in processes that can be killed (grader_pool.py).
"""

from __future__ import annotations

import functools
import hashlib
import logging
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import PipelineError
from pipeline.tasks.answers.nodes import UnreadableError
from pipeline.tasks.answers.numbers import meets
from pipeline.tasks.answers.reader import readings, unreadable
from pipeline.tasks.boxed import last_boxed
from pipeline.tasks.grader_pool import shared_pool
from pipeline.tasks.kind import Done, Example, Kind, Pairs
from pipeline.tasks.problem import Grade, Problem, Request
from pipeline.tasks.rows import load_rows, whole_column
from pipeline.tasks.splits import check_splits, choose, split_of
from pipeline.tasks.task import PROBLEM, TaskConfig

# The published prompt (arXiv 2601.04537, training recipe): one user turn.
TEMPLATE = f"{PROBLEM} Let's think step by step and output the final answer within \\boxed{{}}."
LONGEST_ANSWER = 2000  # characters; no reference answer comes near, and parsers are slow on it
INTEGER = re.compile(r"[+-]?[0-9]{1,100}")
PLAIN = re.compile(  # a number, if anything: cheaper to read here than to send to a worker
    r"(?:[0-9\s.,+\-/{}^$]|[eE](?=[+-]?[0-9])|\\[dt]?frac|\\times|\\cdot|\\[!,; ]){1,60}"
)
ABSENT = ("", "nan", "NaN", "None", "null", "NULL", "N/A", "n/a", "[]", "<NA>")
NAMED = 5  # problems that a message names


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

    Duplicate problem texts are kept once: two copies would count one problem twice. Rows without
    a reference answer are left out; they, copies with another answer, and references that cannot
    be read, are named.

    Raises:
        PipelineError: no row of the split has a problem and a reference.
    """
    task = request.task
    check_splits(request, o.splits)
    rows = load_rows(task)
    texts = whole_column(task, rows, task.source.problem)
    values = whole_column(task, rows, task.source.answer)
    problems: dict[str, Problem] = {}
    absent: list[str] = []
    other: list[str] = []
    for number, (raw, value) in enumerate(zip(texts, values, strict=True), 1):
        text = "" if raw is None else str(raw).strip()
        if text and split_of(text, o.splits, o.split_seed) != request.split:
            continue
        answer = reference(value, o)
        if not text or answer is None:
            absent.append(f"row {number}")
            continue
        prompt = task.pose(text, TEMPLATE, chat=o.chat)
        identity = hashlib.sha256(text.encode()).hexdigest()[:16]
        made = Problem(identity, prompt, answer, request.split)
        if problems.setdefault(identity, made).answer != answer:
            other.append(f"row {number}")
    if rows and not problems:
        raise PipelineError(
            f"task {task.name}: no row of {task.source.path} for {request.split} has a problem and "
            "a reference answer; check task.dataset.problem, task.dataset.answer and options"
        )
    where = f"task {task.name}, {request.split}"
    if absent:
        _say(
            f"{where}: {len(absent)} rows have no reference answer (or no problem) and are left "
            f"out: {_some(absent)}"
        )
    if other:
        _say(
            f"{where}: {len(other)} rows repeat a problem with another reference answer, and the "
            f"first row's counts: {_some(other)}"
        )
    unread = [p for p in problems.values() if unreadable(p.answer)]
    if unread:
        _say(
            f"{where}: {len(unread)} reference answers cannot be read, so that only their own "
            f"text is sure to be right: {_some([f'{p.id} ({p.answer[:40]!r})' for p in unread])}"
        )
    return choose(list(problems.values()), request)


@functools.lru_cache(maxsize=256)
def _say(message: str) -> None:
    """Say it once: several stages load the same problems."""
    logging.getLogger(__name__).warning(message)


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:NAMED])
    return shown if len(names) <= NAMED else f"{shown}, ..."


def reference(value: Any, options: MathOptions) -> str | None:
    """The reference answer as text; None if there is none.

    Numbers are written with the digits they have, lists (OlympiadBench) joined; null, NaN, empty
    texts and their names in words ("nan", "None") are none, and so is a solution without the mark
    that its answer should follow.
    """
    if isinstance(value, list | tuple):
        parts = [part for part in (reference(item, MathOptions()) for item in value) if part]
        value = ", ".join(parts)
    if isinstance(value, float):
        value = _written(value)
    text = "" if value is None else str(value)
    if options.answer_after is not None:
        _, mark, text = text.rpartition(options.answer_after)
        text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text) if mark else ""
    boxed = last_boxed(text)
    text = (text if boxed is None else boxed).strip()
    inner = re.fullmatch(r"\${1,2}([^$]*[^$\\])\${1,2}", text)
    text = text if inner is None else inner[1].strip()
    return None if text in ABSENT else text


def _written(value: float) -> str:
    """A number of a data file in the digits that it was written with."""
    if math.isnan(value):
        return ""
    if math.isinf(value):
        return "\\infty" if value > 0 else "-\\infty"
    if value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    for digits in range(1, 10):  # of a 32-bit column, read as 64 bits
        short = f"{value:.{digits}g}"
        if struct.unpack("f", struct.pack("f", float(short)))[0] == value:
            return short
    return repr(value)


def grade_math(task: TaskConfig, pairs: Pairs, o: MathOptions, done: Done = None) -> list[Grade]:
    """Grade (problem, response) pairs, in their order.

    Equal texts and plain numbers are decided here; the rest goes to the worker processes, each
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
                    else Grade(verdict["correct"], verdict.get("status", "ok"), prediction)
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
    if INTEGER.fullmatch(text) and INTEGER.fullmatch(answer):
        return Grade(int(text) == int(answer), "ok", text)
    if PLAIN.fullmatch(text) and PLAIN.fullmatch(answer):
        try:
            golds, answers = readings(answer, is_gold=True), readings(text)
        except UnreadableError:
            return None
        if all(node.kind == "num" for node in (*golds, *answers)):
            return Grade(any(meets(g, a) for g in golds for a in answers), "ok", text)
    return None


KIND = Kind(
    MathOptions,
    load_math,
    grade_math,
    Example(
        record={"problem": "How many primes are less than $10$?", "answer": "$4$"},
        prompt="How many primes are less than $10$? Let's think step by step and output the final "
        "answer within \\boxed{}.",
        right="They are 2, 3, 5 and 7: \\boxed{\\frac{8}{2}}.",
        wrong="\\boxed{4}, and with 9 \\boxed{5}.",  # the last box is the answer
    ),
)
