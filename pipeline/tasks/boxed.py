r"""The last \boxed{...} of a response, nested braces and all, in one pass.

A response may hold thousands of openings that never close (a degenerate sample), so the scan keeps
a stack and never looks back: its time is linear in the length.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from itertools import islice

BOX = re.compile(r"\\(?:boxed|fbox|framebox)(?![a-zA-Z])[ \t\n]*")
# Without braces only what can be no part of a sentence: \boxed 5, \boxed\frac{1}{2}.
UNBRACED = re.compile(
    r"-?(?:[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?"
    r"|\\[dt]?frac *(?:\{[^{}]*\}|[0-9]) *(?:\{[^{}]*\}|[0-9])"
    r"|\\(?:sqrt|text|mathrm|mathbf|textbf) *\{[^{}]*\}|\\pi(?![a-zA-Z]))"
)


def last_boxed(text: str) -> str | None:
    r"""Content of the \boxed{} or \fbox{} that closes last, or None.

    Of nested boxes the outer one counts. An opening that never closes (truncated response) is
    passed over. Escaped braces (\{ and \}) are text, and a backslash that is itself escaped
    starts no command.
    """
    last = deque(_spans(text), maxlen=1)
    return text[slice(*last[0])] if last else None


def first_boxes(text: str, most: int) -> list[str]:
    """Content of the boxes that close first, `most` of them."""
    return [text[start:end] for start, end in islice(_spans(text), most)]


def _spans(text: str) -> Iterator[tuple[int, int]]:
    """Where the contents of boxes begin and end, in the order in which they close."""
    stack: list[int] = []  # per open brace: start of the content if a box opened it, else -1
    position, length = 0, len(text)
    while position < length:
        character = text[position]
        if character == "\\":
            box = BOX.match(text, position)
            if box is None:
                position += 2
                continue
            position = box.end()
            if text.startswith("{", position):
                position += 1
                stack.append(position)
            elif (bare := UNBRACED.match(text, position)) is not None:
                yield bare.span()
                position = bare.end()
            continue
        if character == "{":
            stack.append(-1)
        elif character == "}" and stack:
            start = stack.pop()
            if start >= 0:
                yield start, position
        position += 1
