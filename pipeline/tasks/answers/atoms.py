r"""Numbers, symbols, fractions and roots, and what follows them: ^ _ ! % ' and (x) of f(x)."""

from __future__ import annotations

import math
from abc import abstractmethod

from pipeline.tasks.answers.brackets import Brackets
from pipeline.tasks.answers.lexer import Token
from pipeline.tasks.answers.nodes import (
    MINUS_ONE,
    ONE,
    Node,
    UnreadableError,
    divide,
    mul,
    negative,
    number,
    power,
    symbol,
)
from pipeline.tasks.answers.notation import listed
from pipeline.tasks.answers.units import unit

FIGURES = ("angle", "triangle", "measuredangle")
LARGEST_FACTORIAL = 1000
LARGEST_BASE = 100  # of a number written with an index
NUMERALS = {
    name: str(value)
    for value, name in enumerate(
        listed("zero one two three four five six seven eight nine ten eleven twelve")
    )
}


class Atoms(Brackets):
    """Factors of a product."""

    @abstractmethod
    def exponent(self) -> Node: ...

    @abstractmethod
    def function(self) -> Node: ...

    def factor(self) -> Node:
        """An atom and what follows it."""
        return self.followed(self.primary())

    def raises_to_degrees(self) -> bool:
        """Whether a small circle comes next, at its place above a number."""
        after = [self.peek(ahead).text for ahead in range(3)]
        return after[1] == "circ" or after[1:] == ["{", "circ"]

    def followed(self, node: Node) -> Node:
        """A node with the powers, indices and signs after it."""
        while True:
            if _is_inverse(node) and self.applies():
                node = symbol(f"{node.parts[0].name}^-1")
            if node.kind == "sym" and self.applies():
                inner = self.bracket()
                parts = inner.parts if inner.kind == "tuple" else (inner,)
                node = Node("apply", (node, *parts))
            if not self.at("^", "_", "!", "%", "'", "circ"):
                return node
            mark = self.take().text
            if mark == "^":
                node = self.raised(node)
            elif mark == "_":
                node = self.lowered(node)
            elif mark == "!":
                node = self.factorial(node)
            elif mark == "%":
                node = Node("percent", (node,))
            elif mark == "circ":
                node = mul([node, unit("deg")])
            else:
                node = self.primed(node, 1)

    def primary(self) -> Node:
        """An atom."""
        token = self.peek()
        if token.kind == "func":
            return self.function()
        if token.kind == "op":
            return self.compound(token.text)
        if token.kind not in ("num", "sym", "const", "text"):
            self.refuse()
        self.take()
        if token.text in FIGURES:
            return self.figure(token.text)
        return token.number or Node(token.kind, name=token.text)

    def figure(self, kind: str) -> Node:
        r"""\angle ABC: a name, read from either end; of a triangle, in any order."""
        letters = ""
        while self.peek().kind == "sym" and len(self.peek().text) == 1:
            letters += self.take().text
        in_order = "".join(sorted(letters)) if kind == "triangle" else min(letters, letters[::-1])
        return symbol(f"{kind} {in_order}")

    def compound(self, text: str) -> Node:
        """What begins with a bracket or a command with arguments."""
        head, _, rest = text.partition(":")
        if text in ("(", "[", "<<"):
            return self.bracket()
        if text == "{":
            return self.group()
        if text == "\\{":
            return self.set()
        if head == "begin":
            return self.environment()
        if text in BETWEEN:
            closing, name = BETWEEN[text]
            return Node("func", (self.between(closing),), name=name)
        if text not in COMPOUND and head not in COMPOUND:
            self.refuse()
        self.take()
        if text == "empty":
            return Node("set")
        if text == "frac":
            top, bottom = self.argument(), self.argument()
            return derivative(top, bottom) or divide(top, bottom)
        if text == "binom":
            return self.choose(self.argument(), self.argument())
        if text == "sqrt":
            return self.root()
        if head == "dot":
            return Node("sym", (self.argument(),), name=f"D/t^{rest}")
        if head == "money":
            sign = "-" if self.accept("-") else "+"
            worth = self.factor() if self.peek().kind == "num" or self.at("(", "{") else ONE
            return mul([unit(rest), negative(worth) if sign == "-" else worth])
        return self.decorated(rest)

    def decorated(self, command: str) -> Node:
        r"""\bar{x} and its like: a symbol with a name of its own."""
        group = self.braces() if self.at("{") else [self.peek()]
        self.position += len(group) + 2 * self.at("{")
        return symbol(f"{command}{{{''.join(token.text for token in group)}}}")

    def root(self) -> Node:
        r"""\sqrt{x}, \sqrt[3]{x}, \sqrt 2, \sqrt(2)."""
        degree = number(2)
        if self.accept("["):
            with self.inside():
                degree = self.statement()
            self.expect("]")
        radicand = self.primary()
        value, n = radicand.value, degree.value
        if n == 2 and value is not None and value >= 0:
            top, bottom = math.isqrt(value.numerator), math.isqrt(value.denominator)
            if top * top == value.numerator and bottom * bottom == value.denominator:
                return number(top) if bottom == 1 else divide(number(top), number(bottom))
        return Node("func", (radicand, degree), name="root")

    def argument(self) -> Node:
        r"""Of \frac: a group or one token; of a number its first digit (\frac12)."""
        token = self.peek()
        if token.kind == "num" and len(token.text) > 1 and token.text.isdigit():
            first, rest = token.text[0], token.text[1:]
            self.tokens[self.position : self.position + 1] = [
                Token("num", first, token.gap, number(int(first))),
                Token("num", rest, False, number(int(rest))),
            ]
        return self.primary()

    def choose(self, top: Node, bottom: Node) -> Node:
        n, k = top.value, bottom.value
        whole = n is not None and k is not None and n.denominator == k.denominator == 1
        if whole and n is not None and k is not None and 0 <= k <= n <= LARGEST_FACTORIAL:
            return number(math.comb(int(n), int(k)))
        return Node("func", (top, bottom), name="binom")

    def factorial(self, node: Node) -> Node:
        if self.at("!"):
            raise UnreadableError("a double factorial", foreign=True)
        n = node.value
        if n is not None and n.denominator == 1 and 0 <= n <= LARGEST_FACTORIAL:
            return number(math.factorial(int(n)))
        return Node("func", (node,), name="factorial")

    def raised(self, base: Node) -> Node:
        """`base` with what stands above it: a power, degrees, primes or a mark."""
        inside = self.at("{")
        group = self.braces() if inside else [self.peek()]
        after = self.position + len(group) + 2 * inside
        texts = [token.text for token in group]
        if texts and set(texts) == {"circ"}:
            self.position = after
            return mul([base, unit("deg")])
        if texts and set(texts) <= {"prime", "'"}:
            self.position = after
            return self.primed(base, len(texts))
        if texts in (["*"], ["dagger"], ["top"]) or (inside and texts in (["+"], ["-"])):
            self.position = after
            return Node("func", (base,), name=f"mark {texts[0]}")
        if base.kind in ("matrix", "tuple") and texts == ["T"]:
            self.position = after
            return Node("func", (base,), name="mark top")
        if base.kind == "sym" and inside and texts[:1] == ["("] and texts[2:] == [")"]:
            self.position = after  # y^{(4)}
            return Node("sym", (base,), name=f"D/?^{texts[1]}")
        return power(base, self.exponent())

    def primed(self, base: Node, times: int) -> Node:
        """A derivative by a variable that is not named; after a number, minutes or seconds."""
        while self.accept("'"):
            times += 1
        if base.kind == "sym":
            return Node("sym", (base,), name=f"D/?^{times}")
        return mul([base, unit("'" * times)])

    def lowered(self, base: Node) -> Node:
        """`base` with its index: part of a symbol's name, or the base of a number's digits."""
        inside = self.at("{")
        group = self.braces() if inside else [self.peek()]
        self.position += len(group) + 2 * inside
        index = "".join(token.text.replace(" ", "") for token in group)
        index = index.strip("{}()").replace("{", "").replace("}", "")
        if not index:
            self.refuse()
        if base.kind == "sym" and base.parts:  # the derivative of x_0
            inner = Node("sym", base.parts[0].parts, name=f"{base.parts[0].name}_{index}")
            return Node("sym", (inner,), name=base.name)
        if base.kind in ("sym", "const"):
            return symbol(f"{base.name if base.kind == 'sym' else base.name[0]}_{index}")
        if base.kind in ("num", "mul", "text"):
            index = NUMERALS.get(index.removeprefix("base"), index.removeprefix("base"))
            if index.isdigit() and 1 < int(index) < LARGEST_BASE:
                return Node("based", (base,), name=str(int(index)))
        raise UnreadableError("an index without a symbol", foreign=True)

    def applies(self) -> bool:
        """Whether ( after a symbol is an application: f(x), I(0), f(x, y); not a(b+c)."""
        if not self.at("("):
            return False
        depth, content = 0, []
        for ahead in range(len(self.tokens) - self.position):
            token = self.peek(ahead)
            if token.kind == "op":
                depth += (token.text == "(") - (token.text == ")")
            if depth == 0:
                break
            if depth == 1 and (token.kind == "sep" or token.text == "|"):
                return True
            content.append(token)
        inner = content[2:] if [t.text for t in content[1:2]] == ["-"] else content[1:]
        has_index = len(inner) > 1 and inner[1].text == "_"
        return (len(inner) == 1 or has_index) and inner[0].kind in ("num", "sym", "const")


