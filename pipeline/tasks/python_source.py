"""Python source as text and tree, without running it: what it reads, binds, and how to join two."""

from __future__ import annotations

import ast
import warnings


def parse_source(source: str) -> ast.Module | None:
    """The syntax tree, or None if it is no Python, or too deep to tell."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks on the model's escapes are nobody's here
        try:
            return ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def read_names(tree: ast.AST) -> set[str]:
    """Names whose value is used."""
    return {
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }


def bound_names(tree: ast.AST) -> set[str]:
    """Names that something in the tree binds, in whatever scope."""
    bound = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            bound.add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.alias):
            bound.add(import_name(node))
        elif isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and node.name:
            bound.add(node.name)
    return bound


def top_level_names(tree: ast.Module) -> set[str]:
    """Names that the module itself binds: functions, classes, variables, imports."""
    bound = set()
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            bound.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            bound |= {import_name(alias) for alias in node.names}
        else:
            bound |= bound_names(node)
    return bound


def import_name(alias: ast.alias) -> str:
    """The name that an import binds."""
    return (alias.asname or alias.name).partition(".")[0]


def join_sources(first: str, second: str) -> str:
    """One program of two; `from __future__` imports of the second come before the first.

    Python wants them there, and a second that is no Python is joined as it is.
    """
    tree = parse_source(second)
    futures = [
        node
        for node in ([] if tree is None else tree.body)
        if isinstance(node, ast.ImportFrom) and node.module == "__future__"
    ]
    if not futures:
        return first + second
    lines = second.split("\n")
    for node in reversed(futures):
        # the other statements of its line stay; the names of the lines that follow too
        end = node.end_lineno or node.lineno
        before = lines[node.lineno - 1].encode()[: node.col_offset].decode()
        after = lines[end - 1].encode()[node.end_col_offset :].decode()
        blank = [""] * (end - node.lineno)
        lines[node.lineno - 1 : end] = [f"{before}pass{after}", *blank]
    return "".join(f"{ast.unparse(node)}\n" for node in futures) + first + "\n".join(lines)
