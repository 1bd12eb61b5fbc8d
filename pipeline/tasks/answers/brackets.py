r"""The lowest layer of the grammar: a cursor over the tokens, and everything with two ends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.tasks.answers.lexer import END, Token
from pipeline.tasks.answers.nodes import Node, UnreadableError, divide

DEEPEST = 40  # brackets inside brackets
CLOSING = (")", "]", ">>", "\\}", "}", "rfloor", "rceil", "|", "||", "&", "over", "choose")
ROUND = {"<<": "(", ">>": ")"}
MATRICES = {"pmatrix", "bmatrix", "Bmatrix", "matrix", "smallmatrix", "array"}
ROWS = {"cases", "dcases", "rcases", "aligned", "align", "gathered", "split", "gather"}


class Brackets(ABC):
    """A cursor, and brackets of all kinds around what the upper layers read."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.position = 0
        self.depth = 0
        self.bars = 0  # open |
        self.rows = 0  # open environments: \\ and & are theirs
        self.colon_ends = False  # { x : ... }

    @abstractmethod
    def statement(self) -> Node: ...

    @abstractmethod
    def sequence(self) -> list[Node]: ...

    @abstractmethod
    def choose(self, top: Node, bottom: Node) -> Node: ...

    def peek(self, ahead: int = 0) -> Token:
        place = self.position + ahead
        return self.tokens[place] if place < len(self.tokens) else END

    def take(self) -> Token:
        token = self.peek()
        self.position += 1
        return token

    def at(self, *texts: str) -> bool:
        return self.peek().kind == "op" and self.peek().text in texts

    def accept(self, text: str) -> bool:
        found = self.at(text)
        self.position += found
        return found

    def expect(self, *texts: str) -> str:
        if not self.at(*texts):
            self.refuse()
        return self.take().text

    def refuse(self) -> None:
        token = self.peek()
        what = f"{token.text!r} is out of place" if token.text else "it ends too early"
        raise UnreadableError(what, foreign=token.kind == "unknown")

    def closes(self) -> bool:
        return self.at(*CLOSING) or (
            self.peek().kind == "op" and self.peek().text.startswith("end:")
        )

    @contextmanager
    def inside(self, *, bars: int = 0, colon_ends: bool = False, rows: int = 0) -> Iterator[None]:
        """What | and : and \\\\ mean between two brackets."""
        before = self.bars, self.colon_ends, self.rows
        self.bars, self.colon_ends, self.rows = bars, colon_ends, rows
        self.depth += 1
        if self.depth > DEEPEST:
            raise UnreadableError("too many brackets inside brackets")
        yield
        self.depth -= 1
        self.bars, self.colon_ends, self.rows = before

    def braces(self) -> list[Token]:
        """The tokens between this brace and its like; the cursor stays."""
        depth = 0
        for ahead in range(len(self.tokens) - self.position):
            token = self.peek(ahead)
            if token.kind == "op":
                depth += (token.text == "{") - (token.text == "}")
            if depth == 0:
                return self.tokens[self.position + 1 : self.position + ahead]
        raise UnreadableError("a brace that is not closed")

    def bracket(self) -> Node:
        r"""(a), a group; (a, b), [a, b), \langle a, b \rangle."""
        opening = self.expect("(", "[", "<<")
        with self.inside():
            items = self.sequence()
            while self.accept("|"):  # P(A|B)
                items += self.sequence()
        closing = self.expect(")", "]", ">>")
        name = ROUND.get(opening, opening) + ROUND.get(closing, closing)
        if len(items) == 1 and name in ("()", "[]"):
            return items[0]
        return Node("tuple", tuple(items), name=name)

    def group(self) -> Node:
        r"""{...}: braces that only group; with commas, a list."""
        self.expect("{")
        with self.inside():
            items = self.sequence()
            if self.at("over", "choose"):
                over, bottom = self.take().text == "over", self.sequence()
                if len(items) != 1 or len(bottom) != 1:
                    self.refuse()
                make = divide if over else self.choose
                items = [make(items[0], bottom[0])]
        self.expect("}")
        return items[0] if len(items) == 1 else Node("list", tuple(items))

    def set(self) -> Node:
        r"""\{1, 2\}, \{x \mid x > 2\}, \{\}; \{ before a system of equations has no like."""
        self.expect("\\{")
        if self.accept("\\}"):
            return Node("set")
        with self.inside(colon_ends=True):
            first = self.statement()
        with self.inside():
            if self.accept("|") or self.accept(":"):
                node = Node("builder", (first, *self.sequence()))
            elif self.peek().kind == "sep":
                self.take()
                node = Node("set", (first, *self.sequence()))
            else:
                node = Node("set", (first,))
        if first.kind in ("list", "rel") and node.kind == "set" and self.peek().kind == "end":
            return first
        self.expect("\\}")
        return node

    def between(self, closing: str) -> Node:
        """One statement between signs such as | |."""
        self.take()
        with self.inside(bars=int(closing == "|")):
            node = self.statement()
        self.expect(closing)
        return node

    def environment(self) -> Node:
        """A matrix, or lines as a list."""
        name = self.take().text.removeprefix("begin:")
        if name not in MATRICES | ROWS:
            raise UnreadableError(f"the environment {name}", foreign=True)
        rows: list[list[Node]] = [[]]
        with self.inside(rows=1):
            while not self.at(f"end:{name}"):
                if self.accept("newline"):
                    rows.append([])
                elif not self.accept("&"):
                    items = self.sequence()
                    rows[-1] += items
                    if not self.at("&", "newline", f"end:{name}"):
                        self.refuse()
        self.take()
        rows = [row for row in rows if row]
        if name in ROWS:
            lines = [row[0] if len(row) == 1 else Node("list", tuple(row)) for row in rows]
            return lines[0] if len(lines) == 1 else Node("list", tuple(lines))
        width = len(rows[0]) if rows else 0
        if not width or any(len(row) != width for row in rows):
            raise UnreadableError("a matrix with rows of several lengths")
        return Node("matrix", tuple(cell for row in rows for cell in row), name=str(width))
