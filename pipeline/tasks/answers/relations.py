r"""Equations as answers: right by the value of what they solve for, not by their last side.

x = 5 and 5 = x say 5, A = \pi r^2 = 25\pi says 25\pi, 2 + 3 = 5 says 5. 7x = 5 says 5/7. x + y = 5
says nothing about one value. a = 3, b = 4 says (3, 4), in this order.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from pipeline.tasks.answers.evaluate import is_constant, proportion, same_expression
from pipeline.tasks.answers.nodes import Node, add, divide, mul, negative, number, rewrite, walk
from pipeline.tasks.answers.values import plain_value

Same = Callable[[Node, Node], bool]
EQUAL = {"=", "~", "=="}
NO_EXPRESSION = ("tuple", "set", "list", "text", "matrix", "pmod")


def is_label(node: Node) -> bool:
    r"""Whether a side only names a quantity: x, f(x), AB, \angle ABC, |AB|, words, (x, y)."""
    if node.kind in ("sym", "apply", "text"):
        return not node.name.startswith("mathbb")
    if node.kind == "tuple" or node.name in ("abs", "norm"):
        return all(is_label(part) for part in node.parts)
    if node.kind == "mul":
        names = [part.name if part.kind == "sym" else "" for part in node.parts]
        if names[-1].startswith("angle "):  # m\angle A
            return names[:-1] == ["m"]
        return all(len(name) == 1 and name.isupper() for name in names)
    return False


def sides(node: Node) -> tuple[list[Node], list[Node]] | None:
    """The labels and the values of a chain of equations, or of x in a set; else None."""
    signs = set(node.name.split())
    if node.kind != "rel" or not (signs <= EQUAL or signs == {"in"}):
        return None
    labels = [part for part in node.parts if is_label(part)]
    values = [part for part in node.parts if not is_label(part)]
    first = node.parts[0]
    if not labels and first.kind == "const" and first.name in ("e", "i"):  # eccentricity, interest
        return [first], values[1:]
    if not values:  # x = y
        return labels[:1], labels[1:]
    ends = (node.parts[0], node.parts[-1])
    if labels and not any(label in ends for label in labels):
        return None
    return labels, values


def says(node: Node, gold: Node, same: Same) -> bool:
    """Whether an equation says the gold's value."""
    found = sides(node)
    if found is None:
        return False
    labels, values = found
    # With a label, sides that hold symbols are how it was found: A = \pi r^2 = 25\pi.
    meant = [side for side in values if is_constant(side)] if labels else values
    consistent = all(_agree(a, b) for a, b in pairwise(meant))
    if not labels and not consistent:
        return _solved(node, gold, same)
    return consistent and any(same(gold, value) for value in values)


def _agree(a: Node, b: Node) -> bool:
    """Whether two sides of one chain may both be meant: equal, or one the other rounded."""
    return plain_value(a, b) or plain_value(b, a)


def _solved(node: Node, gold: Node, same: Same) -> bool:
    """Whether the gold is the solution of an equation of the first degree in one symbol."""
    if len(node.parts) != 2:
        return False
    difference = add([node.parts[0], negative(node.parts[1])])
    symbols = {n for n in walk(difference) if n.kind == "sym"}
    if len(symbols) != 1 or any(n.kind in ("apply", "unit") for n in walk(difference)):
        return False
    (name,) = symbols
    solution = _solution(difference, name)
    return solution is not None and same(gold, solution)


def _at(node: Node, name: Node, x: int) -> Node:
    """The expression with a number for the symbol."""
    return rewrite(node, lambda n: number(x) if n == name else _folded(n))


def _folded(node: Node) -> Node:
    """A sum or product computed again after numbers were put into it."""
    if node.kind == "add":
        return add(list(node.parts))
    return mul(list(node.parts)) if node.kind == "mul" else node


