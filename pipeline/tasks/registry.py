"""The front door of the tasks: load problems, check them early, grade responses.

A task is a name, a kind (which loader and grader) and plain values; the values live in
`conf/task/<name>.yaml`. The grader of evaluation and the reward of training are the same function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pipeline.errors import PipelineError
from pipeline.tasks import arithmetic, code, differences, gym, maths
from pipeline.tasks.problem import (
    MARK,
    Grade,
    Problem,
    Request,
    after_thought,
    check_template,
    parse_options,
)
from pipeline.tasks.rows import local_file
from pipeline.tasks.sandbox import check_mode
from pipeline.tasks.splits import check_shares

Pairs = Sequence[tuple[Problem, str]]
Done = Callable[[], object] | None
QUICK = 64 * 2**20  # bytes of a data file that is read in a moment


@dataclass(frozen=True)
class Kind:
    """A way to load and grade; `schema` is the dataclass of its options."""

    schema: type[Any]
    load: Callable[[Request, Any], list[Problem]]
    grade: Callable[[str, Pairs, Any, Done], list[Grade]]
    needs_dataset: bool = False
    endless: bool = False  # makes as many problems as are asked for, which may take its time
    large: bool = False  # gigabytes to fetch


def _one_by_one(grade_one: Callable[[Problem, str], Grade]) -> Callable[..., list[Grade]]:
    def grade(task: str, pairs: Pairs, options: Any, done: Done) -> list[Grade]:
        grades = []
        for problem, text in pairs:
            grades.append(grade_one(problem, text))
            if done is not None:
                done()
        return grades

    return grade


def _code(schema: type[code.CodeOptions], rows: Callable[..., code.Rows]) -> Kind:
    return Kind(schema, partial(code.load_code, rows), code.grade_code, needs_dataset=True)


KINDS: dict[str, Kind] = {
    "addition": Kind(
        arithmetic.AdditionOptions,
        arithmetic.load_addition,
        _one_by_one(arithmetic.grade_addition),
    ),
    "arithmetic": Kind(
        arithmetic.ArithmeticOptions,
        arithmetic.load_arithmetic,
        _one_by_one(arithmetic.grade_arithmetic),
    ),
    "differences": Kind(
        differences.DifferencesOptions,
        differences.load_differences,
        _one_by_one(differences.grade_differences),
    ),
    "math": Kind(maths.MathOptions, maths.load_math, maths.grade_math, needs_dataset=True),
    "reasoning_gym": Kind(gym.GymOptions, gym.load_gym, gym.grade_gym, endless=True),
    "humaneval": _code(code.CodeOptions, code.humaneval_rows),
    "mbpp": _code(code.MbppOptions, code.mbpp_rows),
    "livecodebench": replace(_code(code.LiveCodeBenchOptions, code.livecodebench_rows), large=True),
}


def find_kind(task: str, kind: str) -> Kind:
    if kind not in KINDS:
        raise PipelineError(f"task {task}: unknown kind {kind!r}; known: {', '.join(KINDS)}")
    return KINDS[kind]


def _parse(
    task: str,
    kind: str,
    dataset: Mapping[str, Any] | None,
    template: str | None,
    grade_after: str | None,
    options: Mapping[str, Any],
) -> tuple[Kind, Any]:
    """The kind and its options; raises for what is wrong with any of the values."""
    found = find_kind(task, kind)
    check_template(task, template)
    if grade_after == "":
        raise PipelineError(
            f"task {task}: grade_after is empty; name the mark that ends a thought, e.g. "
            '"</think>", or null'
        )
    if found.needs_dataset and not dataset:
        raise PipelineError(f"task {task}: kind {kind} needs task.dataset (path, problem, answer)")
    return found, parse_options(found.schema, task, options)


def check_task(
    task: str,
    *,
    kind: str | None = None,
    dataset: Mapping[str, Any] | None = None,
    prompt_template: str | None = None,
    system_prompt: str | None = None,
    grade_after: str | None = None,
    **options: Any,
) -> None:
    """Find what can be found wrong with a task without loading it; arguments of load_problems.

    Raises:
        PipelineError: unknown kind or option, shares that do not sum to 1, a local file that is
            not there, a package or the sandbox missing.
    """
    _, parsed = _parse(task, kind or task, dataset, prompt_template, grade_after, options)
    check_shares(task, parsed.splits)
    if hasattr(parsed, "sandbox"):
        check_mode(task, parsed.sandbox)
    if isinstance(parsed, gym.GymOptions):
        gym.create(task, parsed.generator, parsed.config)
    if dataset:
        local_file(task, dataset)


def try_load(
    task: str,
    split: str,
    count: int | None,
    seed: int,
    *,
    kind: str | None = None,
    fetch: bool = False,
    **arguments: Any,
) -> None:
    """Load problems and drop them again, where that is cheap; arguments of load_problems.

    A large file is not read; of an endless kind one problem is made.

    Args:
        fetch: get data sets from the hub now (its cache then has them), but for large ones.

    Raises:
        PipelineError: as load_problems.
    """
    found, dataset = find_kind(task, kind or task), arguments.get("dataset")
    if dataset is not None:
        file = local_file(task, dataset)
        cheap = fetch and not found.large if file is None else file.stat().st_size <= QUICK
        if not cheap:
            return
    if found.endless and count is not None:
        count = min(count, 1)
    load_problems(task, split, count, seed, kind=kind, **arguments)


def quick(task: str, *, kind: str | None = None, **arguments: Any) -> bool:
    """Whether all of a task's problems are loaded in a moment; arguments of load_problems."""
    dataset = arguments.get("dataset")
    file = None if dataset is None else local_file(task, dataset)
    here = dataset is None or (file is not None and file.stat().st_size <= QUICK)
    return here and not find_kind(task, kind or task).endless


