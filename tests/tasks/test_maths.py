r"""Maths grading: the gold answers pass, wrong and hedged ones do not, nothing hangs."""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import PipelineError
from pipeline.tasks import Problem, grade, grade_many, load_problems
from pipeline.tasks.grader_pool import shared_pool
from tests.tasks.make import task
from tests.tasks.shared import content


def problem(answer: str) -> Problem:
    return Problem("p", [], answer, "test", task="m")


# arXiv 2601.04537, training recipe
PUBLISHED = "Let's think step by step and output the final answer within \\boxed{}."


def load(data_dir: Path, name: str, **more: Any) -> list[Problem]:
    return load_problems(
        task(name, kind="math", dataset={"path": str(data_dir / f"{name}.jsonl")}, **more),
        "test",
        None,
        0,
    )


def test_math500_solutions_pass_and_their_neighbours_answers_do_not(data_dir: Path) -> None:
    """Catches extraction or equality that fails on real LaTeX, and a grader that says yes."""
    problems = load(data_dir, "math500")
    rows = [json.loads(x) for x in (data_dir / "math500.jsonl").read_text().splitlines()]
    assert len(problems) == len(rows) == 500
    pairs = [(p, r["solution"]) for p, r in zip(problems, rows, strict=True)]
    assert all(g.correct for g in grade_many(task("math500", kind="math"), pairs))
    shifted = [(p, f"\\boxed{{{q.answer}}}") for p, q in pairwise(problems)]
    differing = [pair for pair in shifted if f"\\boxed{{{pair[0].answer}}}" != pair[1]]
    wrong = grade_many(task("math500", kind="math"), differing)
    # neighbours whose answers are equal but written differently, if any, are very few
    assert sum(g.correct for g in wrong) <= 2
    assert all(g.status == "ok" for g in wrong)


def test_math500_golds_are_equal_to_themselves_by_algebra(data_dir: Path) -> None:
    """Catches answers that only the shortcut for equal texts would accept."""
    answers = [p.answer for p in load(data_dir, "math500")]
    verdicts = shared_pool("math", 2, 10.0).run([{"answer": a, "prediction": a} for a in answers])
    assert [a for a, v in zip(answers, verdicts, strict=True) if not (v and v["correct"])] == []


@pytest.mark.parametrize(("name", "size"), [("gsm8k", 1319), ("aime24", 30), ("aime25", 30)])
def test_integer_benchmarks_load_and_grade(data_dir: Path, name: str, size: int) -> None:
    """Catches a wrong column and references that are not what a model would write."""
    problems = load(data_dir, name)
    assert len(problems) == size
    assert len({p.id for p in problems}) == size
    assert all(
        g.correct
        for g in grade_many(
            task(name, kind="math"), [(p, f"\\boxed{{{p.answer}}}") for p in problems]
        )
    )
    assert all(content(p).endswith(f" {PUBLISHED}") for p in problems)


VERDICTS = [
    ("70", "\\boxed{70}", True, "ok"),
    ("70", "first \\boxed{71}, corrected \\boxed{70}", True, "ok"),
    ("70", "\\boxed{70}, or rather \\boxed{71}", False, "ok"),
    ("70", "\\boxed{070}", True, "ok"),
    ("70", "\\boxed{70.0}", True, "ok"),
    ("70", "\\boxed{70 or 71}", False, "ok"),
    ("70", "\\boxed{70, 71}", False, "ok"),
    ("70", "\\boxed{\\{70,71\\}}", False, "ok"),
    ("70", "\\boxed{70$ or $71}", False, "ok"),
    ("70", "\\boxed{70 \\pm 1}", False, "ok"),
    ("70", "\\boxed{[0, 100]}", False, "ok"),
    ("70", "\\boxed{x > 0}", False, "ok"),
    ("70", "the answer is 70", False, "no_answer"),
    ("70", "\\boxed{ }", False, "no_answer"),
    ("70", "\\boxed{70", False, "no_answer"),
    ("\\frac{1}{2}", "\\boxed{0.5}", True, "ok"),
    ("\\frac{1}{2}", "\\boxed{\\dfrac12}", True, "ok"),
    ("\\sqrt{2}", "\\boxed{2^{1/2}}", True, "ok"),
    ("\\sqrt{2}", "\\boxed{1.414}", False, "ok"),
    ("x^2+2x+1", "\\boxed{(x+1)^2}", True, "ok"),
    ("(1, 2)", "\\boxed{(2, 1)}", False, "ok"),
    ("5", "\\boxed{9^{9^{9^{9}}}}", False, "timeout"),
    ("5", "\\boxed{" + "(" * 5000 + "}", False, "ok"),
]


