"""The front door of the tasks: load problems, encode prompts, grade responses, reward training.

A task is a name, a kind (which loader and grader) and plain values; the values live in
`conf/task/<name>.yaml`. The grader of evaluation and the reward of training are the same function.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pipeline.errors import PipelineError
from pipeline.tasks import arithmetic, code, gym, maths
from pipeline.tasks.problem import (
    Grade,
    Message,
    Problem,
    Request,
    check_template,
    parse_options,
)
from pipeline.tasks.rows import is_quick, local_file
from pipeline.tasks.sandbox import check_mode
from pipeline.tasks.splits import check_shares

Pairs = Sequence[tuple[Problem, str]]
Done = Callable[[], object] | None


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
    task: str, kind: str, dataset: Mapping[str, Any] | None, options: Mapping[str, Any]
) -> tuple[Kind, Any]:
    found = find_kind(task, kind)
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
    **options: Any,
) -> None:
    """Find what can be found wrong with a task without loading it; arguments of load_problems.

    Raises:
        PipelineError: unknown kind or option, shares that do not sum to 1, a local file that is
            not there, a package or the sandbox missing.
    """
    _, parsed = _parse(task, kind or task, dataset, options)
    check_shares(task, parsed.splits)
    check_template(task, prompt_template)
    if hasattr(parsed, "sandbox"):
        check_mode(task, parsed.sandbox)
    if isinstance(parsed, gym.GymOptions):
        gym.create(task, parsed.generator, parsed.config)
    file = local_file(dataset) if dataset else None
    if file is not None and not file.is_file():
        raise PipelineError(f"task {task}: {file}: no such file (task.dataset.path)")


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
        cheap = is_quick(dataset) if local_file(dataset) else fetch and not found.large
        if not cheap:
            return
    if found.endless and count is not None:
        count = min(count, 1)
    load_problems(task, split, count, seed, kind=kind, **arguments)


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
    **options: Any,
) -> list[Problem]:
    """Problems of one split, the same for the same arguments in every process.

    Args:
        task: the task's name; it is stored with every generation.
        split: train, validation or test: disjoint whatever `seed` and `count` are (splits.py).
        count: how many; None for all of a finite split. With the same seed a smaller count of a
            generated task is a prefix of a larger one.
        seed: which problems, and their order; not which split a problem is in.
        kind: loader and grader, one of KINDS; the task's name if not given.
        dataset: path, name, revision, split, problem, answer: for kinds that read a data set.
        prompt_template: how a problem is posed, with {problem} in it; None for the kind's default.
        system_prompt: a turn before it; None for none.
        options: the kind's own (AdditionOptions, ArithmeticOptions, MathOptions,
            GymOptions, CodeOptions and its kin).

    Raises:
        PipelineError: unknown kind, option, split or column; missing file; too few problems.
    """
    kind = kind or task
    found, parsed = _parse(task, kind, dataset, options)
    check_template(task, prompt_template)
    request = Request(task, split, count, seed, dataset or {}, prompt_template, system_prompt)
    problems = found.load(request, parsed)
    return [
        Problem(p.id, p.prompt, p.answer, p.split, p.meta, task=task, kind=kind) for p in problems
    ]


def encode_prompt(tokenizer: Any, problem: Problem, **template: Any) -> list[int]:
    """Token ids of the prompt, as TRL encodes it in training.

    Messages go through the tokenizer's chat template, with the opening of the assistant's turn; a
    plain string is tokenised as it is.

    Args:
        template: passed to the chat template (enable_thinking and the like).

    Raises:
        PipelineError: messages, but the tokenizer has no chat template.
    """
    if isinstance(problem.prompt, str):
        return [int(token) for token in tokenizer(problem.prompt)["input_ids"]]
    if not tokenizer.chat_template:
        raise PipelineError(
            f"task {problem.task}: the tokenizer {tokenizer.name_or_path} has no chat template; "
            "use an instruct model, or plain prompts (task.options.chat=false)"
        )
    encoded = tokenizer.apply_chat_template(
        problem.prompt, add_generation_prompt=True, tokenize=True, return_dict=True, **template
    )
    return [int(token) for token in encoded["input_ids"]]


def keep_short(
    tokenizer: Any, problems: Sequence[Problem], max_prompt_tokens: int
) -> tuple[list[Problem], int]:
    """The problems whose prompt fits, and how many were dropped."""
    short = [p for p in problems if len(encode_prompt(tokenizer, p)) <= max_prompt_tokens]
    return short, len(problems) - len(short)


def grade_many(
    task: str,
    pairs: Pairs,
    *,
    kind: str | None = None,
    done: Done = None,
    **options: Any,
) -> list[Grade]:
    """Grade (problem, response) pairs of one task, in parallel where the kind needs processes.

    Args:
        done: called once a response or so as grading goes on (progress).
        options: as for load_problems.
    """
    if not pairs:
        return []
    kind = kind or pairs[0][0].kind or task
    found = find_kind(task, kind)
    return found.grade(task, pairs, parse_options(found.schema, task, options), done)


def grade(task: str, problem: Problem, text: str, **options: Any) -> Grade:
    """Grade one response."""
    return grade_many(task, [(problem, text)], **options)[0]


def training_rows(problems: Sequence[Problem]) -> list[dict[str, Any]]:
    """Rows for a TRL data set: prompt, answer, problem_id, and meta as JSON (one type a column)."""
    return [
        {"prompt": p.prompt, "answer": p.answer, "problem_id": p.id, "meta": json.dumps(p.meta)}
        for p in problems
    ]


def reward_function(
    task: str, *, kind: str | None = None, **options: Any
) -> Callable[..., list[float]]:
    """The grader as a TRL reward: 1.0 for a right completion, 0.0 for any other.

    The returned function takes what TRL 1.16 passes, `f(prompts, completions, completion_ids,
    **columns)`, reads the columns of `training_rows`, and reports the shares of time-outs and of
    completions without an answer through TRL's `log_metric`, if that is given.
    """
    kind = kind or task
    parse_options(find_kind(task, kind).schema, task, options)  # mistakes show before training

    def reward(
        prompts: Sequence[str | list[Message]],
        completions: Sequence[str | list[Message]],
        completion_ids: Sequence[Sequence[int]] | None = None,
        **columns: Any,
    ) -> list[float]:
        if "answer" not in columns:
            raise PipelineError(f"reward of task {task}: the training data has no column 'answer'")
        metas = columns.get("meta") or ["{}"] * len(completions)
        pairs = [
            (Problem("", prompt, answer, "", json.loads(meta), task, kind), completion_text(c))
            for prompt, c, answer, meta in zip(
                prompts, completions, columns["answer"], metas, strict=True
            )
        ]
        grades = grade_many(task, pairs, kind=kind, **options)
        log_metric = columns.get("log_metric")
        if log_metric is not None and grades:
            for status in ("no_answer", "timeout"):
                log_metric(status, sum(g.status == status for g in grades) / len(grades))
        return [float(g.correct) for g in grades]

    reward.__name__ = f"{task}_reward"
    return reward


def completion_text(completion: str | list[Message]) -> str:
    """What the model wrote: the string itself, or the content of the assistant's messages."""
    if isinstance(completion, str):
        return completion
    return "".join(message["content"] or "" for message in completion)
