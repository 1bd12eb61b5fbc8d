"""Code benchmarks: prompts, extraction of programs, references that pass, data files."""

import base64
import json
import pickle
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import PipelineError
from pipeline.tasks import (
    Problem,
    grade,
    grade_many,
    livecodebench_files,
    load_problems,
    reward_function,
    training_rows,
)
from pipeline.tasks.code import extract_program
from pipeline.tasks.code_runs import same_output
from tests.tasks.make import task
from tests.tasks.shared import content


def fenced(code: str) -> str:
    return f"Here it is:\n```python\n{code}\n```\nIt works."


def test_humaneval_references_pass_and_empty_bodies_do_not(bwrap: str, data_dir: Path) -> None:
    """Catches tests that cannot run across processes, and a checker that passes anything.

    A tenth of the problems, and those whose tests use helpers, randomness or the function's name.
    """
    path = data_dir / "humaneval.jsonl"
    rows = {row["task_id"]: row for row in map(json.loads, path.read_text().splitlines())}
    problems = load_problems(task("humaneval", dataset={"path": str(path)}), "test", None, 0)
    assert len(problems) == len(rows) == 164
    right = [(p, fenced(rows[p.id]["prompt"] + rows[p.id]["canonical_solution"])) for p in problems]
    grades = grade_many(task("humaneval"), right)
    assert [p.id for p, g in zip(problems, grades, strict=True) if not g.correct] == []
    empty = [(p, fenced(rows[p.id]["prompt"])) for p in problems[::4]]
    assert not any(g.correct for g in grade_many(task("humaneval"), empty))


def humaneval(chat: bool = True) -> Problem:
    prompt = "import math\n\ndef twice(x):\n    '''Twice x.'''\n"
    meta = {"setup": prompt, "tests": "", "entry_point": "twice", "chat": chat}
    return Problem("t", [], "", "test", meta, "humaneval", "humaneval")


SETUP = humaneval().meta["setup"]
BODY = "    return 2 * x\n"
EXTRACTION = [
    (fenced("def twice(x):\n" + BODY), f"{SETUP}\n\ndef twice(x):\n{BODY}\n"),
    (fenced(BODY), f"{SETUP}{BODY}\n"),
    ("no code", None),
]


@pytest.mark.parametrize(("text", "expected"), EXTRACTION)
def test_the_prompt_comes_before_the_program(text: str, expected: str | None) -> None:
    """Catches a prompt's imports and helpers lost, and a body without its function."""
    assert extract_program(humaneval(), text) == expected


def test_a_base_models_completion_ends_where_it_leaves_the_function() -> None:
    """Catches text after the function (further functions, prints) that would break the program."""
    text = BODY + "\n\ndef other():\n    pass\nprint(twice(2)"
    assert extract_program(humaneval(chat=False), text) == SETUP + BODY + "\n\n"


def test_no_code_is_no_answer(bwrap: str) -> None:
    """Catches a response without code counted as a failed program."""
    assert grade(task("humaneval"), humaneval(), "I cannot.").status == "no_answer"


MBPP_ROWS: list[dict[str, Any]] = [
    {
        "task_id": 1,
        "prompt": "Write a function to reverse a list.",
        "test_imports": ["import math"],
        "test_list": [
            "assert turn([1, 2]) == [2, 1]",
            "assert turn([]) == []",
            "assert math.isclose(turn([0.1])[0], 0.1)",
        ],
    },
    {
        "task_id": 2,
        "text": "Write a function to take the first of a pair.",
        "test_setup_code": "offset = 1",
        "test_list": [
            "assert first(Pair(5, 6)) == 5",
            "assert first(Pair({1: (2, 3)}, None)) == {1: (2, 3)}",
            "assert first(Pair({1, offset}, b'x')) == {1}",
        ],
    },
]
TURN = "def turn(a):\n    return a[::-1]"
FIRST = (
    "class Pair:\n    def __init__(self, a, b):\n        self.a, self.b = a, b\n"
    "def first(p):\n    return p.a"
)


def mbpp(tmp_path: Path, **options: Any) -> list[Problem]:
    path = tmp_path / "mbpp.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in MBPP_ROWS))
    return load_problems(task("mbpp", dataset={"path": str(path)}, **options), "test", None, 0)


def test_mbpp_runs_functions_and_classes_of_the_program(bwrap: str, tmp_path: Path) -> None:
    """Catches tests that need a class of the program, set-up code, imports, rich values."""
    turn, first = mbpp(tmp_path)
    pairs = [
        (turn, fenced(TURN)),
        (turn, fenced("def turn(a):\n    return reversed(a)")),
        (turn, fenced("def turn(a):\n    return [2, 1]")),
        (first, fenced(FIRST)),
        (first, fenced(FIRST.replace("return p.a", "return p.b"))),
        (first, fenced(FIRST.replace("class Pair", "class Couple"))),
    ]
    grades = grade_many(task("mbpp"), pairs)
    assert [g.correct for g in grades] == [True, False, False, True, False, False]


