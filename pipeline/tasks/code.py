"""Code benchmarks: HumanEval, MBPP, LiveCodeBench. Responses are programs, tests are the answer.

In chat mode the last fenced block of a response is the program. How it is run, and why it cannot
pass without solving the problem, is in sandbox.py and inside/.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import PipelineError
from pipeline.tasks import livecodebench
from pipeline.tasks.code_runs import Limits, Outcome, run_program, run_tests
from pipeline.tasks.grader_pool import default_workers
from pipeline.tasks.problem import Grade, Problem, Request
from pipeline.tasks.rows import column, load_rows
from pipeline.tasks.sandbox import check_mode
from pipeline.tasks.splits import check_splits, choose, split_of

FENCE = re.compile(r"^[ \t]*```[ \t]*(\w*)[^\n]*\n(.*?)^[ \t]*```[ \t]*$", re.DOTALL | re.MULTILINE)
# Where a completion of a base model leaves the function it was asked for.
STOPS = re.compile(r"^(?:class |def |@|#|if |print|assert |import |from |```)", re.MULTILINE)


@dataclass(frozen=True)
class CodeOptions:
    """chat: ask in words and take the last fenced block, or let a base model continue the prompt.

    seconds: for one call or input; total_seconds: for all tests of one response; memory_mb: of one
    program; packages: whether programs may import what is installed here (numpy), not only the
    standard library; sandbox: bwrap or none; workers: responses graded at a time, 0 for this
    process's share of the cores.
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
        tests = column(task, dataset, row, "test")
        meta = {"setup": given["prompt"], "tests": tests, "entry_point": given["entry_point"]}
        yield str(column(task, dataset, row, "task_id")), text, meta


def mbpp_rows(request: Request, o: MbppOptions) -> Rows:
    """Both forms of the data set: sanitized (prompt, test_imports) and full (text, setup code)."""
    task, dataset = request.task, request.dataset
    for row in load_rows(task, dataset):
        text = row.get("prompt") or column(task, dataset, row, "text")
        tests = column(task, dataset, row, "test_list")
        setup = "\n".join([*(row.get("test_imports") or []), row.get("test_setup_code") or ""])
        shown = "\n".join(tests[: max(1, o.shown_tests)])
        if o.chat:
            text = (
                f"{text.strip()}\nYour code must pass this test, among others:\n{shown}\n"
                "Reply with the whole program in one ```python block."
            )
        else:
            text = f'"""\n{text.strip()}\n{shown}\n"""\n'
        meta = {"setup": setup, "tests": "\n".join(tests)}
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
            {"file": row.file, "offset": row.offset},
        )


def load_code(
    rows: Callable[[Request, Any], Rows], request: Request, o: CodeOptions
) -> list[Problem]:
    """Problems of one split, in the file's order, or a seeded choice of them."""
    check_splits(request.task, request.split, o.splits)
    problems = []
    for identity, text, meta in rows(request, o):
        if split_of(identity, o.splits, o.split_seed) != request.split:
            continue
        meta["chat"] = o.chat
        prompt = request.pose(text, chat=o.chat)
        problems.append(Problem(identity, prompt, "", request.split, meta))
    return choose(problems, request)


def extract_program(problem: Problem, text: str) -> str | None:
    """The program that a response amounts to, or None if it holds none.

    A prompt that is code (HumanEval) comes first, so that its imports and helpers are there; the
    response defines the function anew or continues it.
    """
    prompt = str(problem.meta.get("setup", ""))
    entry = problem.meta.get("entry_point")
    if not problem.meta.get("chat", True):
        stop = STOPS.search(text)
        body = text[: stop.start()] if stop and entry else text
        return (prompt + body if entry else body) or None
    blocks = FENCE.findall(text)
    if not blocks:
        return None
    code = str(blocks[-1][1])
    if not entry:
        return code
    defines = re.search(rf"^(?:async )?def {re.escape(str(entry))}\b", code, re.MULTILINE)
    return f"{prompt}\n\n{code}" if defines else prompt + code


def run(problem: Problem, program: str, limits: Limits) -> Outcome:
    """Run one program against the problem's tests."""
    if "file" not in problem.meta:
        job = {key: problem.meta.get(key) for key in ("setup", "tests", "entry_point")}
        return run_tests(program, job, limits)
    tests = livecodebench.tests(problem.meta["file"], problem.meta["offset"])
    program = livecodebench.HEADER + program
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
