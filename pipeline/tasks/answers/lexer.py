r"""Plain LaTeX (notation.py) as tokens.

Kinds: num, sym, const, func, text (words), sep (, ; and or), rel (= < ...), op (everything with a
place in the grammar, under one name for all its spellings), unknown (a command that the grammar
has no place for).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from pipeline.tasks.answers import vocabulary as words
from pipeline.tasks.answers.nodes import Node, TooLargeError, UnreadableError, number
from pipeline.tasks.answers.units import BARE, LETTERS


@dataclass(frozen=True, slots=True)
class Token:
    """gap: whether a space stands before it. number: the value of a num."""

    kind: str
    text: str
    gap: bool = False
    number: Node | None = None


END = Token("end", "")
# A number, then perhaps what repeats without end: 0.\overline{3}, 0.\dot{1}2\dot{3}, 0.(3).
NUMBER = re.compile(
    r"(?:(?P<whole>\d*)\.(?!\.)(?P<part>\d*)"
    r"(?:\\(?:overline|bar) ?\{?(?P<repeat>\d+)\}?|\((?P<round>\d+)\)"
    r"|\\dot ?\{?(?P<first>\d)\}?(?:(?P<middle>\d*)\\dot ?\{?(?P<last>\d)\}?)?)?"
    r"|(?P<digits>\d+))"
    r"(?:[eE](?P<exponent>[+-]?\d+)(?![\d.]*[a-zA-Z\\_^{]))?"
)
GROUPED = re.compile(
    r"(?P<digits>[1-9]\d{0,2}(?:,\d{3})+|[1-9]\d?(?:,\d{2})+,\d{3})(?:\.(?P<part>\d+))?(?![\d,])"
)
RUN = re.compile("[A-Za-z]+")
COMMAND = re.compile(r"\\([a-zA-Z]+\*?|.|$)")
ENVIRONMENT = re.compile(r" ?\{(\w+)\*?\}(?: ?\{[lcr| ]*\})?")
UNIT = re.compile(r"[A-Za-z]+(?:(?:[ ./*^{-]|\\cdot)+[A-Za-z0-9]+\}?)+")
VECTOR = re.compile(r" ?\\(?:vec|mathbf|boldsymbol|bm|overrightarrow|hat) ?\{? ?\\?[a-zA-Z]")
LONGEST = 4000  # characters of a number; Python's int() reads 4300 digits
VALUE_ENDS = {")", "}", "]", "circ", "%"}


def read_number(match: re.Match[str]) -> Node:
    """The value, exactly; its place is that of the last digit of a decimal.

    A repeating decimal is a fraction and has no last digit.
    """
    if len(match[0]) > LONGEST:
        raise TooLargeError
    found = match.groupdict()
    whole = (found.get("whole") or found["digits"] or "").replace(",", "")
    part = found["part"] or ""
    period = found.get("repeat") or found.get("round") or ""
    if found.get("first"):
        period = found["first"] + (found["middle"] or "") + (found["last"] or "")
    value = Fraction(int(f"0{whole}{part}"), 10 ** len(part))
    if period:
        value += Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(part))
    exponent = int(found.get("exponent") or 0)
    if abs(exponent) > 10_000:
        raise UnreadableError("a number is too large")
    is_decimal = not period and (part or found.get("exponent"))
    place = exponent - len(part) if is_decimal else None
    return number(value * Fraction(10) ** exponent, place)


class Lexer:
    """One pass over the text. grouped: 1,234 outside brackets is one number, else it is two."""

    def __init__(self, text: str, grouped: bool = True, depth: int = 0) -> None:
        self.text = text
        self.grouped = grouped
        self.position = 0
        self.depth = depth
        self.gap = False
        self.tokens: list[Token] = []

    def run(self) -> list[Token]:
        while self.position < len(self.text):
            c = self.text[self.position]
            if c == " ":
                self.gap = True
                self.position += 1
            elif c.isdigit() or (c == "." and self._follows_point()):
                self._number()
            elif c == "\\":
                self._command()
            elif c.isalpha() and c.isascii():
                self._letters()
            else:
                self._character(c)
        return self.tokens

    def _follows_point(self) -> bool:
        after = self.text[self.position + 1 : self.position + 10]
        return after[:1].isdigit() or after.startswith(("\\overline", "\\bar", "\\dot", "("))

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """The pattern at this position, passed over if it is there."""
        match = pattern.match(self.text, self.position)
        if match is not None:
            self.position = match.end()
        return match

    def _emit(self, kind: str, text: str, node: Node | None = None) -> None:
        if kind == "op":
            opened = text in ("(", "[", "\\{", "<<")
            self.depth += opened - (text in (")", "]", "\\}", ">>"))
        self.tokens.append(Token(kind, text, self.gap, node))
        self.gap = False

    def _number(self) -> None:
        match = self._match(GROUPED) if self.grouped and self.depth == 0 else None
        match = match or self._match(NUMBER)
        if match is None:
            raise UnreadableError("a point without digits")
        self._emit("num", match[0], read_number(match))

    def _character(self, c: str) -> None:
        dots = self._match(re.compile(r"\.{2,}"))
        pair = self.text[self.position : self.position + 2]
        if dots is not None:
            self._emit("sym", "\\ldots")
        elif self._match(re.compile(r"\+ ?/ ?-")) is not None:
            self._emit("op", "+-")
        elif pair in words.PAIRS and (pair != "!=" or self.gap):  # 5!=120
            self.position += 2
            self._emit("rel", words.PAIRS[pair])
        else:
            self.position += 1
            kind = "rel" if c in "=<>" else "sep" if c in ",;" else "op"
            self._emit(kind if c in words.CHARACTERS else "unknown", c)

    def _after_value(self) -> bool:
        """Whether what comes now may be a unit."""
        before = self.tokens[-1] if self.tokens else END
        if before.text in ("/", "*") and len(self.tokens) > 1:  # km/h
            last = self.tokens[-2]
            return last.kind == "text" or last.text == "}"
        return before.kind in ("num", "const", "sym", "text") or before.text in VALUE_ENDS

    def _is_unit(self, words: str) -> bool:
        return self._after_value() and (words in LETTERS or UNIT.fullmatch(words) is not None)

    def _letters(self) -> None:
        match = self._match(RUN)
        assert match is not None
        run, low = match[0], match[0].lower()
        name = words.SPELLINGS.get(run, run)
        if run == "sqrt":
            self._emit("op", run)
        elif name in words.FUNCTIONS and run.islower():
            self._emit("func", name)
        elif run in words.BARE_CONSTANTS:
            self._emit("const", words.BARE_CONSTANTS[run])
        elif low in words.PERCENT:
            self._emit("op", "%")
        elif low in ("and", "or"):
            self._emit("sep", low)
        elif run in words.SYMBOLS and len(run) > 2:
            self._emit("sym", run)
        elif (run in BARE and self._after_value()) or (
            len(run) >= words.BARE_WORD and (self.gap or not self._after_value())
        ):
            self._emit("text", run)
        else:
            self._symbols(run)

    def _symbols(self, run: str) -> None:
        """Letters as symbols; x1 is x_1, but not in 2x3."""
        number_before = bool(self.tokens) and self.tokens[-1].kind == "num" and not self.gap
        for letter in run[:-1]:
            self._emit("const" if letter in "ei" else "sym", letter)
        last = run[-1]
        if last in "ei":
            self._emit("const", last)
            return
        if run in ("C", "F", "K") and self._after_degrees():
            self._emit("text", run)
            return
        digits = None if number_before else self._match(re.compile(r"\d+"))
        self._emit("sym", last if digits is None else f"{last}_{digits[0]}")

    def _after_degrees(self) -> bool:
        last = [token.text for token in self.tokens[-2:]]
        return last[-1:] == ["circ"] or last == ["circ", "}"]

    def _command(self) -> None:
        match = self._match(COMMAND)
        assert match is not None
        name = match[1].removesuffix("*")
        name = words.VARIANTS.get(name, name)
        if name in words.TEXTS:
            self._words()
        elif name in words.FONTS:
            return
        elif name in ("begin", "end"):
            environment = self._match(ENVIRONMENT)
            if environment is None:
                raise UnreadableError("an environment without a name")
            self._emit("op", f"{name}:{environment[1]}")
        elif name == "not":
            sign = self._match(re.compile(r" ?(?:=|\\in(?![a-zA-Z]))"))
            self._emit("rel" if sign else "unknown", "notin" if sign and "in" in sign[0] else "!=")
        elif name in words.DECORATIONS:
            self._emit("op", f"decor:{name}")
        else:
            self._plain(name)

    def _plain(self, name: str) -> None:
        """A command that is one token."""
        nabla = bool(self.tokens) and self.tokens[-1].text == "nabla"
        if name == "times" and (nabla or VECTOR.match(self.text, self.position)):
            self._emit("op", "cross")
            return
        for kind, table in words.COMMANDS.items():
            if name in table:
                self._emit(kind, table[name])
                return
        self._emit("unknown", f"\\{name}")

    def _words(self) -> None:
        r"""\text{...}: words or a unit; if it holds none, what it holds (5, (C), x, 5 cm)."""
        while self.text[self.position : self.position + 1] == " ":
            self.position += 1
        if self.text[self.position : self.position + 1] != "{":
            return  # \mathrm d
        inner = self._braces()
        content = inner.strip()
        low = content.lower().strip(",. ")
        if low in ("and", "or", "and/or"):
            self._emit("sep", low)
        elif low in words.PERCENT:
            self._emit("op", "%")
        elif words.SPELLINGS.get(content, content) in words.FUNCTIONS:
            self._emit("func", words.SPELLINGS.get(content, content))
        elif self._is_unit(content) or (
            re.search("[A-Za-z]{2}", content) and not re.search(r"[\d\\]", content)
        ):
            self._emit("text", content)
        else:
            for token in Lexer(inner, self.grouped, self.depth).run():
                self.gap = self.gap or token.gap
                self._emit(token.kind, token.text, token.number)
            self.gap = self.gap or inner.endswith(" ")

    def _braces(self) -> str:
        """What stands between this brace and its like."""
        depth = 0
        for end in range(self.position, len(self.text)):
            depth += {"{": 1, "}": -1}.get(self.text[end], 0)
            if depth == 0:
                inner = self.text[self.position + 1 : end]
                self.position = end + 1
                return inner
        raise UnreadableError("a brace that is not closed")
