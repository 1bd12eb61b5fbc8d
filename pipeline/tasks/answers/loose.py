r"""Looser readings of a refused answer: for a person to look at, never for a score."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from pipeline.tasks.answers.equality import same_answer
from pipeline.tasks.answers.evaluate import constant
from pipeline.tasks.answers.forms import plain
from pipeline.tasks.answers.nodes import Node, UnreadableError
from pipeline.tasks.answers.notation import normalise
from pipeline.tasks.answers.reader import readings
from pipeline.tasks.answers.relations import sides
from pipeline.tasks.answers.values import plain_value, split_units

NEAR = 0.01  # relative difference of numbers that deserve a look
# name: what agrees. In the order in which they are shown.
MEANING = {
    "another_box": "an earlier box holds the gold",
    "last_number": "the last number of the response is the gold",
    "near": "the numbers differ by 1 % at most",
    "units": "equal without units",
    "last_side": "the last side of an equation is the gold",
    "contained": "the gold stands in the answer",
    "words": "the same letters and digits",
    "math_verify": "math-verify calls them equal",
    "thought": "right if what stands before the mark of task.grade_after counts",
}


def looser(
    gold: str,
    answer: str | None,
    boxes: Sequence[str],
    last_number: str | None,
    thought: str | None,
) -> list[str]:
    """The names of the readings by which the answer would be right.

    Args:
        answer: what was refused; None if nothing was found in the response.
        boxes: the response's other boxes.
        last_number: the last number of the response.
        thought: the last box of a thought that is not finished.
    """
    tests: dict[str, Callable[[], bool]] = {
        "another_box": lambda: any(same_answer(gold, box) for box in boxes),
        "last_number": lambda: last_number is not None and same_answer(gold, last_number),
        "thought": lambda: thought is not None and same_answer(gold, thought),
    }
    if answer:
        tests |= {
            "near": lambda: _near(gold, answer),
            "units": lambda: _without_units(gold, answer),
            "last_side": lambda: _last_side(gold, answer),
            "contained": lambda: _contained(gold, answer),
            "words": lambda: _letters(gold) == _letters(answer) != "",
            "math_verify": lambda: math_verify(gold, answer),
        }
    return [name for name, test in tests.items() if _holds(test)]


def _holds(test: Callable[[], bool]) -> bool:
    try:
        return test()
    except (UnreadableError, RecursionError):
        return False


def _trees(text: str) -> list[Node]:
    return [plain(node) for node in readings(text)]


def _near(gold: str, answer: str) -> bool:
    for g in _trees(gold):
        for a in _trees(answer):
            values = [constant(split_units(node)[0]) for node in (g, a)]
            if values[0] is None or values[1] is None:
                continue
            if abs(values[0] - values[1]) <= NEAR * abs(values[0]):
                return True
    return False


def _without_units(gold: str, answer: str) -> bool:
    pairs = ((g, a) for g in _trees(gold) for a in _trees(answer))
    return any(plain_value(split_units(g)[0], split_units(a)[0]) for g, a in pairs)


def _last_side(gold: str, answer: str) -> bool:
    for node in _trees(answer):
        if node.kind == "rel" and sides(node) is not None:
            last = node.parts[-1]
            if any(plain_value(g, last) for g in _trees(gold)):
                return True
    return False


def _contained(gold: str, answer: str) -> bool:
    short, long = (normalise(text).replace(" ", "") for text in (gold, answer))
    if not short or short == long:
        return False
    return re.search(rf"(?<![\w.\\]){re.escape(short)}(?![\w.])", long) is not None


def _letters(text: str) -> str:
    return "".join(re.findall(r"[a-z0-9]", re.sub(r"\\[a-z]+", "", text.lower())))


def math_verify(gold: str, answer: str) -> bool:
    """Its verdict as it stands. LaTeX only: the reader of plain expressions ends in eval."""
    from math_verify import LatexExtractionConfig, parse, verify

    config = [LatexExtractionConfig()]
    sides = [parse(f"\\boxed{{{text}}}", config, parsing_timeout=None) for text in (gold, answer)]
    return bool(all(sides) and verify(sides[0], sides[1], timeout_seconds=None))
