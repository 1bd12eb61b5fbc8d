"""Code benchmarks: HumanEval, MBPP, LiveCodeBench. Responses are programs, tests are the answer.

Which part of a response is the program is decided in programs.py, what the tests need in
code_tests.py. How it is run, and why it cannot pass without solving the problem, is in sandbox.py
and inside/.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import PipelineError
from pipeline.tasks import livecodebench
from pipeline.tasks.code_runs import Limits, Outcome, run_program, run_tests
from pipeline.tasks.code_tests import UnsupportedError, study
from pipeline.tasks.grader_pool import default_workers
from pipeline.tasks.problem import Grade, Problem, Request
from pipeline.tasks.programs import (
    complete_prompt,
    continue_prompt,
    find_program,
    unix_lines,
)
from pipeline.tasks.python_source import join_sources
from pipeline.tasks.rows import column, load_rows
from pipeline.tasks.sandbox import check_mode
from pipeline.tasks.splits import check_splits, choose, split_of

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


@dataclass(frozen=True)
class MbppOptions(CodeOptions):
    """shown_tests: how many of the asserts the prompt shows (it must show the function's name)."""

    shown_tests: int = 1


@dataclass(frozen=True)
class LiveCodeBenchOptions(CodeOptions):
    """release: release_v1 .. release_v6, or all files given; start_date, end_date: contest dates
    (YYYY-MM-DD), the first included, the last not."""

    release: str | None = "release_v5"
    start_date: str | None = None
    end_date: str | None = None


Rows = Iterable[tuple[str, str, dict[str, Any]]]  # id, prompt text, meta


def humaneval_rows(request: Request, o: CodeOptions) -> Rows:
    """Columns task_id, prompt, test, entry_point."""
    task, dataset = request.task, request.dataset
    for row in load_rows(task, dataset):
        given = {name: column(task, dataset, row, name) for name in ("prompt", "entry_point")}
        text = given["prompt"]
        if o.chat:
            text = (
                "Complete this Python function. Reply with the whole function, imports included, "
                f"in one ```python block.\n\n```python\n{given['prompt'].rstrip()}\n```"
            )
        meta = {
            "setup": given["prompt"],
            "tests": column(task, dataset, row, "test"),
            "entry_point": given["entry_point"],
        }
        yield str(column(task, dataset, row, "task_id")), text, meta


def mbpp_rows(request: Request, o: MbppOptions) -> Rows:
    """Both forms of the data set: sanitized (prompt, test_imports) and full (text, setup code).

    The column `code`, if there is one, tells which of the names in the tests are the program's.
    """
    task, dataset = request.task, request.dataset
    for row in load_rows(task, dataset):
        text = row.get("prompt") or column(task, dataset, row, "text")
        tests = column(task, dataset, row, "test_list")
        if not isinstance(tests, list):
            raise PipelineError(
                f"task {task}: {dataset['path']}: test_list must be a list of asserts, "
                f"not {tests!r:.60}"
            )
        setup = "\n".join([*(row.get("test_imports") or []), row.get("test_setup_code") or ""])
        shown = "\n".join(tests[: max(1, o.shown_tests)])
        if o.chat:
            text = (
                f"{text.strip()}\nYour code must pass this test, among others:\n{shown}\n"
                "Reply with the whole program in one ```python block."
            )
        else:
            text = f'"""\n{text.strip()}\n{shown}\n"""\n'
        meta = {"setup": setup, "tests": "\n".join(tests), "reference": row.get("code")}
        yield str(column(task, dataset, row, "task_id")), text, meta


def livecodebench_rows(request: Request, o: LiveCodeBenchOptions) -> Rows:
    """The tests stay in their files: meta says where."""
    task = request.task
    if not o.chat:
        raise PipelineError(f"task {task}: LiveCodeBench has chat prompts only; set chat=true")
    files = livecodebench.files(task, request.dataset, o.release)
    for row in livecodebench.problems(task, files, o.start_date, o.end_date):
        yield (
            row.id,
            livecodebench.prompt(row),
            {
                "file": row.file,
                "offset": row.offset,
                "names": ["Solution"] if row.starter else [],
            },
        )


def load_code(
    rows: Callable[[Request, Any], Rows], request: Request, o: CodeOptions
) -> list[Problem]:
    """Problems of one split, in the file's order, or a seeded choice of them."""
    check_splits(request.task, request.split, o.splits)
    problems, left_out = [], []
    for identity, text, meta in rows(request, o):
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
        prompt = request.pose(text, chat=o.chat)
        problems.append(Problem(identity, prompt, "", request.split, meta))
    if left_out:
        _tell_left_out(request.task, len(problems) + len(left_out), tuple(left_out))
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
    tests = livecodebench.tests(problem.meta["file"], problem.meta["offset"])
    program = join_sources(livecodebench.HEADER, program)
    if tests.function is not None:
        return run_tests(program, {"calls": tests.calls()}, limits)
    return run_program(program, tests.inputs, tests.outputs, limits)


def grade_code(
    task: str,
    pairs: Sequence[tuple[Problem, str]],
    o: CodeOptions,
    done: Callable[[], object] | None = None,
) -> list[Grade]:
    """Grade (problem, response) pairs in parallel; equal programs of a problem run once.

    status is "timeout" for a program that was too slow, "no_answer" for a response without code.
    """
    check_mode(task, o.sandbox)
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
