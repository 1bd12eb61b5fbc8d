r"""Trees in one form before they are compared: \pm, vectors, and what symbols are called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pipeline.tasks.answers.nodes import INFINITY, Node, add, mul, negative, rewrite, walk

SCALED = ("tuple", "matrix", "set")


def plain(node: Node) -> Node:
    r"""Without \pm (two values instead), and with vectors computed."""
    return rewrite(_expanded(node), _computed)


def _expanded(node: Node) -> Node:
    r"""1 \pm x as the list 1 + x, 1 - x; the signs of one expression go together."""
    if node.kind in ("list", "set"):
        parts: list[Node] = []
        for part in node.parts:
            wide = _expanded(part)
            parts += wide.parts if wide.kind == "list" and part.kind != "list" else (wide,)
        return replace(node, parts=tuple(parts))
    if not any(n.kind == "pm" for n in walk(node)):
        return node
    return Node("list", tuple(rewrite(node, _chosen(sign)) for sign in ("+-", "-+")))


def _chosen(positive: str) -> Callable[[Node], Node]:
    def change(node: Node) -> Node:
        if node.kind == "pm":
            return node.parts[0] if node.name == positive else negative(node.parts[0])
        if node.kind == "add":
            return add(list(node.parts))
        return mul(list(node.parts)) if node.kind == "mul" else node

    return change


def _computed(node: Node) -> Node:
    """A number times a vector, sums of vectors, transposes, unions of sets."""
    vectors = [part for part in node.parts if part.kind in SCALED]
    if node.kind == "mul" and len(vectors) == 1 and vectors[0].name not in ("(]", "[)"):
        scalars = [part for part in node.parts if part is not vectors[0]]
        return replace(vectors[0], parts=tuple(mul([*scalars, p]) for p in vectors[0].parts))
    if node.kind == "add" and len(vectors) == len(node.parts) and vectors[0].kind != "set":
        shapes = {(v.kind, v.name, len(v.parts)) for v in vectors}
        if len(shapes) == 1:
            columns = zip(*(v.parts for v in vectors), strict=True)
            return replace(vectors[0], parts=tuple(add(list(column)) for column in columns))
    if node.kind == "rel" and node.name == "=" and len(vectors) == len(node.parts) == 2:
        names, values = vectors  # (x, y) = (1, 2)
        if len(names.parts) == len(values.parts) and all(p.kind == "sym" for p in names.parts):
            pairs = zip(names.parts, values.parts, strict=True)
            return Node("list", tuple(Node("rel", pair, name="=") for pair in pairs))
    if node.kind == "tuple" and len(node.parts) == 2:  # an infinite end is open
        ends = [_is_infinite(part) for part in node.parts]
        name = "".join(r if e else own for e, r, own in zip(ends, "()", node.name, strict=True))
        return replace(node, name=name)
    if node.name == "mark top" and vectors:
        (vector,) = vectors
        if vector.kind != "matrix":
            return vector
        width = int(vector.name)
        turned = [vector.parts[i::width] for i in range(width)]
        cells = tuple(cell for row in turned for cell in row)
        return replace(vector, parts=cells, name=str(len(vector.parts) // width))
    if node.kind == "union" and all(part.kind == "set" for part in node.parts):
        return Node("set", tuple(p for part in node.parts for p in part.parts))
    return node


def _is_infinite(node: Node) -> bool:
    return node in (INFINITY, negative(INFINITY))


def alike(gold: Node, answer: Node) -> tuple[Node, Node]:
    """Both with the same names where they differ in how, not what, they name.

    x and X are one symbol unless one side holds both; x' is dx/dt if the other writes that; u is
    u(t) if one side never writes an argument.
    """
    gold, answer = _unqualified(gold, answer)
    answer = _one_case(gold, answer)
    gold, answer = _one_variable(gold, answer), _one_variable(answer, gold)
    return _without_arguments(gold, answer), _without_arguments(answer, gold)


def _unqualified(gold: Node, answer: Node) -> tuple[Node, Node]:
    r"""Without k \in \mathbb{Z} behind what holds k; a k that both qualify has the gold's name."""
    sides = [_split_qualifier(gold), _split_qualifier(answer)]
    (gold, variable), (answer, other) = sides
    if variable is not None and other is not None:
        answer = rewrite(answer, lambda n: variable if n == other else n)
    return gold, answer


def _split_qualifier(node: Node) -> tuple[Node, Node | None]:
    if node.kind != "list" or len(node.parts) < 2:
        return node, None
    *rest, last = node.parts
    if last.kind != "rel" or last.name != "in" or not last.parts[1].name.startswith("mathbb"):
        return node, None
    variable = last.parts[0]
    named = any(variable in part.parts for part in rest if part.kind == "rel")
    if named or not all(variable in walk(part) for part in rest):
        return node, None
    return rest[0] if len(rest) == 1 else replace(node, parts=tuple(rest)), variable


def _one_case(gold: Node, answer: Node) -> Node:
    """The answer with the gold's case for its symbols."""
    golds, answers = ({n.name for n in walk(x) if n.kind == "sym"} for x in (gold, answer))
    for names in (golds, answers):
        if len({_folded(name) for name in names}) < len(names):
            return answer
    spelt = {_folded(name): name for name in golds}
    return rewrite(answer, _rename(lambda name: spelt.get(_folded(name), name)))


def _folded(name: str) -> str:
    base, mark, index = name.partition("_")
    return f"{base.lower()}{mark}{index}" if len(base) == 1 else name


def _rename(change: Callable[[str], str]) -> Callable[[Node], Node]:
    return lambda node: replace(node, name=change(node.name)) if node.kind == "sym" else node


def _one_variable(side: Node, other: Node) -> Node:
    """x' by the variable of the other side's derivatives, if that has one for all."""
    by = {
        n.name[2:].partition("^")[0]
        for n in walk(other)
        if n.kind == "sym" and n.name.startswith("D/")
    }
    if len(by) != 1 or " " in (variable := by.pop()) or variable == "?":
        return side
    return rewrite(side, _rename(lambda name: name.replace("D/?^", f"D/{variable}^")))


def _without_arguments(side: Node, other: Node) -> Node:
    if any(n.kind == "apply" for n in walk(other)):
        return side
    arguments: dict[Node, set[tuple[Node, ...]]] = {}
    for n in walk(side):
        if n.kind == "apply":
            arguments.setdefault(n.parts[0], set()).add(n.parts[1:])
    plain_ones = {
        function
        for function, lists in arguments.items()
        if len(lists) == 1 and all(len(x) == 1 and x[0].kind == "sym" for x in lists)
    }
    return rewrite(
        side, lambda n: n.parts[0] if n.kind == "apply" and n.parts[0] in plain_ones else n
    )