def test_mbpp_prompts_show_as_many_tests_as_asked(tmp_path: Path) -> None:
    """Catches all tests given away, and none, which leaves the function without a name."""
    for shown in (1, 2):
        prompt = content(mbpp(tmp_path, shown_tests=shown)[0])
        assert [test in prompt for test in MBPP_ROWS[0]["test_list"]] == [True, shown > 1, False]


def test_the_code_reward_is_the_grader(bwrap: str, tmp_path: Path) -> None:
    """Catches tests lost on the way to the trainer, and one problem's verdict given to another."""
    problems = mbpp(tmp_path)
    rows = training_rows([*problems, problems[1]])
    columns = {key: [row[key] for row in rows] for key in ("answer", "meta")}
    reward = reward_function(task("mbpp", kind="mbpp"))
    completions = [fenced(TURN), fenced(TURN), fenced(FIRST)]
    assert reward([[]] * 3, completions, **columns) == [1.0, 0.0, 1.0]


def test_equal_responses_of_different_problems_are_graded_apart(bwrap: str, tmp_path: Path) -> None:
    """Catches verdicts shared by program text alone; equal pairs run once but all get a grade."""
    turn, first = mbpp(tmp_path)
    ticks: list[int] = []
    pairs = [(turn, fenced(TURN)), (first, fenced(TURN)), (turn, fenced(TURN)), (turn, "none")]
    grades = grade_many(task("mbpp"), pairs, done=lambda: ticks.append(1))
    assert [g.correct for g in grades] == [True, False, True, False]
    assert len(ticks) == 4


def packed(tests: list[dict[str, str]]) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(tests)))).decode()


def contest_row(identity: str, date: str, function: str | None, **tests: Any) -> dict[str, Any]:
    return {
        "question_id": identity,
        "platform": "contest",
        "question_content": f"Question {identity}.",
        "contest_date": f"{date}T00:00:00",
        "starter_code": "class Solution:\n    def f(self, a, b):" if function else "",
        "metadata": json.dumps({"func_name": function} if function else {}),
        "public_test_cases": json.dumps(tests["public"]),
        "private_test_cases": tests["private"],
    }


def case(given: str, expected: str) -> dict[str, str]:
    return {"input": given, "output": expected, "testtype": "stdin"}


@pytest.fixture
def contest(tmp_path: Path) -> Path:
    """Two files: a program on stdin (August), a function (September); a late one (next year)."""
    folder = tmp_path / "lcb"
    folder.mkdir()
    add = contest_row(
        "add", "2024-08-01", None, public=[case("1 2\n", "3\n")], private=packed([case("2 2", "4")])
    )
    zipped = contest_row(
        "zip",
        "2024-09-15",
        "f",
        public=[case('[1, 2]\n"ab"', '[[1, "a"], [2, "b"]]')],
        private=json.dumps([case('[]\n""', "[]")]),
    )
    late = contest_row("late", "2025-02-01", None, public=[], private="[]")
    (folder / "test.jsonl").write_text(json.dumps(add) + "\n")
    (folder / "test2.jsonl").write_text(json.dumps(zipped) + "\n" + json.dumps(late) + "\n")
    return folder


def lcb(contest: Path, **options: Any) -> list[Problem]:
    options = {"release": "release_v2", **options}
    return load_problems(
        task("livecodebench", dataset={"path": str(contest)}, **options), "test", None, 0
    )


ADD = "a, b = map(int, input().split())\nprint(a + b)"
ZIP = "class Solution:\n    def f(self, a, b):\n        return list(zip(a, b))"


def test_livecodebench_runs_programs_and_methods_on_public_and_hidden_tests(
    bwrap: str, contest: Path
) -> None:
    """Catches hidden tests that are skipped, and either of the two forms graded wrongly."""
    add, zipped, _ = lcb(contest)
    pairs = [
        (add, fenced(ADD)),
        (add, fenced("print(3)")),  # right on the public test only
        (add, fenced(ADD + "\nraise SystemExit(1)")),
        (add, fenced("import sys\nsys.exit(0)")),
        (add, fenced("while True: pass")),
        (zipped, fenced(ZIP)),
        (zipped, fenced(ZIP.replace("list(zip(a, b))", "[[1, 'a'], [2, 'b']]"))),
        (zipped, fenced(ZIP.replace("zip(a, b)", "zip(a, a)"))),
        (zipped, "I do not know."),
    ]
    grades = grade_many(task("livecodebench", seconds=1.0), pairs)
    assert [g.correct for g in grades] == [
        *(True, False, False, False, False),
        *(True, False, False, False),
    ]
    assert [g.status for g in grades] == ["ok"] * 4 + ["timeout"] + ["ok"] * 3 + ["no_answer"]