def same_relation(gold: Node, answer: Node, same: Same) -> bool:
    """Whether two relations say the same."""
    signs = gold.name.split(), answer.name.split()
    if len(signs[0]) == len(signs[1]) == 1 and _equivalent(gold, answer):
        return True
    g, a = sides(gold), sides(answer)
    if g is not None and a is not None and _same_labels(g[0], a[0], same):
        values = ((x, y) for x in g[1] for y in a[1])
        if any(same(x, y) for x, y in values):
            return True
    for parts, order in ((answer.parts, signs[1]), (answer.parts[::-1], _flip(signs[1]))):
        if signs[0] == order and all(map(same, gold.parts, parts)):
            return True
    return False


def _flip(signs: list[str]) -> list[str]:
    other = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
    return [other.get(sign, sign) for sign in reversed(signs)]


def _same_labels(gold: list[Node], answer: list[Node], same: Same) -> bool:
    """y and f(x) name the same, x and y do not."""
    if any(same(g, a) for g in gold for a in answer):
        return True
    kinds = [{n.kind for n in labels} for labels in (gold, answer)]
    if ("text" in kinds[0]) != ("text" in kinds[1]):
        return True
    return "apply" in kinds[0] | kinds[1] and Node("sym", name="y") in gold + answer


def _equivalent(gold: Node, answer: Node) -> bool:
    """Whether one is the other times a number: x = 2y + 3 and 2x - 4y = 6, x < 1 and -x > -1."""
    sign, other = gold.name, answer.name
    g, a = (add([n.parts[0], negative(n.parts[1])]) for n in (gold, answer))
    strict = {"<": True, ">": True, "<=": False, ">=": False}
    if any(n.kind in NO_EXPRESSION for n in (*gold.parts, *answer.parts)):
        return False
    if sign in EQUAL and other in EQUAL:
        factor = proportion(g, a)
        return (factor is not None and factor != 0) or _same_derivative(g, a)
    if sign in strict and other in strict and strict[sign] == strict[other]:
        factor = proportion(g, a)
        same_way = sign[0] == other[0]
        return factor is not None and factor != 0 and (factor > 0) == same_way
    return False


def _same_derivative(gold: Node, answer: Node) -> bool:
    """Differential equations: solved for the derivative they hold, they are the same."""
    names = _derivatives(gold)
    if len(names) != 1 or names != _derivatives(answer):
        return False
    (name,) = names
    solutions = [_solution(side, name) for side in (gold, answer)]
    if solutions[0] is None or solutions[1] is None:
        return False
    return same_expression(solutions[0], solutions[1])


def _derivatives(node: Node) -> set[Node]:
    """The derivatives in an expression, with their arguments if they have some."""
    name = node.parts[0].name if node.kind == "apply" else node.name
    if name.startswith("D/") and node.kind in ("sym", "apply"):
        return {node}
    return {found for part in node.parts for found in _derivatives(part)}


def _solution(difference: Node, name: Node) -> Node | None:
    """Where an expression of the first degree in `name` is zero; None if it is another."""
    start = _at(difference, name, 0)
    slope = add([_at(difference, name, 1), negative(start)])
    lines = (add([start, mul([slope, number(x)])]) for x in (2, 3, -5))
    straight = all(
        same_expression(_at(difference, name, x), line)
        for x, line in zip((2, 3, -5), lines, strict=True)
    )
    is_flat = slope.value == 0 or same_expression(slope, number(0))
    return divide(negative(start), slope) if straight and not is_flat else None


def assigned(node: Node) -> list[tuple[Node, Node]] | None:
    """(label, value) of each of x = 1, y = 2 or x = 1, 2; None if there are others."""
    if node.kind != "list" or not node.parts or node.parts[0].kind != "rel":
        return None
    found: list[tuple[Node, Node]] = []
    for part in node.parts:
        if part.kind != "rel":
            found.append((found[-1][0], part))
            continue
        ends = sides(part)
        if ends is None or not ends[0] or not ends[1]:
            return None
        found.append((ends[0][0], ends[1][-1]))
    return found
