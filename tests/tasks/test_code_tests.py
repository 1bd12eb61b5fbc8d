"""What is found by reading a problem's tests, and MBPP problems that two processes used to fail."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import PipelineError
from pipeline.tasks import Problem, code, grade_many, load_problems
from pipeline.tasks.code_runs import Limits, run_tests
from pipeline.tasks.code_tests import UnsupportedError, study
from tests.tasks.make import task

TREE = """
class Node:
    def __init__(self, data):
        self.data, self.left, self.right = data, None, None
def height(node):
    return 0 if node is None else 1 + max(height(node.left), height(node.right))
def balanced(node):
    return node is None or (
        abs(height(node.left) - height(node.right)) <= 1
        and balanced(node.left) and balanced(node.right)
    )
"""
# The forms of the published problems whose numbers are given: set-up code that builds trees of the
# program's class, a function named like one of Python's, types as arguments, a module that only the
# program imports, and one that takes seconds. (set-up, tests, right, wrong) each.
MBPP = {
    "123": (
        "",
        [
            "assert amicable(999) == 504",
            "assert amicable(99) == 0",
            "assert amicable(2000) == 2898",
        ],
        "def amicable(limit):\n    d = [sum([k for k in range(1, n) if n % k == 0]) for n in "
        "range(limit + 1)]\n    return sum(a for a in range(2, limit + 1) if d[a] != a and "
        "sum([k for k in range(1, d[a]) if d[a] % k == 0]) == a)",
        "def amicable(limit):\n    return 0",
    ),
    "126": (
        "",
        ["assert sum(10, 15) == 6", "assert sum(100, 150) == 93", "assert sum(4, 6) == 3"],
        "def sum(a, b):\n    total = 0\n    for k in range(1, min(a, b) + 1):\n"
        "        if a % k == 0 and b % k == 0:\n            total += k\n    return total",
        "def sum(a, b):\n    return a + b",
    ),
    "367": (
        "root = Node(1) \r\nroot.left = Node(2) \r\nroot.right = Node(3) \r\n"
        "root.left.left = Node(4)\r\nroot.left.left.left = Node(8)\r\nsmall = Node(1)\r\n"
        "small.left = Node(2)",
        ["assert balanced(root) == False", "assert balanced(small) == True"],
        TREE,
        TREE.replace("<= 1", "<= 9"),
    ),
    "533": (
        "",
        ["assert without((4, 7.7, 'SR', 1.2), int) == [7.7, 'SR', 1.2]"],
        "def without(values, kind):\n    return [v for v in values if not isinstance(v, kind)]",
        "def without(values, kind):\n    return [v for v in values if not kind]",
    ),
    "596": (
        "",
        ["assert size(('A', 1, 'B')) == sys.getsizeof(('A', 1, 'B'))"],
        "import sys\ndef size(values):\n    return sys.getsizeof(values)",
        "import sys\ndef size(values):\n    return len(values)",
    ),
    "927": (
        "root = Node(1)\nroot.left = Node(2)\nroot.right = Node(3)\nroot.left.left = Node(4)",
        ["assert (height(root)) == 3"],
        TREE,
        TREE.replace("1 + max", "max"),
    ),
}


def mbpp(tmp_path: Path, rows: list[dict[str, Any]], **options: Any) -> list[Problem]:
    path = tmp_path / "mbpp.jsonl"
    path.write_text("".join(json.dumps({"text": "Do it.", **row}) + "\n" for row in rows))
    return load_problems(task("mbpp", dataset={"path": str(path)}, **options), "test", None, 0)


@pytest.mark.parametrize("with_reference", [True, False], ids=["code column", "no code column"])
def test_published_forms_pass_and_wrong_programs_do_not(
    bwrap: str, tmp_path: Path, with_reference: bool
) -> None:
    """Catches problems that no program can solve once tests and program are apart."""
    rows = [
        {"task_id": number, "test_setup_code": setup, "test_list": tests}
        | ({"code": right} if with_reference else {})
        for number, (setup, tests, right, _) in MBPP.items()
    ]
    problems = mbpp(tmp_path, rows)
    assert [problem.id for problem in problems] == list(MBPP)
    for answer, expected in ((2, True), (3, False)):
        pairs = [(p, f"```python\n{MBPP[p.id][answer]}\n```") for p in problems]
        assert {
            p.id: g.correct
            for (p, _), g in zip(pairs, grade_many(task("mbpp"), pairs), strict=True)
        } == dict.fromkeys(MBPP, expected)


UNSUPPORTED = {
    "class Dog(Animal):\n    pass\nassert speak(Dog())": "derive class Dog from one of",
    "import asyncio\nassert asyncio.run(f(1)) == 1": "await",
    "import numpy as np\nassert f(np.ones(2)) == 2": "import numpy, which is not in the standard",
    "from solution import f\nassert f(1) == 2": "import solution",
    "assert f(1) ==": "are no Python 3",
    "print f(1)": "are no Python 3",
    "assert 1 + 1 == 2": "use nothing of the program",
    "": "assert nothing",
    "def test_f():\n    assert f(1) == 2": "assert nothing",
    "assert sum([1]) == max([1])": "do not tell which of max, sum",
    "import sys, io\nsys.stdin = io.StringIO('1')\nassert f() == 1": "replace standard input",
    "import builtins\nbuiltins.input = str\nassert f() == ''": "replace parts of modules",
    "from unittest import mock\nassert f() == 1": "replace parts of modules",
    "open('x', 'w').write('1')\nassert f('x') == '1'": "use files",
    "from dataclasses import asdict\nassert asdict(f()) == {}": "look into dataclasses",
    "import unittest\nunittest.main()": "are run by unittest",
    "import threading\nassert f(threading.Lock())": "run threads",
}


@pytest.mark.parametrize(("tests", "reason"), UNSUPPORTED.items())
def test_tests_that_cannot_be_run_apart_are_named(tests: str, reason: str) -> None:
    """Catches problems that every program fails, and those that every program passes."""
    with pytest.raises(UnsupportedError, match=reason):
        study("", tests, None, None, packages=False)


@pytest.mark.parametrize(
    ("tests", "entry", "passes"),
    [
        ("if __name__ == '__main__':\n    assert f(1) == 2", None, True),
        ("if __name__ == 'other':\n    assert f(1) == 3", None, False),
        ("def check(candidate):\n    assert candidate(1) == 2", "f", True),
        ("def check(candidate):\n    pass", "f", False),
    ],
)
def test_tests_that_ask_nothing_pass_nothing(tests: str, entry: str | None, passes: bool) -> None:
    """Catches every program graded right by tests that did not run."""
    job = {**study("", tests, entry, None, packages=False), "setup": "", "tests": tests}
    outcome = run_tests(
        "def f(x):\n    return x + 1", {**job, "entry_point": entry}, Limits(sandbox="none")
    )
    assert outcome == ("passed" if passes else "failed")


def test_packages_whose_objects_cannot_be_copied_are_named() -> None:
    """Catches a tensor or data frame that never equals the program's."""
    for package in ("torch", "pandas"):
        with pytest.raises(UnsupportedError, match=f"import {package}, whose objects"):
            study("", f"import {package}\nassert f({package}) == 1", None, None, packages=True)
    study("", "import numpy as np\nassert f(np.ones(2)) == 1", None, None, packages=True)
    with pytest.raises(UnsupportedError, match="import nothere, which is not installed"):
        study("", "import nothere\nassert f(1) == 1", None, None, packages=True)