def test_programs_find_their_packages_and_themselves(bwrap: str, contest: Path) -> None:
    """Catches numpy out of reach where it is allowed, and modules that dataclasses cannot find."""
    add, zipped, _ = lcb(contest)
    numpy = "import numpy\na = numpy.array(input().split(), int)\nprint(a.sum())"
    record = (
        "from dataclasses import dataclass\n@dataclass\nclass Pair:\n    a: 'int'\n    b: 'str'\n"
    )
    pairs = [
        (add, fenced(numpy)),
        (add, fenced(record + ADD)),
        (zipped, fenced(record + ZIP)),
        (add, fenced("if __name__ == '__main__':\n    print(sum(map(int, input().split())))")),
    ]
    allowed = grade_many(task("livecodebench", packages=True), pairs)
    assert [g.correct for g in allowed] == [True, True, True, True]
    if not Path(sys.prefix).is_relative_to("/usr"):
        blind = (add, fenced(f"import os\nassert not os.path.exists({sys.prefix!r})\n{ADD}"))
        assert grade_many(task("livecodebench"), [blind])[0].correct
        assert not grade_many(task("livecodebench", packages=True), [blind])[0].correct


PATHS = "import sys\nassert not any(p.endswith('-packages') for p in sys.path), sys.path\n"


def test_standard_library_only_means_that_for_tests_and_programs(
    bwrap: str, contest: Path, tmp_path: Path
) -> None:
    """Catches packages of the Python that the environment was made from, on either side, and tests
    without the packages that their program has.
    """
    tests = [PATHS + "assert turn([1]) == [1]"]
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps({"task_id": 1, "text": "Turn.", "test_list": tests}))
    (problem,) = load_problems(task("mbpp", dataset={"path": str(path)}), "test", None, 0)
    assert grade(task("mbpp"), problem, fenced(PATHS + TURN)).correct
    assert not grade(task("mbpp", packages=True), problem, fenced(TURN)).correct
    assert not grade(task("mbpp"), problem, fenced("import pytest\n" + TURN)).correct
    assert grade(task("livecodebench"), lcb(contest)[0], fenced(PATHS + ADD)).correct
    arrays = [
        "import numpy as np",
        "assert np.array_equal(turn(np.arange(3)), np.array([2, 1, 0]))",
        "assert turn(np.arange(2)).dtype == np.arange(2).dtype and turn(np.ones(2))[0] == 1.0",
    ]
    path.write_text(json.dumps({"task_id": 1, "text": "Turn.", "test_list": arrays}))
    options: dict[str, Any] = {"packages": True}
    (problem,) = load_problems(
        task("mbpp", dataset={"path": str(path)}, **options), "test", None, 0
    )
    assert grade(task("mbpp", **options), problem, fenced(TURN)).correct
    assert not grade(task("mbpp", **options), problem, fenced(TURN.replace("a[::-1]", "a"))).correct


def test_livecodebench_window_and_release(contest: Path) -> None:
    """Catches dates compared wrongly at the edges, and files of a later release."""
    assert [p.id for p in lcb(contest)] == ["contest/add", "contest/zip", "contest/late"]
    window = {"start_date": "2024-08-02", "end_date": "2025-02-01"}
    assert [p.id for p in lcb(contest, **window)] == ["contest/zip"]
    assert [p.id for p in lcb(contest, release="release_v1")] == ["contest/add"]
    with pytest.raises(PipelineError, match="release_v9"):
        lcb(contest, release="release_v9")
    with pytest.raises(PipelineError, match=r"test3\.jsonl: no such file"):
        lcb(contest, release="release_v3")


def test_livecodebench_prompts_name_the_form_of_the_answer(contest: Path) -> None:
    """Catches starter code that is not shown, without which no method can be called."""
    add, zipped, _ = (content(p) for p in lcb(contest))
    assert "stdin" in add
    assert "class Solution:" in zipped
    assert "stdin" not in zipped


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    """Catches unpickling of whatever a downloaded file holds."""

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    evil = base64.b64encode(zlib.compress(pickle.dumps(Payload()))).decode()
    path = tmp_path / "evil.jsonl"
    path.write_text(
        json.dumps(contest_row("x", "2024-01-01", None, public=[], private=evil)) + "\n"
    )
    with pytest.raises(PipelineError, match="not the published one"):
        livecodebench_files.tests(str(path), 0)
    assert not (tmp_path / "ran").exists()


OUTPUTS = [
    ("3\n", "3", True),
    ("3 \n4\n", "3\n4", True),
    ("3\n\n4", "3\n4", False),
    ("1.0 2", "1 2.000", True),
    ("1.0000001", "1", False),
    ("YES", "Yes", False),
    ("a 1", "a 1.0", True),
    ("nan", "1", False),
    ("", "1", False),
    ("1 2", "1 2 3", False),
]


@pytest.mark.parametrize(("printed", "expected", "same"), OUTPUTS)
def test_outputs_are_compared_line_by_line(printed: str, expected: str, same: bool) -> None:
    """Catches a comparison that forgives wrong numbers or fails on trailing spaces."""
    assert same_output(printed, expected) is same
