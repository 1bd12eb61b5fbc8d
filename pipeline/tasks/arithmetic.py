"""Arithmetic on small integers: made on the spot, graded exactly, disjoint by construction.

Two kinds share the machinery. `addition` is for a model made from scratch with one token a
character: the prompt is `12+34=` and the answer is everything that follows. `arithmetic` asks a
chat model in words and takes one integer out of what it says.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.errors import PipelineError
from pipeline.tasks.answers.notation import join_digits
from pipeline.tasks.draws import draw
from pipeline.tasks.kind import Example, Kind, one_by_one
from pipeline.tasks.problem import Grade, Problem, Request
from pipeline.tasks.splits import DEFAULT_SPLITS, check_splits

ADDITION_ALPHABET = "0123456789+="  # every character of prompts and answers of kind `addition`
MOST_DIGITS, MOST_OPERANDS = 18, 200  # so that a product has fewer digits than int() reads
LONGEST = 4000  # digits of an answer

OPERATIONS: dict[str, Callable[[Sequence[int]], int]] = {
    "sum": sum,
    "product": math.prod,
    "largest": max,
    "smallest": min,
}
NUMBER = re.compile(r"(?<![\w.])-?\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|(?<![\w.])-?\d+(?:\.\d+)?")


@dataclass(frozen=True)
class AdditionOptions:
    """digits: operands lie in [0, 10**digits - 1]; splits, split_seed: see splits.py.

    At most 18 digits and 200 operands, as of `ArithmeticOptions`.
    """

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
    check_splits(request, o.splits)
    if not 1 <= o.digits <= MOST_DIGITS:
        raise PipelineError(
            f"task {request.task.name}: options.digits must be between 1 and {MOST_DIGITS}, "
            f"not {o.digits}"
        )
    _check_operands(request.task.name, o.operands)
    drawn = draw(request, o, range(10**o.digits), o.operands, _same_numbers)
    return [
        Problem(text, request.task.pose(f"{text}=", chat=False), str(sum(n)), request.split)
        for n in drawn
        for text in ["+".join(map(str, n))]
    ]


def load_arithmetic(request: Request, o: ArithmeticOptions) -> list[Problem]:
    """Chat problems: one user turn, the answer an integer."""
    task = request.task.name
    check_splits(request, o.splits)
    if o.operation not in OPERATIONS:
        raise PipelineError(
            f"task {task}: options.operation {o.operation!r} is none of {', '.join(OPERATIONS)}"
        )
    if o.extract not in ("first", "last"):
        raise PipelineError(f"task {task}: options.extract must be first or last")
    _check_operands(task, o.operands)
    if max(abs(o.low), abs(o.high)) >= 10**MOST_DIGITS:
        raise PipelineError(
            f"task {task}: options.low and options.high can have {MOST_DIGITS} digits at most"
        )
    distinct = o.operation in ("largest", "smallest")
    if o.high - o.low + 1 < (o.operands if distinct else 1):
        raise PipelineError(f"task {task}: options.low..high has too few numbers for the operands")
    key = _same_distinct_numbers if distinct else _same_numbers
    drawn = draw(request, o, range(o.low, o.high + 1), o.operands, key)
    return [_in_words(request, o, numbers) for numbers in drawn]


def _check_operands(task: str, operands: int) -> None:
    if not 2 <= operands <= MOST_OPERANDS:
        raise PipelineError(
            f"task {task}: options.operands must be between 2 and {MOST_OPERANDS}, not {operands}"
        )


def _same_numbers(numbers: Sequence[int]) -> str:
    # every operation here is commutative: all orders of the same numbers share a split
    return ",".join(map(str, sorted(numbers)))


def _same_distinct_numbers(numbers: Sequence[int]) -> str | None:
    return _same_numbers(numbers) if len(set(numbers)) == len(numbers) else None


def _in_words(request: Request, o: ArithmeticOptions, numbers: Sequence[int]) -> Problem:
    wording = o.prompt or PROMPTS[o.operation]
    content = wording.format(
        numbers=", ".join(map(str, numbers[:-1])) + f" or {numbers[-1]}",
        sum=" + ".join(map(str, numbers)),
        product=" x ".join(map(str, numbers)),
    )
    return Problem(
        id=f"{o.operation}:{','.join(map(str, numbers))}",
        prompt=request.task.pose(content),
        answer=str(OPERATIONS[o.operation](numbers)),
        split=request.split,
        meta={"extract": o.extract},
    )


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
    is_read = len(prediction) <= LONGEST and re.fullmatch(r"-?\d+", prediction) is not None
    return Grade(is_read and int(prediction) == int(problem.answer), "ok", prediction)


ADDITION = Kind(
    AdditionOptions,
    load_addition,
    one_by_one(grade_addition),
    Example(
        prompt="12+34=",
        right="46",
        wrong="12+34=46",  # the answer and nothing else is asked for
    ),
)
ARITHMETIC = Kind(
    ArithmeticOptions,
    load_arithmetic,
    one_by_one(grade_arithmetic),
    Example(
        options={"operation": "product", "low": 2, "high": 12},
        prompt="What is 7 x 12?",
        right="7 times 12 makes 84.",
        wrong="84 is 7 x 12",  # the last number counts
    ),
)