def test_humaneval_tests_must_define_check() -> None:
    """Catches a column of asserts taken for HumanEval's."""
    with pytest.raises(UnsupportedError, match="define no function check"):
        study("def f():\n    pass", "assert f() == 1", "f", None, packages=False)


def test_unsupported_problems_are_left_out_with_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Catches problems counted as wrong that cannot be right, and a silent change of the set."""
    good = {"task_id": 1, "test_list": ["assert f(1) == 2"]}
    bad = {"task_id": 2, "test_list": ["import numpy\nassert f(numpy.ones(2)) == 2"]}
    code._tell_left_out.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert [p.id for p in mbpp(tmp_path, [good, bad])] == ["1"]
        assert [p.id for p in mbpp(tmp_path, [good, bad])] == ["1"]
    assert caplog.text.count("1 of 2 problems left out") == 1
    assert "2: its tests import numpy" in caplog.text
    with pytest.raises(PipelineError, match=r"none of its 1 problems .* import numpy"):
        mbpp(tmp_path, [bad])
    assert [p.id for p in mbpp(tmp_path, [good, bad], packages=True)] == ["1", "2"]


def test_tests_that_are_no_list_are_an_error(tmp_path: Path) -> None:
    """Catches a text taken for a list of its characters."""
    with pytest.raises(PipelineError, match="test_list must be a list of asserts, not 'assert f"):
        mbpp(tmp_path, [{"task_id": 1, "test_list": "assert f(1) == 2"}])


def needs(tests: str, reference: str | None = None) -> dict[str, Any]:
    return study("", tests, None, reference, packages=False)


def test_names_of_the_program_are_told_from_pythons() -> None:
    """Catches a builtin that a program may replace (abs, all), and one that it must (sum)."""
    assert needs("assert abs(f(1) - 2) < 1e-6 and all(g(x) for x in [1])")["names"] == ["f", "g"]
    assert (
        needs("assert abs(f(1) - 2) < 1e-6", "def abs(x): return 0\ndef f(x): return x")["hidden"]
        == []
    )
    assert needs("assert set(max([1, 2])) == {2}\nassert max([1]) == {1}")["hidden"] == ["max"]
    both = "def sum(a): return a\ndef f(a): return a"
    assert needs("assert sum([1]) == [1]\nassert f(1) == 1", both)["hidden"] == ["sum"]


def test_modules_that_only_the_program_imports_come_from_the_tests_side() -> None:
    """Catches a candidate's own math.isclose, and a tested function taken for a module's."""
    found = needs("assert math.isclose(f(1), 2.0)")
    assert (found["modules"], found["names"]) == ({"math": ["isclose"]}, ["f"])
    aliased = "import math as m\nfrom math import isclose, gcd\ndef f(x): return x"
    found = needs(
        "assert m.isclose(f(1), 2.0) and isclose(f(1), 2)\nassert gcd(4, 6) == 2", aliased
    )
    assert found["imports"] == "import math as m\nfrom math import isclose\n"
    assert found["names"] == ["f", "gcd"]


def test_classes_are_told_from_functions_with_capitals() -> None:
    """Catches objects asked whether they equal the expected value where none should be."""
    assert needs("assert Sum(2) == 3\nr = Find(3)\nassert r == 4")["classes"] == []
    assert needs("s = Stack()\ns.push(1)\nassert s.top() == 1")["classes"] == ["Stack"]
    assert needs("v = Vector(1) + Vector(2)\nassert v == Vector(3)")["classes"] == ["Vector"]
    assert needs("assert Money(5) == 5", "class Money: pass")["classes"] == ["Money"]
