"""References as data files have them: missing ones are named, numbers keep their digits."""

from __future__ import annotations

import json
import logging
import math
import struct
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import PipelineError
from pipeline.tasks import Problem, grade, grade_rows, load_problems
from pipeline.tasks.maths import MathOptions, reference
from tests.tasks.make import task


def load(path: Path, answers: list[Any], **options: Any) -> list[Problem]:
    """Problems with these answers, in this order, from a file of their own."""
    rows = [{"q": f"{path.stem} {i}?", "a": answer} for i, answer in enumerate(answers)]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    dataset = {"path": str(path), "problem": "q", "answer": "a"}
    return load_problems(task("m", kind="math", dataset=dataset, **options), "test", None, 0)


def right(gold: str, said: str) -> bool:
    return grade(
        task("m", kind="math", workers=2), Problem("p", [], gold, "test"), f"\\boxed{{{said}}}"
    ).correct


MISSING = [None, "", "  ", float("nan"), "nan", "None", "null", "N/A", [], [None], "$ $"]


def test_rows_without_a_reference_are_left_out_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Catches null golds that turn into the answer "None", and rows that vanish silently."""
    with caplog.at_level(logging.WARNING):
        problems = load(tmp_path / "missing.jsonl", ["1", *MISSING, "2"])
    assert [p.answer for p in problems] == ["1", "2"]
    (line,) = caplog.messages
    assert f"{len(MISSING)} rows have no reference answer" in line
    assert "row 2, row 3, row 4, row 5, row 6, ..." in line


def test_a_problem_with_two_answers_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Catches a gold that is chosen by the order of the rows, with nothing said; equal copies, and
    one answer written twice the same, are no matter for a word."""
    file = tmp_path / "two.jsonl"
    rows = [("x?", "1"), ("y?", 2), ("x?", "1"), ("y? ", "$2$"), ("x?", "3")]
    file.write_text("\n".join(json.dumps({"q": q, "a": a}) for q, a in rows))
    dataset = {"path": str(file), "problem": "q", "answer": "a"}
    with caplog.at_level(logging.WARNING):
        problems = load_problems(task("m", kind="math", dataset=dataset), "test", None, 0)
    assert [p.answer for p in problems] == ["1", "2"]
    (line,) = caplog.messages
    assert "1 rows repeat a problem with another reference answer" in line
    assert line.endswith("row 5")


def test_a_row_without_the_column_or_a_problem_is_left_out(tmp_path: Path) -> None:
    """Catches a problem "None" that is posed, and one short row that stops everything."""
    file = tmp_path / "d.jsonl"
    rows = [{"q": "One?", "a": 1}, {"q": "No answer?"}, {"q": None, "a": 2}, {"q": " ", "a": 3}]
    file.write_text("\n".join(map(json.dumps, rows)))
    dataset = {"path": str(file), "problem": "q", "answer": "a"}
    (only,) = load_problems(task("m", kind="math", dataset=dataset), "test", None, 0)
    assert only.answer == "1"


def test_a_solution_without_its_mark_is_no_reference(tmp_path: Path) -> None:
    """Catches a whole solution taken for the answer; lists keep their commas."""
    answers = ["so #### 1,234", "so 5", "x #### 3, 5"]
    problems = load(tmp_path / "marked.jsonl", answers, answer_after="####")
    assert [p.answer for p in problems] == ["1234", "3, 5"]


def test_no_reference_at_all_is_an_error(tmp_path: Path) -> None:
    """Catches a wrong column that leaves an empty benchmark."""
    with pytest.raises(PipelineError, match=r"no row of .*has a problem and a reference"):
        load(tmp_path / "none.jsonl", [None, None])


UNREADABLE = [
    "\\frac{1}{",
    "\\begin{tabular}{c}1\\end{tabular}",
    "because the sum of the first n odd numbers is always a perfect square",
    "5 \\clubsuit 3",
]


def test_unreadable_references_are_named_and_counted_apart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Catches golds that reject every answer as if the answers were wrong."""
    with caplog.at_level(logging.WARNING):
        problems = load(tmp_path / "unreadable.jsonl", ["1", *UNREADABLE])
    assert len(problems) == 5
    (line,) = caplog.messages
    assert f"{len(UNREADABLE)} reference answers cannot be read" in line
    assert problems[1].id in line
    rows = [
        {"task": "m", "split": "test", "problem_id": p.id, "text": f"\\boxed{{{said}}}"}
        for p in problems
        for said in (p.answer, "7")
    ]
    grades = grade_rows(rows, problems, {"m": task("m", kind="math")})
    statuses = [(g["correct"], g["status"]) for g in grades]
    assert statuses[:2] == [(True, "ok"), (False, "ok")]
    # of an unclosed brace no box can be made, so the answer that equals that gold has none either
    assert statuses[3::2] == [(False, "no_reference")] * 4
    assert statuses[4::2] == [(True, "ok")] * 3


NUMBERS = [
    (4.5e33, "4.47 \\times 10^{33}", "4.4 \\times 10^{33}"),
    (1e-05, "10^{-5}", "10^{-6}"),
    (0.1 + 0.2, "0.3", "0.31"),
    (1 / 3, "\\frac{1}{3}", "0.33"),
    (142.0, "142", "142.01"),
    (3e8, "300000000", "30000000"),
    (struct.unpack("f", struct.pack("f", 0.1))[0], "0.1", "0.11"),  # of a 32-bit column
    (math.inf, "\\infty", "-\\infty"),
    (-math.inf, "-\\infty", "\\infty"),
    (10**30, "10^{30}", "10^{31}"),
]


@pytest.mark.parametrize(("value", "same", "other"), NUMBERS)
def test_numbers_of_a_file_keep_their_digits(value: float, same: str, other: str) -> None:
    """Catches floats whose digits are those of binary, and e-notation read as Euler's number."""
    gold = reference(value, MathOptions())
    assert gold is not None
    assert right(gold, same)
    assert not right(gold, other)
