r"""The verdict on one answer."""

from __future__ import annotations

import re
from typing import Literal

from pipeline.tasks.answers.equality import same_answer
from pipeline.tasks.answers.nodes import TooLargeError, UnreadableError
from pipeline.tasks.answers.notation import normalise
from pipeline.tasks.answers.reader import unreadable

SPACE = re.compile(r"(?<![0-9a-zA-Z]) | (?![0-9a-zA-Z])")
Verdict = Literal["right", "wrong", "timeout", "no_reference"]
# What math-verify drops or misreads; where an answer holds it, only equal texts are right.
DROPPED = re.compile(
    r"'|\\prime|\\d*dot(?![a-z])|\\partial|\\nabla|d[a-z] ?/ ?d"
    r"|frac ?\{ ?(?:\\mathrm ?\{d\}|d)[^a-z]"
    r"|\d ?_|- ?(?:\\left)? ?(?:[(\[]|\\\{)|\^ ?\{? ?(?:T|\\top|\\dagger|\*)|[\d} ][cdghlmost]$"
)


def judge(gold: str, answer: str) -> Verdict:
    """Whether `answer` is `gold`.

    "timeout": it would take too long to compute. "no_reference": nothing is known to equal that
    gold.
    """
    if same_text(gold, answer):
        return "right"
    try:
        return "right" if same_answer(gold, answer) else "wrong"
    except TooLargeError:
        return "timeout"
    except (UnreadableError, RecursionError) as error:
        foreign = isinstance(error, UnreadableError) and error.foreign
    if foreign and same_by_math_verify(gold, answer):
        return "right"
    return "wrong" if unreadable(gold) is None else "no_reference"


def same_text(gold: str, answer: str) -> bool:
    """The same but for what normalise makes one, and spaces (but 2 2/3 is not 22/3)."""
    texts = [SPACE.sub("", normalise(text)) for text in (gold, answer)]
    return texts[0] == texts[1] != ""


def same_by_math_verify(gold: str, answer: str) -> bool:
    """What math-verify says about notation that is not read here: integrals, sums, limits."""
    if DROPPED.search(gold) or DROPPED.search(answer):
        return False
    from math_verify import LatexExtractionConfig, parse, verify
    from sympy import Expr

    # LaTeX only: the reader of plain expressions ends in Python's eval.
    config = [LatexExtractionConfig()]
    sides = [parse(f"\\boxed{{{text}}}", config, parsing_timeout=None) for text in (gold, answer)]
    if not all(sides) or not verify(*sides, timeout_seconds=None):
        return False
    values = [side[0].doit().evalf(40) if isinstance(side[0], Expr) else None for side in sides]
    if any(v is None or v.free_symbols for v in values):
        return True
    # Its comparison of numbers is absolute.
    numbers = [complex(v) for v in values if v is not None]
    return abs(numbers[0] - numbers[1]) <= abs(numbers[0]) * 1e-12
