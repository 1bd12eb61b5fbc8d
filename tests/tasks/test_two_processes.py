"""Tests and candidate in two processes: the verdict is that of one process.

Every case is run twice: apart, as graded, and in one process with exec, as the data sets' authors
do. Both must say the same.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.tasks.code_runs import Limits, run_tests
from pipeline.tasks.code_tests import study

# In one process: program, then tests, in one namespace; a verdict for each pair on stdin.
TOGETHER = """
import json, os, sys, types
for program, tests in json.load(sys.stdin):
    module = sys.modules["m"] = types.ModuleType("m")
    try:
        for source in (program, tests):
            exec(compile(source, "m.py", "exec", dont_inherit=True), vars(module))
    except BaseException as error:
        print("failed", type(error).__name__, error, file=sys.stderr)
        print("failed")
    else:
        print("passed")
"""

# One file a theme: a program, a line ---, tests that it passes.
CASES = {
    path.stem: path.read_text() for path in sorted(Path(__file__).with_name("cases").iterdir())
}
# (case, in the program, instead): each makes one assertion wrong.
WRONG = [
    ("values", "Fraction(1, 3)", "Fraction(1, 2)"),
    ("values", "maxlen=2", "maxlen=3"),
    ("values", '"0.10"', '"0.1"'),
    ("changes_in_place", "def order(a): a.sort()", "def order(a): a = sorted(a)"),
    ("changes_in_place", "a.sort(); return a", "return sorted(a)"),
    ("changes_in_place", "self.a = a", "self.a = list(a)"),
    ("trees_and_lists", "self.children = v, next, None, []", "self.children = v, next, None, [1]"),
    ("classes", "self.x + o.x", "self.x"),
    ("classes", "class Square(Shape)", "class Square"),
    ("exceptions", "class Bad(ValueError)", "class Bad(Exception)"),
    ("exceptions", "self.code = code", "self.code = 0"),
    ("functions_as_values", "x + n", "x - n"),
    ("functions_as_values", "o.seen = True", "o.seen = 1"),
    ("iterators_and_contexts", "n += 1", "n += 2"),
    ("iterators_and_contexts", 'log.append("out")', "pass"),
    ("names", "total += 1", "total = 1"),
    ("names", 'print("hi")', "None"),
]


def pairs() -> Iterator[tuple[str, str, str]]:
    """(name, program, tests) of every case, and of every wrong program."""
    parts = {name: text.split("---\n") for name, text in CASES.items()}
    for name, (program, tests) in parts.items():
        yield name, program, tests
    for name, right, wrong in WRONG:
        program, tests = parts[name]
        assert right in program
        yield f"{name}: {wrong}", program.replace(right, wrong), tests


def apart(program: str, tests: str, with_reference: bool) -> str:
    needs = study("", tests, None, program if with_reference else None, packages=False)
    job = {**needs, "setup": needs["imports"], "tests": tests}
    return run_tests(program, job, Limits(seconds=10.0, sandbox="none"))


@pytest.mark.parametrize("with_reference", [True, False], ids=["reference known", "unknown"])
def test_the_verdict_is_that_of_one_process(with_reference: bool, tmp_path: Path) -> None:
    """Catches whatever a value, object, exception or change loses on its way between the two."""
    names, programs, tests = zip(*pairs(), strict=True)
    together = subprocess.run(
        [sys.executable, "-c", TOGETHER],
        input=json.dumps(list(zip(programs, tests, strict=True))),
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    expected = together.stdout.split()
    assert expected == ["passed"] * len(CASES) + ["failed"] * len(WRONG), together.stderr
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(apart, programs, tests, [with_reference] * len(names))
        assert dict(zip(names, found, strict=True)) == dict(zip(names, expected, strict=True))
