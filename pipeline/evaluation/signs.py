"""What responses show of a model that has come apart: loops, and questions repeated as answers.

Read from its text, so that rows of every engine, and of earlier versions, have it. Cheap: a
response costs one look at its last two kilobytes.
"""

from __future__ import annotations

import zlib

TAIL = 2048  # bytes at the end of a response that are looked at for a loop
SHORTEST_LOOP = 64  # bytes; a shorter response says nothing about loops
LOOP = 0.15  # deflated size over size, below which an end is a loop (docs/evaluate.md says why)
SHORTEST_COPY = 12  # characters; a shorter response may be a word of the question by right
GRAM = 8  # characters that are looked up in the question together
COPY = 0.9  # share of a response's grams that are in the question, from which it is a copy


def looping(text: str) -> bool:
    """Whether the end of a response says the same again and again.

    The deflated size tells, whatever is repeated, letters, lines or paragraphs, and however exact:
    only what is new takes room.
    """
    end = text.encode("utf-8", "replace")[-TAIL:]
    if len(end) < SHORTEST_LOOP:
        return False
    packer = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    return len(packer.compress(end)) + len(packer.flush()) < LOOP * len(end)


def copied(text: str, question: str) -> bool:
    """Whether a response is a piece of its question, and little else.

    Case and spacing do not matter. A response that restates the question and then answers it is no
    copy, however short the answer: its end is new.
    """
    said, asked = _plain(text), _plain(question)
    if not SHORTEST_COPY <= len(said) <= 2 * len(asked):
        return False
    grams = [said[start : start + GRAM] for start in range(len(said) - GRAM + 1)]
    there = {asked[start : start + GRAM] for start in range(len(asked) - GRAM + 1)}
    return grams[-1] in there and sum(gram in there for gram in grams) >= COPY * len(grams)


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
