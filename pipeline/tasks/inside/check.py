"""The tests' process: runs trusted tests against a candidate that lives in another (serve.py).

Job: {"code"} and either
    "calls": [{"name", "args", "expected"}]: values compared as JSON (LiveCodeBench), or
    "setup", "tests": source. A name that neither they nor Python define is the candidate's, and so
    are `candidate`, if "entry_point" is given (HumanEval), and the builtins listed in "hidden".
    "classes": names of classes of the candidate whose objects the tests use. "modules": {name:
    attributes} of modules that the tests use without importing them. "captured": the tests look at
    what the candidate prints; "seeded": they set the state of the random numbers.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import json
import math
import os
import random
import sys
import types
from typing import Any

from .confine import limit, private_streams
from .mirror import SPECIAL, RemoteMeta, open_up
from .peer import OURS, Peer
from .values import name_of, resolve

FUNCTIONS = (
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
)
FRAMES = ("gi_", "cr_", "ag_", "tb_", "f_")  # attributes that lead to the tests' variables
NAMING = ("__name__", "__qualname__", "__doc__", "__module__")


class Tester(Peer):
    """Asks the candidate, and lets it ask little."""

    def __init__(self, incoming: int, outgoing: int, verdict_fd: int) -> None:
        super().__init__(incoming, outgoing, first=0)
        self.verdict_fd = verdict_fd
        self.captured = False
        self.asked = 0  # requests
        self.passed: set[int] = set()  # numbers of what the candidate was passed

    def request(self, *parts: Any) -> Any:
        """A request, noted so that its time can be told from the others'."""
        os.write(self.verdict_fd, b".")
        self.asked += 1
        try:
            return super().request(*parts)
        finally:
            if self.captured and parts[0] != "printed":
                sys.stdout.write(super().request("printed"))

    def known_by_name(self, value: Any) -> bool:
        if not isinstance(value, FUNCTIONS):
            return False
        module, name = name_of(value)
        return bool(module) and module not in OURS and resolve(module, name) is value

    def function_here(self, module: str, name: str) -> Any:
        found = resolve(module, name)
        if id(found) not in self.named:
            raise PermissionError("only functions that it was passed come back")
        return found

    def class_here(self, module: str, name: str) -> type | None:
        standard = module.partition(".")[0] in sys.stdlib_module_names and module in sys.modules
        return super().class_here(module, name) if standard else None

    def module(self, name: str) -> types.ModuleType:
        if name.partition(".")[0] not in (*sys.stdlib_module_names, *sys.modules):
            raise ImportError(f"the tests do not use {name}")
        return super().module(name)

    def encode(self, value: Any) -> Any:
        form = super().encode(value)
        # not a library's class: the candidate has it too, and calls it on its own side
        if isinstance(form, list) and (
            form[0] in ("object", "error") or (form[0] == "class" and value.__module__ in OURS)
        ):
            self.passed.add(form[1])
        return form

    def permitted(self, parts: list[Any]) -> list[Any]:
        """Calls of what it was passed, and what an object shows by its public attributes.

        Not the way from a function to its module's variables, where the expected values are.
        """
        what, *operands = parts
        target = operands[1 if what == "special" else 0]
        if target[0] != "yours" or target[1] not in self.passed:
            raise PermissionError("only what was passed can be asked")
        value = self.owned[target[1]]
        if what in ("get", "set", "delete"):
            name = operands[1]
            public = not name.startswith(("_", *FRAMES)) or (
                isinstance(value, tuple) and name in ("_asdict", "_fields", "_replace")
            )
            code = isinstance(value, (types.FunctionType, types.MethodType))
            if (code or not public) and (what != "get" or name not in NAMING):
                raise AttributeError(name)
        elif what == "special" and operands[0] not in SPECIAL:
            raise AttributeError(operands[0])
        elif what not in ("call", "special", "plain"):
            raise PermissionError(what)
        return parts


class Names(dict[str, Any]):
    """The tests' variables; a name that is not there may be the candidate's."""

    def __init__(self, tester: Tester, job: dict[str, Any]) -> None:
        super().__init__(__name__="__main__")
        self.tester = tester
        self.hidden = set(job.get("hidden", ()))
        self.classes = set(job.get("classes", ()))
        self.modules: dict[str, list[str]] = job.get("modules", {})

    def __missing__(self, name: str) -> Any:
        if (hasattr(builtins, name) and name not in self.hidden) or name.startswith("__"):
            raise KeyError(name)
        if name in self.modules:
            module = importlib.import_module(name)
            if all(hasattr(module, attribute) for attribute in self.modules[name]):
                self[name] = module
                return module
        try:
            value = self.tester.request("name", name)
        except NameError:
            raise KeyError(name) from None
        if isinstance(value, RemoteMeta) and name in self.classes:
            open_up(value)
        return value