def load_problems(
    task: str,
    split: str,
    count: int | None,
    seed: int,
    *,
    kind: str | None = None,
    dataset: Mapping[str, Any] | None = None,
    prompt_template: str | None = None,
    system_prompt: str | None = None,
    grade_after: str | None = None,
    **options: Any,
) -> list[Problem]:
    """Problems of one split, the same for the same arguments in every process.

    Args:
        task: the task's name; it is stored with every generation.
        split: train, validation, test, ...: disjoint whatever `seed` and `count` are (splits.py).
        count: how many; None for all of a finite split. With the same seed a smaller count of a
            generated task is a prefix of a larger one.
        seed: which problems, and their order; not which split a problem is in.
        kind: loader and grader, one of KINDS; the task's name if not given.
        dataset: path, name, revision, split, problem, answer: for kinds that read a data set.
        prompt_template: how a problem is posed, with {problem} in it; None for the kind's default.
        system_prompt: a turn before it; None for none.
        grade_after: only what follows this mark is graded; None for the whole response.
        options: the kind's own (AdditionOptions, ArithmeticOptions, DifferencesOptions,
            MathOptions, GymOptions, CodeOptions and its kin).

    Raises:
        PipelineError: unknown kind, option, split or column; missing file; too few problems, or
            none at all.
    """
    kind = kind or task
    found, parsed = _parse(task, kind, dataset, prompt_template, grade_after, options)
    request = Request(task, split, count, seed, dataset or {}, prompt_template, system_prompt)
    problems = found.load(request, parsed)
    if not problems:
        raise PipelineError(
            f"task {task}: its {split} split has no problems; give it a larger share in "
            "options.splits, or a data set with more rows"
        )
    mark = {} if grade_after is None else {MARK: grade_after}
    return [replace(p, meta={**p.meta, **mark}, task=task, kind=kind) for p in problems]


def grade_many(
    task: str,
    pairs: Pairs,
    *,
    kind: str | None = None,
    done: Done = None,
    **options: Any,
) -> list[Grade]:
    """Grade (problem, response) pairs of one task, in parallel where the kind needs processes.

    Of a problem with a mark (load_problems: grade_after) only what follows it is graded.

    Args:
        done: called once a response or so as grading proceeds (progress).
        options: as for load_problems.
    """
    if not pairs:
        return []
    kind = kind or pairs[0][0].kind or task
    found = find_kind(task, kind)
    parsed = parse_options(found.schema, task, options)
    answers = [after_thought(text, problem.meta.get(MARK)) for problem, text in pairs]
    finished = [(p, a) for (p, _), a in zip(pairs, answers, strict=True) if a is not None]
    graded = iter(found.grade(task, finished, parsed, done) if finished else [])
    if done is not None:
        for _ in range(len(pairs) - len(finished)):
            done()
    return [Grade(False, "no_answer") if answer is None else next(graded) for answer in answers]


def grade(task: str, problem: Problem, text: str, **options: Any) -> Grade:
    """Grade one response."""
    return grade_many(task, [(problem, text)], **options)[0]
