r"""Tokens to a tree: sums, products, powers, functions; lists and relations between them.

What LaTeX leaves open is read as usual: 2\frac{1}{2} is a mixed number, \sin 2x \cos y ends its
argument at the next function, x(t) is a function of t and x(t+1) a product, \frac{dx}{dt} is one
symbol (nothing is differentiated here). 1/2x has two readings: see `tight`.
"""

from __future__ import annotations

import math
from fractions import Fraction

from pipeline.tasks.answers.atoms import Atoms, derivative
from pipeline.tasks.answers.lexer import Token
from pipeline.tasks.answers.nodes import (
    MINUS_ONE,
    Node,
    UnreadableError,
    add,
    divide,
    mul,
    negative,
    number,
    power,
    symbol,
)
from pipeline.tasks.answers.notation import listed
from pipeline.tasks.answers.units import read_units, unit

SIGNS = ("+", "-", "+-", "-+")
OPENS = ("(", "[", "<<", "{", "frac", "sqrt", "binom", "lfloor", "lceil")
LEADING = set(
    listed("approximately about approx nearly around exactly answer option choice is equals the")
)


class Parser(Atoms):
    """tight: a product without a sign binds tighter than a division: 1/2x is 1/(2x), not x/2.

    ambiguous: set where that made a difference.
    """

    def __init__(self, tokens: list[Token], tight: bool = True) -> None:
        super().__init__(tokens)
        self.tight = tight
        self.ambiguous = False
        self.factors = 1  # of the last product

    def answer(self) -> Node:
        """The whole text."""
        items = self.sequence()
        if self.peek().kind != "end":
            self.refuse()
        words = {token.text for token in self.tokens if token.kind == "sep"}
        joined = "or" if "or" in words else "and" if "and" in words else ""
        return items[0] if len(items) == 1 else Node("list", tuple(items), name=joined)

    def sequence(self) -> list[Node]:
        """Statements and what separates them; of a chain of conclusions the last."""
        while self.accept("implies"):
            pass
        items = [self.statement()]
        while True:
            token = self.peek()
            if self.accept("implies"):
                items = [self.statement()]
                continue
            while self.peek().kind == "sep" or (not self.rows and self.at("newline")):
                self.take()
            if self.peek() is token or self.peek().kind == "end" or self.closes():
                return items
            items.append(self.statement())

    def statement(self) -> Node:
        """One side, or several with relation signs between them."""
        if self.peek().kind == "rel" and self.peek().text in ("=", "~"):
            self.take()  # "= 5"
        sides, signs = [self.side()], []
        if sides[0].kind == "text" and self.accept(":"):  # "Answer: 5"
            return self.statement()
        while self.peek().kind == "rel":
            signs.append(self.take().text)
            sides.append(self.side())
        if self.accept("mod"):
            sides[-1] = Node("pmod", (sides[-1], self.factor()))
        return Node("rel", tuple(sides), name=" ".join(signs)) if signs else sides[0]

    def side(self) -> Node:
        """Sets joined by signs of their own, or a ratio."""
        left = self.sum()
        parts = [left]
        while self.at(":") and not self.colon_ends and left.kind != "text":
            self.take()
            parts.append(self.sum())
        if len(parts) > 1:  # with what stands after the last as its unit: 3:45 pm
            last = parts[-1].parts if parts[-1].kind == "mul" else (parts[-1],)
            units = [part for part in last if part.kind == "unit"]
            parts[-1] = mul([part for part in last if part.kind != "unit"])
            return mul([Node("ratio", tuple(parts)), *units])
        kinds = {"cup": "union", "cap": "inter", "setminus": "minus"}
        while self.peek().kind == "op" and self.peek().text in kinds:
            left = Node(kinds[self.take().text], (left, self.sum()))
        return left

    def sum(self) -> Node:
        """Terms with signs between them."""
        terms: list[Node] = []
        sign = self.sign()
        while True:
            term = self.term()
            if sign == "-" and len(terms) == 1 and term.kind == "set":
                terms = [Node("minus", (terms[0], term))]
            else:
                terms.append(_signed(sign, term))
            if not self.at(*SIGNS):
                return add(terms)
            sign = self.sign()

    def sign(self) -> str:
        """The signs before a term, as one: 3 - -5."""
        sign = self.take().text if self.at(*SIGNS) else "+"
        while self.at("+", "-"):
            minus = self.take().text == "-"
            sign = {"+": "-", "-": "+", "+-": "-+", "-+": "+-"}[sign] if minus else sign
        return sign

    def term(self) -> Node:
        """Products and quotients, from left to right."""
        start = self.position
        left = self.product()
        is_literal = self.position == start + 1 and left.value is not None
        while self.at("*", "/", "cross"):
            operator = self.take().text
            sign = self.sign()
            ten = self.peek().text == "10" and self.peek(1).text == "^"
            differential = self.peek().kind == "sym" and self.peek().text in ("d", "partial")
            if operator == "/" and not self.tight and not differential:
                right = _factor(self.factor())
            else:
                right = _factor(self.product())
                if operator == "/" and self.factors > 1 and not differential:
                    self.ambiguous = True
            right = _signed(sign, right)
            if operator == "cross":
                left = Node("func", (left, right), name="mark cross")
            elif operator == "*":
                left = (is_literal and ten and _scientific(left, right)) or mul([left, right])
            else:
                left = derivative(left, right) or divide(_factor(left), right)
            is_literal = False
            if self.starts_factor():
                left = mul([left, self.product()])
        return left

    def product(self, functions: bool = True) -> Node:
        """Factors side by side: 2x, 2 1/2, 5 \\text{ cm}."""
        start = self.position
        first = self.factor()
        if first.kind == "text" and self.at("("):
            inner = self.bracket()  # Var(X)
            first = Node("apply", (symbol(first.name.lower()), inner))
        elif first.kind == "text" and self.starts_factor():
            return self.labelled(first.name.lower(), functions)
        factors = [first]
        if self.position == start + 1 and first.value is not None and first.place is None:
            mixed = self.mixed(first)
            factors = [mixed or first]
        while self.starts_factor() and (functions or self.peek().kind != "func"):
            token = self.peek()
            if token.kind == "text":
                factors.append(self.units())
                if self.peek().kind == "num":
                    raise UnreadableError("a number after a unit")
            elif token.kind == "num" and self.peek(-1).kind == "num":
                raise UnreadableError("two numbers side by side")
            else:
                factors.append(self.factor())
        self.factors = len(factors)
        return mul(factors) if len(factors) > 1 else factors[0]

    def labelled(self, words: str, functions: bool) -> Node:
        """A value after words: "Answer: 5", "about 5", "USD 5"."""
        if words.strip(". ") in CURRENCIES:
            return mul([unit(CURRENCIES[words.strip(". ")]), self.product(functions)])
        if not words.endswith(":") and not set(words.split()) <= LEADING:
            raise UnreadableError("words before a number")
        return self.product(functions)

    def mixed(self, whole: Node) -> Node | None:
        r"""2 1/2 or 2\frac{1}{2} after its whole number; None if it is something else."""
        start = self.position
        fraction = None
        if self.accept("frac"):
            fraction = divide(self.argument(), self.argument())
        else:
            top, slash, bottom = (self.peek(ahead) for ahead in range(3))
            if (
                (top.kind, slash.text, bottom.kind) == ("num", "/", "num")
                and top.number is not None
                and bottom.number is not None
            ):
                self.position += 3
                fraction = divide(top.number, bottom.number)
        if (
            fraction is not None
            and fraction.value is not None
            and 0 < fraction.value < 1
            and whole.value is not None
            and (not self.at("^") or self.raises_to_degrees())
        ):
            return self.followed(number(whole.value + fraction.value))
        self.position = start
        return None

    def units(self) -> Node:
        """Words after a number, with the power that may follow."""
        node = read_units(self.take().text)
        if not self.accept("^"):
            return node
        exponent = self.exponent()
        factors = list(node.parts) if node.kind == "mul" else [node]
        return mul([*factors[:-1], power(factors[-1], exponent)])

    def starts_factor(self) -> bool:
        token = self.peek()
        if token.kind in ("num", "sym", "const", "func", "text"):
            return True
        if token.kind != "op":
            return False
        if token.text == "|":
            return self.bars == 0 and not self.colon_ends
        begins = ("decor", "dot", "begin", "money")
        return token.text in OPENS or token.text.partition(":")[0] in begins

    def exponent(self) -> Node:
        """What stands after ^."""
        if self.at("+", "-"):
            sign = self.take().text
            return _signed(sign, self.exponent())
        base = self.primary()
        return power(base, self.exponent()) if self.accept("^") else base

    def function(self) -> Node:
        """A named function with its index, power and argument."""
        name = self.take().text
        index = raised = None
        while self.at("_", "^"):
            if self.take().text == "_":
                index = self.primary()
            else:
                raised = self.exponent()
        if self.at("(", "[", "{"):
            inner = self.primary()
            arguments = inner.parts if inner.kind == "tuple" else (inner,)
        else:
            arguments = (self.product(functions=False),)
        if raised == MINUS_ONE and f"arc{name}" in ARCS:
            name, raised = f"arc{name}", None
        if name == "exp":
            node = power(Node("const", name="e"), arguments[0])
        elif name in ("log", "lg"):
            node = Node("func", (arguments[0], index or number(10)), name="log")
        elif index is not None:
            raise UnreadableError(f"an index of {name}", foreign=True)
        else:
            node = Node("func", arguments, name=name)
        return node if raised is None else power(node, raised)


CURRENCIES = {"usd": "dollar", "us": "dollar", "rs": "rupee", "inr": "rupee", "eur": "euro"}
ARCS = {f"arc{name}" for name in listed("sin cos tan cot sec csc")}


def _signed(sign: str, node: Node) -> Node:
    if sign in ("+-", "-+"):
        return Node("pm", (node,), name=sign)
    return node if sign == "+" else negative(node)


def _factor(node: Node) -> Node:
    """Words in a product or quotient are units: \\text{km}/\\text{h}."""
    return read_units(node.name) if node.kind == "text" else node


def _scientific(mantissa: Node, ten: Node) -> Node | None:
    r"""3.2 \times 10^{-19}, with the place of its last digit; None if it is another product."""
    if mantissa.value is None or ten.value is None:
        return None
    large = ten.value.numerator if ten.value > 1 else ten.value.denominator
    exponent = round(math.log10(large)) * (1 if ten.value > 1 else -1)
    if ten.value != Fraction(10) ** exponent:
        return None
    return number(mantissa.value * ten.value, (mantissa.place or 0) + exponent)
