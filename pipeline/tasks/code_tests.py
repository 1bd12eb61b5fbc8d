"""What a problem's tests need, found by reading them: which names are the program's, and whether
tests and program can be run in two processes at all (inside/check.py).

Almost all can. The tests that cannot are named when the problems are loaded, and left out: a
program that is refused whatever it does would look like a wrong one.
"""

from __future__ import annotations

import ast
import builtins
import importlib.util
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from pipeline.tasks.python_source import (
    bound_names,
    import_name,
    parse_source,
    read_names,
    top_level_names,
)

BUILTINS = frozenset(dir(builtins))
# What looks into, or acts on, the process that it runs in: only one of the two.
APART = {
    "asyncio": "await",
    "concurrent": "run threads",
    "contextlib.redirect_stderr": "read standard error",
    "dataclasses.asdict": "look into dataclasses",
    "dataclasses.astuple": "look into dataclasses",
    "dataclasses.fields": "look into dataclasses",
    "dataclasses.replace": "look into dataclasses",
    "gc": "look into memory",
    "multiprocessing": "start processes",
    "os.chdir": "use files",
    "os.environ": "use the environment",
    "pickle": "pickle objects",
    "subprocess": "start processes",
    "sys.stderr": "read standard error",
    "sys.stdin": "replace standard input",
    "tempfile": "use files",
    "threading": "run threads",
    "tracemalloc": "look into memory",
    "unittest.main": "are run by unittest",
    "unittest.mock": "replace parts of modules",
    "weakref": "look into memory",
}
COPIED = ("numpy", "pytest")  # packages whose values inside/ can copy, or that have none
ASYNCHRONOUS = (ast.Await, ast.AsyncFor, ast.AsyncWith, ast.AsyncFunctionDef)
CLASS = re.compile(r"([A-Z][a-z0-9]*)+")  # CapWords
STEPS = (ast.Assert, ast.For, ast.While, ast.With, ast.Try, ast.If, ast.Match, ast.Raise)
Imports = list[ast.Import | ast.ImportFrom]


class UnsupportedError(Exception):
    """Why tests cannot be run apart from the program, in words that follow "its tests"."""


def study(
    setup: str, tests: str, entry_point: str | None, reference: str | None, packages: bool
) -> dict[str, Any]:
    """What the process that runs the tests is told about them.

    Args:
        setup: source that runs before the tests, with the same variables.
        entry_point: the function that HumanEval's `check` is given; None for plain asserts.
        reference: a program that solves the problem, if the data set has one.
        packages: tests and program may import what is installed.

    Returns:
        names: what the tests read of the program; hidden: those among them that are Python's too
        (`sum`); classes: those that are classes; modules: {name: attributes} of standard modules
        that the tests use without importing them; imports: source of imports that they rely on;
        captured: they read what the program prints; seeded: they set the random numbers.

    Raises:
        UnsupportedError: they cannot be run.
    """
    trees = [_parse("set-up code", setup), _parse("tests", tests)]
    known = None if reference is None else parse_source(reference)
    for tree in trees:
        _check_acts(tree, packages)
    _check_steps(trees[1], entry_point)
    read = set().union(*map(read_names, trees)) - set().union(*map(bound_names, trees))
    imports = [] if known is None else _imports_of(known, trees, read - BUILTINS)
    _check_acts(ast.Module([*imports], []), packages)
    free = read - BUILTINS - {import_name(alias) for node in imports for alias in node.names}
    modules = _modules(trees, free)
    names = free - set(modules)
    hidden = set() if entry_point else _hidden(trees[1], read & BUILTINS, names, known)
    if not entry_point and not names and not hidden:
        raise UnsupportedError("use nothing of the program")
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.ClassDef) and names & _read_all(node.bases):
            raise UnsupportedError(f"derive class {node.name} from one of the program's")
    return {
        "names": sorted(names | hidden | ({entry_point} if entry_point else set())),
        "hidden": sorted(hidden),
        "classes": sorted(_classes(trees, names, known)),
        "modules": {name: sorted(attributes) for name, attributes in sorted(modules.items())},
        "imports": "".join(f"{ast.unparse(node)}\n" for node in imports),
        "captured": any({"sys.stdout", "contextlib.redirect_stdout"} & _dotted(t) for t in trees),
        "seeded": any("random.seed" in _dotted(tree) for tree in trees),
    }


def _parse(what: str, source: str) -> ast.Module:
    tree = parse_source(source)
    if tree is None:
        raise UnsupportedError(f"are no Python 3 ({what})")
    return tree


def _read_all(nodes: Iterable[ast.AST]) -> set[str]:
    return set().union(*map(read_names, nodes))


