"""LiveCodeBench (Jain et al. 2024, arXiv 2403.07974): contest problems of chosen dates."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import PipelineError
from pipeline.tasks import livecodebench_files
from pipeline.tasks.code import CodeOptions, Rows, code_kind
from pipeline.tasks.kind import Example
from pipeline.tasks.task import TaskConfig


@dataclass(frozen=True)
class LiveCodeBenchOptions(CodeOptions):
    """release: release_v1 .. release_v6, or all files given; start_date, end_date: contest dates
    (YYYY-MM-DD), the first included, the last not."""

    release: str | None = "release_v5"
    start_date: str | None = None
    end_date: str | None = None


def livecodebench_rows(task: TaskConfig, o: LiveCodeBenchOptions) -> Rows:
    """The tests stay in their files: meta says where."""
    if not o.chat:
        raise PipelineError(f"task {task.name}: LiveCodeBench has chat prompts only; set chat=true")
    files = livecodebench_files.files(task, o.release)
    for row in livecodebench_files.problems(task, files, o.start_date, o.end_date):
        names = ["Solution"] if row.starter else []
        meta = {"file": row.file, "offset": row.offset, "names": names}
        yield row.id, livecodebench_files.prompt(row), meta


EXAMPLE = Example(
    record={
        "platform": "atcoder",
        "question_id": "abc000_a",
        "question_content": "Read a number and print its double.",
        "starter_code": "",
        "contest_date": "2024-09-01T00:00:00",
        "public_test_cases": '[{"input": "2", "output": "4"}]',
        "private_test_cases": '[{"input": "-3", "output": "-6"}]',  # or packed, as published
        "metadata": "{}",  # or {"func_name": ...}: a method of the class Solution
    },
    prompt="Read a number and print its double.\n\n"
    "Write a Python program that reads the input from stdin and prints the answer to stdout. "
    "Reply with the whole program in one ```python block.",
    right="```python\nprint(2 * int(input()))\n```",
    wrong="```python\nprint(int(input()) ** 2)\n```",  # right for the public test
)
KIND = code_kind(LiveCodeBenchOptions, livecodebench_rows, EXAMPLE, large=True)
