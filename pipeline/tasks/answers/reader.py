r"""The readings of an answer: usually one; two where notation leaves it open.

1,234 outside brackets is a number or a list, 1/2x is x/2 or 1/(2x), (B) 12 is choice B or its
value. Answers are equal if any of their readings are.
"""

from __future__ import annotations

import re
from functools import lru_cache

from pipeline.tasks.answers import vocabulary as words
from pipeline.tasks.answers.grammar import Parser
from pipeline.tasks.answers.lexer import GROUPED, Lexer, Token
from pipeline.tasks.answers.nodes import Node, UnreadableError
from pipeline.tasks.answers.notation import normalise
from pipeline.tasks.answers.units import MONTHS

PREFIX = re.compile("^(?:(?:the answer is|answer is|answer|option|choice|a|an|the) )+")
SIMPLE = re.compile(
    r"-?(?:[0-9]{1,50}(?:\.[0-9]{1,50})?|\\d?frac\{[0-9]{1,9}\}\{[1-9][0-9]{0,9}\})"
)
LONGEST_PROSE = 10  # words of an answer in words; more is an explanation, which nothing can equal
# (B) 12, B. 12: an answer to a multiple-choice question with its letter
CHOICE = re.compile(
    r"(?:\\[a-z]+ ?)?\{? ?(?:\(([A-H])\)|([A-H])[).:])(?: ?\}| (?=\S)|(?= ?\}))"
    r"[ }]*(?=[^\s}+*/=^_,;!'])"
)
DATE = re.compile(r"\d{4}-\d\d?-\d\d?|\d\d?[/.]\d\d?[/.]\d{4}")
ORDER = re.compile("[A-Z]{3,}")  # letters in an order, or choices: no product, which has none
NOTHING = ("empty set", "null set")
WRAPPERS = re.compile(r"\\(?:" + "|".join(sorted(words.TEXTS | words.FONTS)) + r")(?![a-zA-Z])")


@lru_cache(maxsize=4096)
def readings(text: str, is_gold: bool = False) -> tuple[Node, ...]:
    """The trees that the text may stand for, the likeliest first. In a gold 1,234 is a number.

    Raises:
        UnreadableError: there is none.
    """
    try:
        return _readings(normalise(text), is_gold)
    except RecursionError:
        raise UnreadableError("it is nested too deeply") from None


def _readings(plain: str, is_gold: bool) -> tuple[Node, ...]:
    said = plain if DATE.fullmatch(plain) else prose(plain)
    if said is not None:
        if len(said.split()) > LONGEST_PROSE:
            raise UnreadableError("prose")
        return (Node("set") if said in NOTHING else Node("text", name=said),)
    if ORDER.fullmatch(plain):
        return (Node("text", name=plain.casefold()),)
    found: list[Node] = []
    failed: UnreadableError | None = None
    choice = CHOICE.match(plain)
    for text in (plain, plain[choice.end() :]) if choice else (plain,):
        for grouped in (True, False) if GROUPED.search(text) and not is_gold else (True,):
            try:
                found += _trees(Lexer(text, grouped).run())
            except UnreadableError as error:
                failed = failed or error
                continue
            if choice and text != plain:
                found.append(Node("sym", name=choice[1] or choice[2]))
    found = found or _phrase(plain)
    if not found:
        raise failed or UnreadableError("nothing")
    return tuple(dict.fromkeys(found))


@lru_cache(maxsize=2**17)  # of all golds of a data file, which several stages load
def unreadable(gold: str) -> str | None:
    """Why a gold cannot be read, so that only its own text is sure to be right; None if it can."""
    if SIMPLE.fullmatch(gold):
        return None
    try:
        readings(gold, is_gold=True)
    except UnreadableError as error:
        return str(error)
    return None


def _trees(tokens: list[Token]) -> list[Node]:
    parser = Parser(list(tokens))
    trees = [parser.answer()]
    if parser.ambiguous:
        trees.append(Parser(list(tokens), tight=False).answer())
    return trees


def prose(plain: str) -> str | None:
    """An answer in words, in one spelling; None if it is anything else."""
    bare = WRAPPERS.sub("", plain)
    if bare == plain and not re.search(f"[a-zA-Z]{{{words.BARE_WORD}}}", plain):
        return None
    said = re.sub(r"[{}]", "", bare)
    runs = re.findall("[A-Za-z]+", said)
    known = {*words.SYMBOLS, *words.BARE_CONSTANTS, *words.FUNCTIONS, *words.SPELLINGS}
    if (
        not re.fullmatch(r"[A-Za-z .'()/-]+", said)
        or max(map(len, runs), default=0) < 2
        or any(run in known or run.lower() in words.PERCENT for run in runs if len(run) > 2)
    ):
        return None
    return PREFIX.sub("", " ".join(re.sub(r"[.()]", " ", said).casefold().split()))


def _phrase(plain: str) -> list[Node]:
    """Words and numbers that no grammar joins (dates, 5 ft 3 in): equal if written alike.

    The parts of a date may stand in any order.
    """
    said = re.sub(r"[{}]", " ", WRAPPERS.sub("", plain))
    if re.search(r"[\\^_=<>+*|]", said) or not re.search("[A-Za-z]{2}", said):
        return []
    parts = re.findall(r"[a-z]+|[\d.:/-]*\d", re.sub(r"(?<=\d)(?:st|nd|rd|th)\b", "", said.lower()))
    if len(parts) > LONGEST_PROSE:
        return []
    if any(part in MONTHS for part in parts):
        parts.sort()
    return [Node("text", name=" ".join(parts))]