def _imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """(the name that an import binds, dotted name of what it imports)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((import_name(alias), alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from ((import_name(alias), f"{module}.{alias.name}") for alias in node.names)


def _dotted(tree: ast.AST) -> set[str]:
    """Dotted names of what the tree imports, and of what it uses of a module by that name."""
    used = {
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    return used | {name for _, name in _imported(tree)}


def _check_acts(tree: ast.AST, packages: bool) -> None:
    """Raise for imports that cannot be had, and for what has an effect in one process only."""
    modules = {bound for bound, name in _imported(tree)}
    for _, name in _imported(tree):
        root = name.partition(".")[0]
        if root in sys.stdlib_module_names or root == "__future__":
            continue
        if not packages:
            raise UnsupportedError(
                f"import {root or name}, which is not in the standard library "
                "(task.options.packages=true allows what is installed)"
            )
        if not root or importlib.util.find_spec(root) is None:
            raise UnsupportedError(f"import {root or name}, which is not installed")
        if root not in COPIED:
            raise UnsupportedError(f"import {root}, whose objects cannot be copied")
    for name in sorted(_dotted(tree)):
        parts = name.split(".")
        for known in (".".join(parts[:end]) for end in range(1, len(parts) + 1)):
            if known in APART and (parts[0] in modules or len(parts) > 1 or known == name):
                raise UnsupportedError(f"{APART[known]} ({name})")
    for node in ast.walk(tree):
        if isinstance(node, ASYNCHRONOUS):
            raise UnsupportedError("await (asynchronous code)")
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "open":
            raise UnsupportedError("use files (open)")
        if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load):
            owner = getattr(node.value, "id", "")
            if owner in modules and (owner, node.attr) != ("sys", "stdout"):
                raise UnsupportedError(f"replace parts of modules ({owner}.{node.attr})")


def _check_steps(tests: ast.Module, entry_point: str | None) -> None:
    """Raise if the tests would pass without having tested anything."""
    if entry_point:
        if "check" not in top_level_names(tests):
            raise UnsupportedError("define no function check(candidate)")
    elif not any(
        isinstance(node, STEPS) or isinstance(getattr(node, "value", None), ast.Call)
        for node in tests.body
    ):
        raise UnsupportedError("assert nothing (test functions do not call themselves)")


def _imports_of(reference: ast.Module, trees: list[ast.Module], wanted: set[str]) -> Imports:
    """The reference's imports of names that the tests read and do not import.

    A function that some statement tests alone is the program's, wherever the reference has it from.
    """
    found: Imports = []
    froms = [node for node in reference.body if isinstance(node, ast.ImportFrom)]
    imported = {import_name(alias) for node in froms for alias in node.names}
    tested = set()
    for statement in (statement for tree in trees for statement in tree.body):
        read = read_names(statement) & wanted
        tested |= read if read <= imported else set()
    for node in reference.body:
        if isinstance(node, ast.Import):
            names = [alias for alias in node.names if import_name(alias) in wanted]
            found += [ast.Import(names)] if names else []
        elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
            names = [alias for alias in node.names if import_name(alias) in wanted - tested]
            found += [ast.ImportFrom(node.module, names, node.level)] if names else []
    return found


def _modules(trees: list[ast.Module], free: set[str]) -> dict[str, set[str]]:
    """Standard modules that the tests take to be imported: {name: attributes that they use}."""
    used: dict[str, set[str]] = {}
    for node in (node for tree in trees for node in ast.walk(tree)):
        owner = getattr(node.value, "id", "") if isinstance(node, ast.Attribute) else ""
        if isinstance(node, ast.Attribute) and owner in free & sys.stdlib_module_names:
            used.setdefault(owner, set()).add(node.attr)
    return used


def _hidden(
    tests: ast.Module, read: set[str], names: set[str], reference: ast.Module | None
) -> set[str]:
    """Python's names that are the program's here: those that a statement tests and nothing else.

    Raises:
        UnsupportedError: it may be one or another.
    """
    called: list[set[str]] = []
    for statement in tests.body:
        if names and (not isinstance(statement, ast.Assert) or read_names(statement) - BUILTINS):
            continue
        calls = (node for node in ast.walk(statement) if isinstance(node, ast.Call))
        functions = {getattr(call.func, "id", "") for call in calls} & read
        called += [functions] if functions else []
    if not called:
        return set()
    if reference is not None:
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign)
        defined = [node for node in reference.body if isinstance(node, kinds)]
        own = {getattr(node, "name", "") for node in defined}
        own |= {getattr(t, "id", "") for n in defined for t in getattr(n, "targets", [])}
        return set().union(*called) & own
    common = set.intersection(*called)
    if len(common) > 1:
        raise UnsupportedError(f"do not tell which of {', '.join(sorted(common))} is the program's")
    return common


def _classes(
    trees: list[ast.Module], names: set[str], reference: ast.Module | None
) -> Iterator[str]:
    """Names of the program's classes: as the reference has them, or by how the tests use them."""
    if reference is not None:
        yield from names & {n.name for n in reference.body if isinstance(n, ast.ClassDef)}
        return
    nodes = [node for tree in trees for node in ast.walk(tree)]
    owners: set[str] = set()  # of attributes; of them, what they are made by
    made: dict[str, set[str]] = {}  # variable: what it is made by
    for node in nodes:
        if isinstance(node, ast.Attribute):
            owners |= read_names(node.value)
        elif isinstance(node, ast.ExceptHandler) and node.type is not None:
            owners |= read_names(node.type)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance":
            owners |= _read_all(node.args)
        elif isinstance(node, ast.Assign):
            for variable in (getattr(target, "id", "") for target in node.targets):
                made.setdefault(variable, set()).update(read_names(node.value))
    owners = owners.union(*(made.get(name, set()) for name in owners))
    plain = _compared_with_plain(nodes, names, made)
    for name in names:
        # a function may be spelled like a class; one whose result is compared with a value is one
        if name[0].isupper() and (name in owners or (CLASS.fullmatch(name) and name not in plain)):
            yield name


def _compared_with_plain(
    nodes: list[ast.AST], names: set[str], made: dict[str, set[str]]
) -> set[str]:
    """Names of the program whose results are compared with what is not the program's."""
    found: set[str] = set()
    for node in nodes:
        if not isinstance(node, ast.Compare) or isinstance(node.ops[0], (ast.In, ast.NotIn)):
            continue
        sides = [node.left, *node.comparators]
        for side in sides:
            root = getattr(side.func if isinstance(side, ast.Call) else side, "id", "")
            others = _read_all(other for other in sides if other is not side)
            others |= set().union(*(made.get(name, set()) for name in others))
            if root and names.isdisjoint(others):
                found |= {root, *made.get(root, set())}
    return found
