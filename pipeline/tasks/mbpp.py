"""MBPP (Austin et al. 2021, arXiv 2108.07732): a task in words, and asserts."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import PipelineError
from pipeline.tasks.code import CodeOptions, Rows, code_kind
from pipeline.tasks.kind import Example
from pipeline.tasks.rows import column, load_rows
from pipeline.tasks.task import TaskConfig


@dataclass(frozen=True)
class MbppOptions(CodeOptions):
    """shown_tests: how many of the asserts the prompt shows (it must show the function's name)."""

    shown_tests: int = 1


def mbpp_rows(task: TaskConfig, o: MbppOptions) -> Rows:
    """Both forms of the data set: sanitized (prompt, test_imports) and full (text, setup code).

    The column `code`, if there is one, tells which of the names in the tests are the program's.
    """
    for row in load_rows(task):
        text = row.get("prompt") or column(task, row, "text")
        tests = column(task, row, "test_list")
        if not isinstance(tests, list):
            raise PipelineError(
                f"task {task.name}: {task.source.path}: test_list must be a list of asserts, "
                f"not {tests!r:.60}"
            )
        setup = "\n".join([*(row.get("test_imports") or []), row.get("test_setup_code") or ""])
        shown = "\n".join(tests[: max(1, o.shown_tests)])
        if o.chat:
            text = (
                f"{text.strip()}\nYour code must pass this test, among others:\n{shown}\n"
                "Reply with the whole program in one ```python block."
            )
        else:
            text = f'"""\n{text.strip()}\n{shown}\n"""\n'
        meta = {"setup": setup, "tests": "\n".join(tests), "reference": row.get("code")}
        yield str(column(task, row, "task_id")), text, meta


EXAMPLE = Example(
    record={
        "task_id": 2,
        "prompt": "Write a function to double a number.",
        "code": "def double(x):\n    return 2 * x",
        "test_imports": [],
        "test_list": ["assert double(2) == 4", "assert double(-3) == -6"],
    },
    prompt="Write a function to double a number.\n"
    "Your code must pass this test, among others:\nassert double(2) == 4\n"
    "Reply with the whole program in one ```python block.",
    right="```python\ndef double(x):\n    return x + x\n```",
    wrong="```python\ndef double(x):\n    return x * x\n```",  # right for the assert that it sees
)
KIND = code_kind(MbppOptions, mbpp_rows, EXAMPLE)
