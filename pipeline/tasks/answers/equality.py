r"""Whether an answer is the gold: structure by structure, down to single values (values.py).

Lists and sets are met in any order, pairs and vectors in theirs, intervals with their brackets,
regions of the line however they are written (regions.py), equations by what they say
(relations.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.tasks.answers.forms import alike, plain
from pipeline.tasks.answers.nodes import Node, show
from pipeline.tasks.answers.reader import readings
from pipeline.tasks.answers.regions import (
    Region,
    intersection,
    is_interval,
    merged,
    region,
    unknown,
)
from pipeline.tasks.answers.relations import assigned, is_label, same_relation, says, sides
from pipeline.tasks.answers.values import same_value

MOST = 60  # elements of a list that are matched in any order
COLLECTIONS = ("list", "tuple", "set", "matrix")
NOT_SINGLE = (*COLLECTIONS, "rel", "text", "union", "inter", "minus", "builder")


def same_answer(gold: str, answer: str) -> bool:
    """Whether any reading of the answer is any reading of the gold.

    Raises:
        UnreadableError: one of them cannot be read, or is too large to compute.
    """
    golds = [plain(node) for node in readings(gold, is_gold=True)]
    answers = [plain(node) for node in readings(answer)]
    return any(equal(*alike(g, a)) for g in golds for a in answers)


def equal(gold: Node, answer: Node) -> bool:
    """Whether the answer's tree means the gold's."""
    if show(gold) == show(answer) or _same_region(gold, answer):
        return True
    if "text" in (gold.kind, answer.kind):
        return _word(gold) is not None and _word(gold) == _word(answer)
    if gold.kind in ("list", "tuple") or answer.kind in ("list", "tuple"):
        named = _same_assignments(gold, answer)
        if named is not None:
            return named
    if "rel" in (gold.kind, answer.kind):
        return _same_statement(gold, answer)
    if gold.kind in COLLECTIONS or answer.kind in COLLECTIONS:
        return _same_collection(gold, answer)
    if gold.kind in NOT_SINGLE or answer.kind in NOT_SINGLE:
        compare = _in_any_order if gold.kind in ("union", "inter") else _in_order
        return gold.kind == answer.kind and compare(gold.parts, answer.parts)
    return same_value(gold, answer)


def _word(node: Node) -> str | None:
    """A word, or letters side by side that may be one."""
    if node.kind == "text":
        return node.name.casefold()
    letters = node.parts if node.kind == "mul" else (node,)
    if all(part.kind in ("sym", "const") and len(part.name) == 1 for part in letters):
        return "".join(part.name for part in letters).casefold()
    return None


def _same_statement(gold: Node, answer: Node) -> bool:
    """One of them, or both, are relations."""
    if gold.kind == answer.kind:
        return same_relation(gold, answer, equal)
    if answer.kind == "rel":
        return says(answer, gold, equal)
    found = sides(gold)
    if found is None or not found[0] or all(is_label(value) for value in found[1]):
        return False
    return any(equal(value, answer) for value in found[1])


def _as_matrix(node: Node, like: Node) -> Node:
    """[[1, 2], [3, 4]] beside a matrix is one."""
    rows = node.parts
    if node.kind != "tuple" or like.kind != "matrix" or not rows or not rows[0].parts:
        return node
    width = len(rows[0].parts)
    if any(row.kind != "tuple" or len(row.parts) != width for row in rows):
        return node
    return Node("matrix", tuple(cell for row in rows for cell in row.parts), name=str(width))


def _same_collection(gold: Node, answer: Node) -> bool:
    gold, answer = _as_matrix(gold, answer), _as_matrix(answer, gold)
    kinds = {gold.kind, answer.kind}
    if not kinds <= set(COLLECTIONS):
        one, other = (gold, answer) if gold.kind in COLLECTIONS else (answer, gold)
        if len(one.parts) != 1 or one.kind == "tuple":
            return False
        return equal(one.parts[0], other) if one is gold else equal(other, one.parts[0])
    if kinds <= {"list", "set"}:
        if "set" in kinds:
            return _in_any_order(_distinct(gold.parts), _distinct(answer.parts))
        if {gold.name, answer.name} == {"and", "or"} and not _are_values(gold):
            return False
        return _in_any_order(gold.parts, answer.parts)
    if "set" in kinds or not _same_shape(gold, answer):
        return False
    return _in_order(gold.parts, answer.parts)


def _are_values(node: Node) -> bool:
    """Whether "and" and "or" between the parts say the same: values, not conditions."""
    return all(part.kind != "rel" or set(part.name.split()) <= {"=", "~"} for part in node.parts)


def _same_shape(gold: Node, answer: Node) -> bool:
    """Vectors as tuples, rows or columns; intervals and matrices as they are."""
    if gold.kind == answer.kind == "tuple":
        vectors = len(gold.parts) > 2 and {gold.name, answer.name} <= {"()", "[]"}
        return gold.name == answer.name or vectors
    if gold.kind == answer.kind == "matrix":
        return gold.name == answer.name
    if "list" in (gold.kind, answer.kind):
        return "matrix" not in (gold.kind, answer.kind) and "()" in (gold.name, answer.name)
    flat, matrix = (gold, answer) if gold.kind == "tuple" else (answer, gold)
    is_vector = matrix.name == "1" or int(matrix.name) == len(matrix.parts)
    return is_vector and (flat.name == "()" or len(flat.parts) > 2)


def _in_order(golds: Sequence[Node], answers: Sequence[Node]) -> bool:
    return len(golds) == len(answers) and all(map(equal, golds, answers))


def _in_any_order(golds: Sequence[Node], answers: Sequence[Node]) -> bool:
    """Whether each gold has an answer of its own (a perfect matching, by augmenting paths)."""
    if len(golds) != len(answers):
        return False
    if len(golds) > MOST:
        return _in_order(golds, answers)
    fits = [[equal(gold, answer) for answer in answers] for gold in golds]
    owner: dict[int, int] = {}

    def place(gold: int, seen: set[int]) -> bool:
        for answer in range(len(answers)):
            if fits[gold][answer] and answer not in seen:
                seen.add(answer)
                if answer not in owner or place(owner[answer], seen):
                    owner[answer] = gold
                    return True
        return False

    return all(place(gold, set()) for gold in range(len(golds)))


def _distinct(parts: Sequence[Node]) -> list[Node]:
    """The elements of a set, each once."""
    kept: list[Node] = []
    for part in parts[:MOST]:
        if not any(equal(part, other) for other in kept):
            kept.append(part)
    return [*kept, *parts[MOST:]]


def _same_assignments(gold: Node, answer: Node) -> bool | None:
    """a = 3, b = 4 against its like or against (3, 4); None if neither holds assignments."""
    g, a = assigned(gold), assigned(answer)
    if g is None and a is None:
        return None
    if g is not None and a is not None:
        pairs = [Node("tuple", pair, name="()") for pair in g]
        return _in_any_order(pairs, [Node("tuple", pair, name="()") for pair in a])
    labels = [label.name.partition("_")[0] for label, _ in g or a or []]
    golds = gold.parts if g is None else [value for _, value in g]
    answers = answer.parts if a is None else [value for _, value in a]
    others = answer if a is None else gold
    if others.kind == "set" or (others.kind == "list" and len(set(labels)) == 1):
        return _in_any_order(golds, answers)
    return others.kind in ("list", "tuple") and _in_order(golds, answers)


def _regions(node: Node) -> list[Region]:
    """What a node may mean as a set of numbers.

    Relations joined by "or" mean their union, by "and" what they have in common if they have
    anything (x < 1 and x > 2 can only mean both), by commas either.
    """
    if node.kind == "list" and unknown(node) is not None:
        parts = [region(part) for part in node.parts]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return []
        both: Region | None = known[0]
        for part in known[1:]:
            both = intersection(both, part)
        either = [piece for part in known for piece in part]
        if node.name == "or" or both is None or not merged(both):
            return [either]
        return [both] if node.name == "and" else [either, both]
    found = region(node)
    return [] if found is None else [found]


def _same_region(gold: Node, answer: Node) -> bool:
    if gold.kind == answer.kind == "tuple":
        return False
    names = unknown(gold), unknown(answer)
    if None not in names and names[0] != names[1]:
        return False
    golds, answers = _regions(gold), _regions(answer)
    return any(
        _same_pieces(g, a) for g in golds for a in answers if is_interval(g) or is_interval(a)
    )


def _same_pieces(gold: Region, answer: Region) -> bool:
    g, a = merged(gold), merged(answer)
    ordered = g is not None and a is not None
    g, a = (g, a) if g is not None and a is not None else (gold, answer)

    def node(r: Region) -> list[Node]:
        return [
            Node(
                "tuple", (piece.low, piece.high), name="[("[piece.low_open] + "])"[piece.high_open]
            )
            for piece in r
        ]

    return (_in_order if ordered else _in_any_order)(node(g), node(a))
