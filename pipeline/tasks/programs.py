"""Finds the program in a response: fenced blocks, and how they complete a prompt that is code."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Collection
from dataclasses import dataclass

from pipeline.tasks.python_source import join_sources, parse_source, top_level_names

# a line that begins or ends a block, in a list or not; its marks, and what follows them
FENCE = re.compile(r"[ \t]*(?:(?:[-*+]|\d+[.)])[ \t]+)?(`{3,}|~{3,})[ \t]*(.*)")
TAG = re.compile(r"[\w+#.-]+|[{.]*(?:python|py)\b.*", re.IGNORECASE)
# a block that begins after words on the same line
AFTER_WORDS = re.compile(r".*[^`](`{3,})[ \t]*((?:python|py)\d*)[ \t]*", re.IGNORECASE)
PYTHON = re.compile(r"[{.]*\s*(python|py|ipython|pypy)[\d.]*(?![\w+#-])", re.IGNORECASE)
DEFINED = re.compile(r"^[ \t]*(?:async +)?(?:def|class) +(\w+)", re.MULTILINE)
RETURN = re.compile(r"^[ \t]*return\b", re.MULTILINE)
THOUGHT = "</think>"
LONGEST = 200_000  # characters of a program that is looked into
# Where a completion of a base model leaves the function it was asked for.
STOPS = re.compile(r"^(?:class |def |@|#|if |print|assert |import |from |```|~~~)", re.MULTILINE)
# Statements that prose and data are never made of.
STATEMENTS = (
    *(ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom),
    *(ast.Assign, ast.AugAssign, ast.For, ast.While, ast.If, ast.With, ast.Try),
)


@dataclass(frozen=True)
class Block:
    """tag: "python", "" (none) or "other"; closed: its end is marked."""

    tag: str
    code: str
    closed: bool


def unix_lines(text: str) -> str:
    """Lines that end as they do on Linux."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def fenced_blocks(text: str) -> list[Block]:
    """Fenced blocks as CommonMark has them, at any indentation; the last one may be unclosed.

    A block ends with a fence of its own kind that is at least as long as the one it began with and
    not four columns further in (a fence in a docstring); of its lines, the indentation of the first
    one is removed. Unlike there, a fence with a tag always begins a block, and one with other words
    ends one: no program holds a line like these.
    """
    blocks: list[Block] = []
    tag, mark, indent = "", "", 0
    held: list[str] | None = None  # lines of the block that is open
    for line in unix_lines(text).removesuffix("\n").split("\n"):
        fence = FENCE.fullmatch(line)
        if fence is None and held is None:
            fence = AFTER_WORDS.fullmatch(line)
        if held is not None and fence is not None and fence[1].startswith(mark):
            begins = TAG.fullmatch(fence[2].strip()) is not None
            ends = not begins and fence.start(1) < indent + 4
        else:
            ends, begins = False, held is None and fence is not None
        if fence is not None and fence[1][0] == "`" and "`" in fence[2]:
            begins = False  # code in a line of text
        if held is not None and (ends or begins):
            blocks.append(Block(tag, "".join(held), closed=ends))
            held = None
        elif held is not None:
            margin = len(line) - len(line.lstrip(" \t"))
            held.append(line[min(indent, margin) :] + "\n")
        if begins and fence is not None:
            mark, held = fence[1], []
            indent = fence.start(1) if fence.re is FENCE else 0
            tag = "python" if PYTHON.match(fence[2]) else "other" if fence[2].strip() else ""
    if held is not None:
        blocks.append(Block(tag, "".join(held), closed=False))
    return blocks


def find_program(text: str, wanted: Collection[str]) -> str | None:
    """The program of a chat model's response, or None if it holds none.

    The last block tagged python, else the last one without a tag. One that defines a name of
    `wanted` goes before one that does not (an example of its use), which goes before one that is no
    program (its output; half a block at the end of the response). Blocks tagged otherwise count
    only where there are no others, and so does a response without blocks, if they are Python.
    """
    text = text.rpartition(THOUGHT)[2]  # drafts are no answers
    blocks = fenced_blocks(text)
    blocks += [inner for b in blocks if b.tag != "python" for inner in fenced_blocks(b.code)]
    blocks = [block for block in blocks if block.code.strip()]
    for tag in ("python", ""):
        ranked = [block for block in blocks if block.tag == tag]
        if ranked:
            return at_margin(max(reversed(ranked), key=lambda block: _worth(block, wanted)).code)
    others = [block.code for block in blocks] or [unix_lines(text)]
    return next((code for code in reversed(others) if _is_program(code)), None)


def at_margin(code: str) -> str:
    """Code that begins at the left margin."""
    first = next((line for line in code.split("\n") if line.strip()), "")
    return textwrap.dedent(code) if first[:1].isspace() else code


def _worth(block: Block, wanted: Collection[str]) -> int:
    tree = parse_source(at_margin(block.code)) if len(block.code) <= LONGEST else None
    if tree is None:
        # a whole block is what its tag says, right or wrong
        defined = set(DEFINED.findall(block.code)) if block.closed and block.tag else None
    else:
        defined = top_level_names(tree) if _has_statements(tree) else None
    lacks = wanted and set(DEFINED.findall(block.code)).isdisjoint(wanted)
    if lacks and _is_body(block.code, tree):
        return 2
    if defined is None:
        return 0
    return 1 if defined.isdisjoint(wanted) else 2


def _is_body(code: str, tree: ast.Module | None) -> bool:
    """Whether this is what a function holds: indented, or with a `return` that belongs to none."""
    if code.lstrip("\n")[:1] in (" ", "\t"):
        return True
    # where it is no Python, the indentation of its first line is lost
    return RETURN.search(code) is not None if tree is None else _returns(tree)


def _has_statements(tree: ast.Module) -> bool:
    return any(
        isinstance(node, STATEMENTS)
        or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call))
        for node in tree.body
    )


def _is_program(code: str) -> bool:
    tree = parse_source(code) if len(code) <= LONGEST else None
    return tree is not None and _has_statements(tree)


def continue_prompt(prompt: str, text: str) -> str:
    """A base model's continuation of code, cut where it leaves the function."""
    text = unix_lines(text)
    stop = STOPS.search(text)
    return prompt + (text[: stop.start()] if stop else text)


def complete_prompt(prompt: str, entry: str, code: str) -> str:
    """The program that begins with a prompt that is code: its imports and helpers are there.

    The code defines the function anew, or is its body.
    """
    if len(code) > LONGEST:
        return prompt + code
    tree = parse_source(at_margin(code))
    if tree is not None and entry in top_level_names(tree):
        return join_sources(f"{prompt}\n\n", at_margin(code))
    # the indentation of a body may be lost, or that of its first line
    body = at_margin(code)
    forms = (code, textwrap.indent(body, "    "), "    " + code.lstrip())
    return next((prompt + form for form in forms if _is_whole(prompt + form)), prompt + code)


def _is_whole(source: str) -> bool:
    tree = parse_source(source)
    return tree is not None and not _returns(tree)


def _returns(tree: ast.Module) -> bool:
    """Whether there is a `return` that belongs to no function."""
    inner = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    rest: list[ast.AST] = list(tree.body)
    while rest:
        node = rest.pop()
        if isinstance(node, ast.Return):
            return True
        if not isinstance(node, inner):
            rest += ast.iter_child_nodes(node)
    return False