def test_verdicts() -> None:
    """Catches hedging that passes, equal forms that fail, and statuses that are mixed up."""
    pairs = [(problem(answer), text) for answer, text, _, _ in VERDICTS]
    grades = grade_many(task("m", kind="math", limit=1.5), pairs)
    found = [(a, t, g.correct, g.status) for (a, t, _, _), g in zip(VERDICTS, grades, strict=True)]
    assert found == VERDICTS


def test_one_response_is_graded_like_many() -> None:
    """Catches a difference between reward (batches) and single grading."""
    assert grade(task("m", kind="math"), problem("\\frac{3}{4}"), "so \\boxed{0.75}").correct


ROWS = [{"q": f"Problem {i}?", "a": a} for i, a in enumerate(["x #### 1,234", "#### 5", "#### 5"])]


def write(path: Path, rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return {"path": str(path), "problem": "q", "answer": "a"}


def test_reference_after_a_mark(tmp_path: Path) -> None:
    """Catches GSM8K references that carry the whole solution or a thousands separator."""
    dataset = write(tmp_path / "g.jsonl", ROWS)
    problems = load_problems(
        task("g", kind="math", dataset=dataset, answer_after="####", prompt_template="{problem}"),
        "test",
        None,
        0,
    )
    assert [p.answer for p in problems] == ["1234", "5", "5"]
    assert [content(p) for p in problems] == [r["q"] for r in ROWS]


@pytest.mark.parametrize(
    ("value", "expected"),
    [("$\\frac12$", "\\frac12"), ("\\boxed{3}", "3"), (3, "3"), (3.0, "3"), (["4"], "4")],
)
def test_reference_forms(tmp_path: Path, value: object, expected: str) -> None:
    """Catches references left as lists, floats or in dollars, which no answer would equal."""
    dataset = write(tmp_path / "g.jsonl", [{"q": "?", "a": value}])
    (loaded,) = load_problems(task("g", kind="math", dataset=dataset), "test", None, 0)
    assert loaded.answer == expected


def test_shares_divide_the_rows_and_duplicates_count_once(tmp_path: Path) -> None:
    """Catches a problem in validation and test, or twice in one."""
    rows = [{"q": f"Problem {i % 300}?", "a": 1} for i in range(400)]
    dataset = write(tmp_path / "g.jsonl", rows)
    shares = {"validation": 0.3, "test": 0.7}
    parts = [
        {
            p.id
            for p in load_problems(
                task("g", kind="math", dataset=dataset, splits=shares), s, None, 0
            )
        }
        for s in shares
    ]
    assert parts[0].isdisjoint(parts[1])
    assert len(parts[0]) + len(parts[1]) == 300
    some = load_problems(task("g", kind="math", dataset=dataset, splits=shares), "test", 10, 1)
    assert {p.id for p in some} <= parts[1]
    assert len(some) == 10


def test_parquet_and_plain_prompts(tmp_path: Path) -> None:
    """Catches a reader that knows JSON lines only, and chat turns for a base model."""
    import pyarrow
    import pyarrow.parquet

    file = tmp_path / "d.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"problem": ["1+1?"], "answer": ["2"]}), file)
    (loaded,) = load_problems(
        task("d", kind="math", dataset={"path": str(file)}, chat=False), "test", None, 0
    )
    assert loaded.prompt == f"1+1? {PUBLISHED}"


def test_mistakes_in_the_data_are_named(tmp_path: Path) -> None:
    """Catches tracebacks for a missing file, column or split."""
    dataset = write(tmp_path / "g.jsonl", ROWS)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"dataset": {"path": "absent.jsonl"}}, "absent.jsonl: no such file"),
        ({"dataset": {**dataset, "answer": "gold"}}, "no column 'gold'; columns: q, a"),
        ({"dataset": None}, "needs task.dataset"),
        ({"split": "validation"}, "no split 'validation'"),
        ({"count": 9}, "9 problems wanted"),
    ]
    for changed, part in cases:
        call: dict[str, Any] = {"split": "test", "count": None, "dataset": dataset, **changed}
        with pytest.raises(PipelineError, match=part):
            load_problems(
                task("g", kind="math", dataset=call["dataset"]), call["split"], call["count"], 0
            )
