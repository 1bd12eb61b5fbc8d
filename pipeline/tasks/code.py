"""What the code benchmarks share: responses are programs, tests are the answer.

Which part of a response is the program is decided in programs.py, what the tests need in
code_tests.py. How it is run, and why it cannot pass without solving the problem, is in sandbox.py
and inside/.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import PipelineError
from pipeline.tasks import livecodebench_files
from pipeline.tasks.code_runs import Limits, Outcome, run_program, run_tests
from pipeline.tasks.code_tests import UnsupportedError, study
from pipeline.tasks.grader_pool import default_workers
from pipeline.tasks.kind import Done, Example, Kind, Pairs
from pipeline.tasks.problem import Grade, Problem, Request
from pipeline.tasks.programs import (
    complete_prompt,
    continue_prompt,
    find_program,
    unix_lines,
)
from pipeline.tasks.python_source import join_sources
from pipeline.tasks.sandbox import check_mode
from pipeline.tasks.splits import check_splits, choose, split_of
from pipeline.tasks.task import TaskConfig

# what inside/check.py reads
JOB = ("tests", "entry_point", "hidden", "classes", "modules", "captured", "seeded")
SHOWN = 5  # problems named in a message


@dataclass(frozen=True)
class CodeOptions:
    """chat: ask in words and take the last fenced block, or let a base model continue the prompt.

    seconds: processor time for one call or input; total_seconds: for all tests of one response;
    memory_mb: of one program; packages: whether programs and tests may import what is installed
    here (numpy), not only the standard library; sandbox: bwrap or none; workers: responses graded
    at a time, 0 for this process's share of the cores.
    """

    splits: Mapping[str, float] = field(default_factory=lambda: {"test": 1.0})
    split_seed: int = 0
    chat: bool = True
    seconds: float = 6.0
    total_seconds: float = 60.0
    memory_mb: int = 2048
    packages: bool = False
    sandbox: str = "bwrap"
    workers: int = 0


Rows = Iterable[tuple[str, str, dict[str, Any]]]  # id, prompt text, meta


def load_code(
    rows: Callable[[TaskConfig, Any], Rows], request: Request, o: CodeOptions
) -> list[Problem]:
    """Problems of one split, in the file's order, or a seeded choice of them."""
    task = request.task
    check_splits(request, o.splits)
    problems, left_out = [], []
    for identity, text, meta in rows(task, o):
        if split_of(identity, o.splits, o.split_seed) != request.split:
            continue
        meta["chat"] = o.chat
        if "tests" in meta:
            setup, tests = (unix_lines(meta[name] or "") for name in ("setup", "tests"))
            reference = meta.pop("reference", None)
            try:
                needs = study(setup, tests, meta.get("entry_point"), reference, o.packages)
            except UnsupportedError as error:
                left_out.append(f"{identity}: its tests {error}")
                continue
            meta.update(needs, setup=setup, tests=tests)
        prompt = task.pose(text, chat=o.chat)
        problems.append(Problem(identity, prompt, "", request.split, meta))
    if left_out:
        _tell_left_out(task.name, len(problems) + len(left_out), tuple(left_out))
    return choose(problems, request)


@functools.lru_cache(maxsize=64)
def _tell_left_out(task: str, count: int, left_out: tuple[str, ...]) -> None:
    """Say once which problems cannot be graded.

    Raises:
        PipelineError: none can.
    """
    shown = "; ".join(left_out[:SHOWN]) + ("; ..." if len(left_out) > SHOWN else "")
    if len(left_out) == count:
        raise PipelineError(f"task {task}: none of its {count} problems can be graded: {shown}")
    logging.getLogger(__name__).warning(
        "task %s: %d of %d problems left out, unsupported: %s", task, len(left_out), count, shown
    )


def extract_program(problem: Problem, text: str) -> str | None:
    """The program that a response amounts to, or None if it holds none.

    A prompt that is code (HumanEval) comes first, so that its imports and helpers are there; the
    response defines the function anew or continues it.
    """
    prompt = str(problem.meta.get("setup", ""))
    entry = problem.meta.get("entry_point")
    if not problem.meta.get("chat", True):
        return (continue_prompt(prompt, text) if entry else unix_lines(text)) or None
    code = find_program(text, problem.meta.get("names", ()))
    if code is None or not entry:
        return code
    return complete_prompt(prompt, str(entry), code)


def run(problem: Problem, program: str, limits: Limits) -> Outcome:
    """Run one program against the problem's tests."""
    if "file" not in problem.meta:
        job = {key: problem.meta[key] for key in JOB if key in problem.meta}
        job["setup"] = join_sources(problem.meta.get("imports", ""), problem.meta["setup"])
        return run_tests(program, job, limits)
    tests = livecodebench_files.tests(problem.meta["file"], problem.meta["offset"])
    program = join_sources(livecodebench_files.HEADER, program)
    if tests.function is not None:
        return run_tests(program, {"calls": tests.calls()}, limits)
    return run_program(program, tests.inputs, tests.outputs, limits)


def grade_code(task: TaskConfig, pairs: Pairs, o: CodeOptions, done: Done = None) -> list[Grade]:
    """Grade (problem, response) pairs in parallel; equal programs of a problem run once.

    status is "timeout" for a program that was too slow, "no_answer" for a response without code.
    """
    check_mode(task.name, o.sandbox)
    limits = Limits(o.seconds, o.total_seconds, o.memory_mb, o.packages, o.sandbox)
    programs = [extract_program(problem, text) for problem, text in pairs]
    distinct: dict[tuple[str, str], Problem] = {}
    for (problem, _), program in zip(pairs, programs, strict=True):
        if program is not None:
            distinct.setdefault((_key(problem), program), problem)

    def one(item: tuple[tuple[str, str], Problem]) -> Outcome:
        (_, program), problem = item
        outcome = run(problem, program, limits)
        if done is not None:
            done()
        return outcome

    workers = o.workers or default_workers()
    with ThreadPoolExecutor(workers) as pool:
        outcomes = dict(zip(distinct, pool.map(one, distinct.items()), strict=True))
    if done is not None:
        for _ in range(len(pairs) - len(distinct)):
            done()
    return [
        Grade(False, "no_answer")
        if program is None
        else _to_grade(outcomes[_key(problem), program], program)
        for (problem, _), program in zip(pairs, programs, strict=True)
    ]


def _key(problem: Problem) -> str:
    """What tells problems apart where a reward knows no ids: the tests themselves."""
    meta = problem.meta
    return f"{meta.get('file')}:{meta.get('offset')}:{meta.get('setup')}:{meta.get('tests')}"


def _to_grade(outcome: Outcome, program: str) -> Grade:
    return Grade(outcome == "passed", "timeout" if outcome == "timeout" else "ok", program)


def code_kind(
    schema: type[CodeOptions],
    rows: Callable[[TaskConfig, Any], Rows],
    example: Example,
    *,
    large: bool = False,
) -> Kind:
    """A benchmark from what is its own: its options, and how its rows become problems."""
    return Kind(schema, functools.partial(load_code, rows), grade_code, example, large=large)
