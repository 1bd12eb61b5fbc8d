"""Arithmetic on small integers: made on the spot, graded exactly, disjoint by construction.

Two kinds share the machinery. `addition` is for a model made from scratch with one token a
character: the prompt is `12+34=` and the answer is everything that follows. `arithmetic` asks a
chat model in words and takes one integer out of what it says.
"""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.errors import PipelineError
from pipeline.tasks.answers.notation import join_digits
from pipeline.tasks.problem import Grade, Problem, Request
from pipeline.tasks.splits import DEFAULT_SPLITS, check_splits, split_of

ADDITION_ALPHABET = "0123456789+="  # every character of prompts and answers of kind `addition`
ENUMERATE_UP_TO = 200_000  # operand tuples; above this, problems are drawn instead of listed

OPERATIONS: dict[str, Callable[[Sequence[int]], int]] = {
    "sum": sum,
    "product": math.prod,
    "largest": max,
    "smallest": min,
}
NUMBER = re.compile(r"(?<![\w.])-?\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|(?<![\w.])-?\d+(?:\.\d+)?")


@dataclass(frozen=True)
class AdditionOptions:
    """digits: operands lie in [0, 10**digits - 1]; splits, split_seed: see splits.py."""

    digits: int = 2
    operands: int = 2
    splits: Mapping[str, float] = field(default_factory=lambda: DEFAULT_SPLITS)
    split_seed: int = 0


@dataclass(frozen=True)
class ArithmeticOptions:
    """operation: sum, product, largest or smallest of `operands` integers in [low, high].

    extract: "last" or "first" integer of the response is its answer. prompt: the wording, with
    {numbers} for "a, b and c", {sum} for "a + b" and {product} for "a x b".
    """

    operation: str = "sum"
    operands: int = 2
    low: int = 0
    high: int = 9
    prompt: str | None = None
    extract: str = "last"
    splits: Mapping[str, float] = field(default_factory=lambda: DEFAULT_SPLITS)
    split_seed: int = 0


PROMPTS = {
    "sum": "What is {sum}?",
    "product": "What is {product}?",
    "largest": "Which number is the largest: {numbers}?",
    "smallest": "Which number is the smallest: {numbers}?",
}


def load_addition(request: Request, o: AdditionOptions) -> list[Problem]:
    """Problems such as `12+34=` with answer `46`; no padding, no spaces."""
    check_splits(request.task, request.split, o.splits)
    if o.digits < 1 or o.operands < 2:
        raise PipelineError(
            f"task {request.task}: options.digits must be >= 1 and options.operands >= 2"
        )
    draws = _draw(request, o, 0, 10**o.digits - 1, distinct=False)
    return [
        Problem(text, request.pose(f"{text}=", chat=False), str(sum(n)), request.split)
        for n in _take(request, draws)
        for text in ["+".join(map(str, n))]
    ]


def load_arithmetic(request: Request, o: ArithmeticOptions) -> list[Problem]:
    """Chat problems: one user turn, the answer an integer."""
    task = request.task
    check_splits(task, request.split, o.splits)
    if o.operation not in OPERATIONS:
        raise PipelineError(
            f"task {task}: options.operation {o.operation!r} is none of {', '.join(OPERATIONS)}"
        )
    if o.extract not in ("first", "last"):
        raise PipelineError(f"task {task}: options.extract must be first or last")
    distinct = o.operation in ("largest", "smallest")
    if o.operands < 2 or o.high - o.low + 1 < (o.operands if distinct else 1):
        raise PipelineError(f"task {task}: options.low..high has too few numbers for the operands")
    draws = _draw(request, o, o.low, o.high, distinct)
    return [_in_words(request, o, numbers) for numbers in _take(request, draws)]


def _in_words(request: Request, o: ArithmeticOptions, numbers: Sequence[int]) -> Problem:
    wording = o.prompt or PROMPTS[o.operation]
    content = wording.format(
        numbers=", ".join(map(str, numbers[:-1])) + f" or {numbers[-1]}",
        sum=" + ".join(map(str, numbers)),
        product=" x ".join(map(str, numbers)),
    )
    return Problem(
        id=f"{o.operation}:{','.join(map(str, numbers))}",
        prompt=request.pose(content),
        answer=str(OPERATIONS[o.operation](numbers)),
        split=request.split,
        meta={"extract": o.extract},
    )


def _draw(
    request: Request,
    o: AdditionOptions | ArithmeticOptions,
    low: int,
    high: int,
    distinct: bool,
) -> Iterator[tuple[int, ...] | None]:
    """Operand tuples of the split in seeded random order, each once.

    Every operation here is commutative, so the key is the sorted tuple: all orders of the same
    numbers share a split. A finite set ends; from a set too large to list, None is yielded for a
    draw that did not fit, so that the caller can give up.
    """
    rng = random.Random(f"{request.task}/{request.split}/{request.seed}")

    def belongs(numbers: tuple[int, ...]) -> bool:
        key = ",".join(map(str, sorted(numbers)))
        ties = distinct and len(set(numbers)) < o.operands
        return not ties and split_of(key, o.splits, o.split_seed) == request.split

    if (high - low + 1) ** o.operands <= ENUMERATE_UP_TO:
        numbers = range(low, high + 1)
        every = [n for n in itertools.product(numbers, repeat=o.operands) if belongs(n)]
        rng.shuffle(every)
        yield from every
        return
    seen: set[tuple[int, ...]] = set()
    while True:
        drawn = tuple(rng.randint(low, high) for _ in range(o.operands))
        if drawn in seen or not belongs(drawn):
            yield None
        else:
            seen.add(drawn)
            yield drawn


def _take(request: Request, draws: Iterator[tuple[int, ...] | None]) -> list[tuple[int, ...]]:
    """The first `request.count` tuples (all of a finite set if None)."""
    count = request.count
    taken: list[tuple[int, ...]] = []
    misses = 0
    while count is None or len(taken) < count:
        numbers = next(draws, ())
        if numbers == ():
            break
        if numbers is not None:
            taken.append(numbers)
            misses = 0
            continue
        misses += 1
        if count is None:
            raise PipelineError(
                f"task {request.task}: the {request.split} split is too large to list; "
                "give the number of problems"
            )
        if misses > 10_000:
            break
    if count is not None and len(taken) < count:
        raise PipelineError(
            f"task {request.task}: {count} problems wanted but the {request.split} split has "
            f"{len(taken)}; ask for fewer, widen the operands or change options.splits"
        )
    return taken


def grade_addition(problem: Problem, text: str) -> Grade:
    """Right if the response is the answer and nothing else (spaces around it aside)."""
    prediction = text.strip()
    if not re.fullmatch(r"[0-9]+", prediction):
        return Grade(False, "no_answer")
    return Grade(prediction == problem.answer, "ok", prediction)


def grade_arithmetic(problem: Problem, text: str) -> Grade:
    """Right if the last (or first: meta.extract) number of the response is the answer.

    Thousands separators are read (1,234, 1{,}234); a decimal counts as one number, so 7.5 is not 7.
    """
    numbers = NUMBER.findall(join_digits(text))
    if not numbers:
        return Grade(False, "no_answer")
    chosen = numbers[0 if problem.meta.get("extract") == "first" else -1].replace(",", "")
    whole, _, fraction = chosen.partition(".")
    prediction = whole if fraction.strip("0") == "" else chosen
    return Grade(_integer(prediction) == int(problem.answer), "ok", prediction)


def _integer(text: str) -> int | None:
    # 4,300 digits is Python's limit for int(); no answer here is longer than a few
    return int(text) if re.fullmatch(r"-?\d{1,40}", text) else None
