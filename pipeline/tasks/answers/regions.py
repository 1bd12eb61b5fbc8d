r"""Sets of real numbers, however they are written: intervals, unions, inequalities, conditions.

(2, \infty), x > 2, 2 < x, x \in (2, \infty) and \{x \mid x > 2\} are one region.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from pipeline.tasks.answers.evaluate import Value, constant
from pipeline.tasks.answers.nodes import INFINITY, Node, negative, show

REALS = {"all real numbers", "all reals", "real numbers", "all real number", "the real numbers"}
FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!=", "~": "="}


@dataclass(frozen=True)
class Piece:
    """An interval; a point if both ends are one and closed."""

    low: Node
    low_open: bool
    high: Node
    high_open: bool


Region = list[Piece]
LINE = Piece(negative(INFINITY), True, INFINITY, True)


def region(node: Node) -> Region | None:
    """The set of numbers; None if the node is none, or too intricate.

    A pair (a, b) is an open interval here: the caller says what a pair is to be.
    """
    if node.kind == "tuple" and len(node.parts) == 2:
        low, high = node.parts
        return [_piece(low, node.name[0] == "(", high, node.name[1] == ")")]
    if node.kind == "set":
        return [Piece(part, False, part, False) for part in node.parts]
    if node == Node("sym", name="mathbb{R}") or node.name in REALS:
        return [LINE]
    if node.kind == "rel":
        return _relation(node)
    if node.kind == "union":
        parts = [region(part) for part in node.parts]
        return None if None in parts else [piece for part in parts for piece in part or []]
    if node.kind in ("inter", "minus"):
        left, right = (region(part) for part in node.parts)
        if left is None or right is None:
            return None
        return intersection(left, right if node.kind == "inter" else complement(right))
    if node.kind == "builder":
        kept: Region | None = [LINE]
        for condition in node.parts:
            found = [LINE] if condition.kind == "sym" else region(condition)
            kept = intersection(kept, found)
        return kept
    return None


def unknown(node: Node) -> Node | None:
    """The one symbol that the relations of the node are about; None if there is none."""
    relations = [n for n in (node.parts if node.kind == "list" else (node,)) if n.kind == "rel"]
    names = [
        [s for s in n.parts if s.kind == "sym" and not s.name.startswith("mathbb")]
        for n in relations
    ]
    if not names or any(len(found) != 1 for found in names):
        return None
    first = names[0][0]
    return first if all(found[0] == first for found in names) else None


def _piece(low: Node, low_open: bool, high: Node, high_open: bool) -> Piece:
    """An infinite end is always open."""
    is_open = [e in (INFINITY, negative(INFINITY)) for e in (low, high)]
    return Piece(low, low_open or is_open[0], high, high_open or is_open[1])


def _relation(node: Node) -> Region | None:
    """2 < x <= 3, x > 2, x != 2, x in S, x = 2: what is said about one symbol."""
    about = unknown(node)
    signs = node.name.split()
    if about is None:
        return None
    place = node.parts.index(about)
    if place == 0 and signs == ["in"]:
        return region(node.parts[1])
    if place == 0 and signs == ["notin"]:
        return complement(region(node.parts[1]))
    if not set(signs) <= set(FLIPPED) or (len(signs), place) not in ((1, 0), (1, 1), (2, 1)):
        return None
    bounds = [(node.parts[0], FLIPPED[signs[0]])] if place == 1 else []
    bounds += [(node.parts[place + 1], signs[place])] if place < len(signs) else []
    if len(bounds) == 1 and bounds[0][1] in ("=", "~"):
        return [Piece(bounds[0][0], False, bounds[0][0], False)]
    if len(bounds) == 1 and bounds[0][1] == "!=":
        end = bounds[0][0]
        return [Piece(LINE.low, True, end, True), Piece(end, True, LINE.high, True)]
    above = [bound for bound in bounds if bound[1] in (">", ">=")]
    below = [bound for bound in bounds if bound[1] in ("<", "<=")]
    if len(above) > 1 or len(below) > 1 or len(above) + len(below) != len(bounds):
        return None  # 2 < x > 3
    low, low_sign = above[0] if above else (LINE.low, ">")
    high, high_sign = below[0] if below else (LINE.high, "<")
    return [_piece(low, low_sign == ">", high, high_sign == "<")]


def _ends(piece: Piece) -> tuple[Value, Value] | None:
    low, high = constant(piece.low), constant(piece.high)
    return None if low is None or high is None else (low, high)


def complement(pieces: Region | None) -> Region | None:
    """The rest of the line; None where an end has no place on it."""
    ordered = merged(pieces)
    if ordered is None:
        return None
    rest: Region = []
    low, is_open = LINE.low, True
    for piece in ordered:
        if piece.low != LINE.low:
            rest.append(Piece(low, is_open, piece.low, not piece.low_open))
        low, is_open = piece.high, not piece.high_open
    return rest if low == LINE.high else [*rest, Piece(low, is_open, LINE.high, True)]


def intersection(a: Region | None, b: Region | None) -> Region | None:
    """What both have in common: the complement of the union of the complements."""
    if a == [LINE]:
        return b
    if b == [LINE]:
        return a
    outside_a, outside_b = complement(a), complement(b)
    if outside_a is None or outside_b is None:
        return None
    return complement(outside_a + outside_b)


def merged(pieces: Region | None) -> Region | None:
    """The pieces from left to right, those that touch made one; None if they have no order."""
    if pieces is None:
        return None
    placed: list[tuple[Any, Any, Piece]] = []
    for piece in pieces:
        ends = _ends(piece)
        if ends is None:
            return None
        if ends[0] < ends[1] or (ends[0] == ends[1] and not (piece.low_open or piece.high_open)):
            placed.append((*ends, piece))
    placed.sort(key=lambda item: (item[0], item[2].low_open, item[1]))
    result: list[tuple[Any, Any, Piece]] = []
    for low, high, piece in placed:
        if result:
            _, last_high, last = result[-1]
            touches = low == last_high and not (piece.low_open and last.high_open)
            if low < last_high or touches:
                if high > last_high or (high == last_high and not piece.high_open):
                    wider = replace(last, high=piece.high, high_open=piece.high_open)
                    result[-1] = (result[-1][0], high, wider)
                continue
        result.append((low, high, piece))
    return [piece for _, _, piece in result]


def is_interval(pieces: Region) -> bool:
    """Whether it holds an interval, and so is more than a few points."""
    return any(show(piece.low) != show(piece.high) for piece in pieces)