class Assertions(ast.NodeTransformer):
    """Computes the right side of `f(x) == g(x)` from what x was before f (Shared.before)."""

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        calls = any(isinstance(part, ast.Call) for part in ast.walk(node.left))
        computed = any(_computes(side) for side in node.comparators)
        identity = any(isinstance(operator, (ast.Is, ast.IsNot)) for operator in node.ops)
        if not calls or not computed or identity:
            return node
        node.left = _call("__left_side__", node.left)
        steps = ast.Tuple([_call("__before__"), node, _call("__after__")], ast.Load())
        return ast.Subscript(steps, ast.Constant(1), ast.Load())


def _computes(side: ast.expr) -> bool:
    """Whether a side computes something from variables, other than a length.

    A function that changes a list and returns its length is compared with the new length; one that
    returns its argument needs no tricks to equal it.
    """
    if isinstance(side, ast.Call) and getattr(side.func, "id", "") == "len":
        side = side.args[0] if side.args else side
    return not isinstance(side, ast.Name) and any(
        isinstance(part, ast.Name) for part in ast.walk(side)
    )


def _call(name: str, *arguments: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(name, ast.Load()), list(arguments), [])


def run_tests(job: dict[str, Any], tester: Tester) -> None:
    names = Names(tester, job)
    names["__before__"] = tester.shared.before
    names["__left_side__"] = tester.shared.left_side
    names["__after__"] = tester.shared.after
    entry = job.get("entry_point")
    exec(compile(job["setup"], "setup.py", "exec", dont_inherit=True), names)
    if entry:
        names.pop(entry, None)  # setup has its empty form
        names.hidden.add(entry)
    tree = ast.fix_missing_locations(Assertions().visit(ast.parse(job["tests"])))
    exec(compile(tree, "tests.py", "exec", dont_inherit=True), names)
    if entry:
        function = names[entry]
        tester.asked = 0
        names["check"](function)


def same(found: Any, expected: Any) -> None:
    """Equal as JSON values (a tuple is a list), floats to LeetCode's tolerance of 1e-5."""
    if isinstance(found, tuple):
        found = list(found)
    if type(found).__module__ == "numpy":
        found = found.item()  # a scalar; an array is no list
    if isinstance(expected, list):
        assert isinstance(found, list)
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            same(one, other)
    elif isinstance(expected, float):
        assert isinstance(found, (int, float))
        assert not isinstance(found, bool)
        assert math.isclose(found, expected, rel_tol=1e-6, abs_tol=1e-5)
    elif isinstance(expected, dict):
        assert isinstance(found, dict)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            same(found[key], value)
    else:
        assert isinstance(found, bool) == isinstance(expected, bool)  # True is not 1 here
        assert found == expected


def run_calls(calls: list[dict[str, Any]], tester: Tester) -> None:
    """ "Class.method": a fresh object for each call."""
    for call in calls:
        name, _, method = call["name"].partition(".")
        function = tester.request("name", name)
        if method:
            function = getattr(function(), method)
        same(function(*call["args"]), call["expected"])


def main(memory: int, cpu: int, file: int, job_fd: int, verdict_fd: int) -> None:
    """Write "passed" to `verdict_fd` at the end, and before that a dot for each request."""
    tester = Tester(*private_streams(), verdict_fd)
    with os.fdopen(job_fd, encoding="utf-8") as source:
        job = json.load(source)
    limit(memory, cpu, file)
    tester.captured = job.get("captured", False)
    random.seed(0)  # some tests draw their inputs; the same each time
    seeded = job.get("seeded", False)
    tester.request("load", job["code"], tester.captured, seeded)
    if seeded:
        tester.randomness.share()
    tester.asked = 0
    if "calls" in job:
        run_calls(job["calls"], tester)
    else:
        run_tests(job, tester)
    if tester.asked:  # tests that ask nothing show nothing
        os.write(verdict_fd, b"passed")
    os._exit(0)  # threads or exit handlers of the tests change nothing any more