def _is_inverse(node: Node) -> bool:
    """f^{-1}, a function's inverse where it has an argument."""
    return node.kind == "pow" and node.parts[0].kind == "sym" and node.parts[1] == MINUS_ONE


COMPOUND = {"empty", "frac", "binom", "sqrt", "dot", "money", "decor"}
BETWEEN = {
    "|": ("|", "abs"),
    "||": ("||", "norm"),
    "lfloor": ("rfloor", "floor"),
    "lceil": ("rceil", "ceil"),
}


def derivative(top: Node, bottom: Node) -> Node | None:
    """dx/dt as one symbol; None if the quotient is another."""
    under, over = (n.parts if n.kind == "mul" else (n,) for n in (bottom, top))
    d = under[0]
    head = over[0].parts[0] if over[0].kind == "pow" else over[0]
    if d not in (symbol("d"), symbol("partial")) or len(under) < 2 or head != d:
        return None
    counts: dict[str, int] = {}
    for variable in under:
        if variable == d:
            continue
        base, times = variable, 1
        if variable.kind == "pow" and variable.parts[1].value is not None:
            base, times = variable.parts[0], int(variable.parts[1].value)
        counts[base.name] = counts.get(base.name, 0) + times
    order = over[0].parts[1].value if over[0].kind == "pow" else 1
    if order != sum(counts.values()):
        return None
    by = " ".join(f"{name}^{times}" for name, times in sorted(counts.items()))
    return Node("sym", (mul(list(over[1:])) if over[1:] else ONE,), name=f"D/{by}")
