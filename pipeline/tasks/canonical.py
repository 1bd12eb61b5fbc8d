r"""One spelling for equal answers, so that a majority vote counts answers and not their spellings.

No algebra: a number becomes an exact fraction (0.5, 1/2, \frac12 and 50\% are one), a text loses
what only typesets it. Two answers that differ here may still be equal (\sqrt8 and 2\sqrt2): the
grader decides that, where it matters (votes.py). Answers that are equal here are equal.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

from pipeline.tasks.answers.nodes import UnreadableError
from pipeline.tasks.answers.reader import readings

LONGEST = 2000  # characters that are looked into; a longer answer stands for itself
LONGEST_NUMBER = 120  # characters of a number or a sum of numbers
LARGEST_BITS = 8192  # of a number; a larger one is left as text
MOST_PASSES = 10
MOST_BRACKETS = 40  # of an answer that is read as a list

_SIGNS = str.maketrans({"−": "-", "–": "-", "×": "*", "·": "*", "⋅": "*", "÷": "/", "⁄": "/"})
_SPACE = re.compile(r"\\ |~|\\q?quad(?![A-Za-z])|\u00a0")
_NOTHING = re.compile(r"\\[,;:!]|\\(?:displaystyle|left|right|limits)(?![A-Za-z])")
_FONT = re.compile(
    r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mathit|boldsymbol|mbox|operatorname)"
    r"\s*\{([^{}]*)\}"
)
_UNIT = re.compile(r"(.*[\d)}.])\s*([A-Za-z]{2,}(?:\^\{?\d\}?)?)")
_DEGREES = re.compile(r"\^?\{?(?:\\circ|\\degree|°)(?![A-Za-z])\}?$")
_GROUPED = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_FRACTION = re.compile(r"\\[dtc]frac")
_SHORT_FRACTION = re.compile(r"\\frac\s*(\d|\{[^{}]*\})\s*(\d|\{[^{}]*\})")
_NAMED = re.compile(r"[A-Za-z](?:_\{?\w+\}?)?=(?P<after>[^=<>]+)|(?P<before>[^=<>]+)=[A-Za-z]")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
_BARE = re.compile(r"([\^_])([A-Za-z0-9])")
BRACED = r"\1{\2}"


@lru_cache(maxsize=1 << 16)
def canonical(prediction: str) -> str:
    """The spelling that stands for all equal ones, e.g. "1/2" for \\frac{1}{2}, 0.50 and 50\\%.

    Applied to its own result it changes nothing. Any text is taken; a program (several lines) is
    left as it is but for the space around it.
    """
    text = prediction.strip()
    if "\n" in text or len(text) > LONGEST:
        return text
    for _ in range(MOST_PASSES):
        before, text = text, _once(text)
        if text == before:
            break
    return text


def _once(text: str) -> str:
    """One pass: what it uncovers (brackets that were not closed) may be plainer still."""
    text = _plain(text)
    value = _value(text)
    if value is not None:
        return str(value)
    unit = _UNIT.fullmatch(text)
    amount = None if unit is None else _value(unit[1])
    if unit is not None and amount is not None:
        return f"{amount} {_BARE.sub(BRACED, unit[2])}"
    named = _NAMED.fullmatch(re.sub(r"\s", "", text))
    if named is not None:
        inner = named["after"] or named["before"]
        if named["after"] or _value(inner) is not None:
            return canonical(inner)
    return _listed(text) or _symbols(text)


def _plain(text: str) -> str:
    """Without the marks around an answer: dollars, boxes, fonts, a full stop, degrees, spacing."""
    text = _NOTHING.sub("", _SPACE.sub(" ", text.translate(_SIGNS)))
    before = None
    while before != text:
        before = text
        text = _DEGREES.sub("", text.strip().rstrip(".,;:").strip())
        text = re.sub(r"^\(([A-Z])\)$", r"\1", _FONT.sub(r" \1 ", text).strip())  # a choice
        text = text.removeprefix(r"\$").strip()
        for opening, closing in (("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), (r"\boxed{", "}")):
            inner = text[len(opening) : -len(closing)]
            wrapped = text.startswith(opening) and text.endswith(closing) and len(text) > 1
            if wrapped and opening not in inner and _closed(inner):
                text = inner
    return text if "$" in text[1:] else text.removeprefix("$").strip()


def _closed(text: str) -> bool:
    """Whether every brace of `text` is closed in it."""
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", text):
        depth += 1 if brace == "{" else -1
        if depth < 0:
            return False
    return depth == 0


def _value(text: str) -> Fraction | None:
    """The exact value of a number, or of a sum, product or power of numbers, as the grader reads
    it; None for anything else."""
    text = text.strip()
    percent = re.fullmatch(r"(.+?)\s*\\?%", text)
    if percent is not None:
        share = _value(percent[1])
        return None if share is None else share / 100
    if len(text) > LONGEST_NUMBER or not re.search(r"\d", text):
        return None
    try:  # of a gold 1,234 is a number alone; 32, 349 are two
        first, *others = readings(text, is_gold=_GROUPED.fullmatch(text) is not None)
    except UnreadableError:
        return None
    value = None if others else first.value
    if value is None or max(abs(value.numerator), value.denominator).bit_length() > LARGEST_BITS:
        return None
    return value


def _listed(text: str) -> str | None:
    """Several answers: each in its own canonical form; in order only in (), [] and their mixtures.

    None if there is no comma outside of brackets.
    """
    text = text.strip()
    if sum(mark in "([{" for mark in text) > MOST_BRACKETS:
        return None
    opening, closing = "{", "}"
    if text.startswith(r"\{") and text.endswith(r"\}"):
        text = text[2:-2]
    elif text[:1] and text[0] in "([" and text[-1] in ")]" and len(_split(text)) == 1:
        opening, closing, text = text[0], text[-1], text[1:-1]
        if len(_split(text)) == 1:
            return None
    elif text[:1] == "{" and text[-1:] == "}":
        text = text[1:-1]
    elif len(_split(text)) == 1:
        return None
    parts = [canonical(part) for part in _split(text)]
    if opening == "{":
        parts = sorted(set(parts))
        if len(parts) == 1:  # a set of one answer is that answer
            return parts[0] or r"\emptyset"
    return opening + ",".join(parts) + closing


def _split(text: str) -> list[str]:
    """The parts between the commas that are in no bracket."""
    parts, depth, start = [], 0, 0
    for place, mark in enumerate(text):
        depth += (mark in "([{") - (mark in ")]}")
        if mark == "," and depth == 0:
            parts.append(text[start:place])
            start = place + 1
    return [*parts, text[start:]]


def _symbols(text: str) -> str:
    """Words in small letters (a single letter may be a variable), one way to write LaTeX."""
    text = _WORD.sub(lambda match: match[0].lower(), text)
    text = _FRACTION.sub(r"\\frac", text)
    text = _SHORT_FRACTION.sub(
        lambda m: rf"\frac{{{m[1].strip('{}')}}}{{{m[2].strip('{}')}}}", text
    )
    text = _BARE.sub(BRACED, re.sub(r"\s", "", text))
    text = re.sub(r"\\(?:cdot|times)(?![A-Za-z])", "*", text)
    return text.replace(r"\varnothing", r"\emptyset")
