"""HumanEval (Chen et al. 2021, arXiv 2107.03374): a Python function to complete."""

from __future__ import annotations

from pipeline.tasks.code import CodeOptions, Rows, code_kind
from pipeline.tasks.kind import Example
from pipeline.tasks.rows import column, load_rows
from pipeline.tasks.task import TaskConfig


def humaneval_rows(task: TaskConfig, o: CodeOptions) -> Rows:
    """Columns task_id, prompt, test, entry_point."""
    for row in load_rows(task):
        given = {name: column(task, row, name) for name in ("prompt", "entry_point")}
        text = given["prompt"]
        if o.chat:
            text = (
                "Complete this Python function. Reply with the whole function, imports included, "
                f"in one ```python block.\n\n```python\n{given['prompt'].rstrip()}\n```"
            )
        meta = {
            "setup": given["prompt"],
            "tests": column(task, row, "test"),
            "entry_point": given["entry_point"],
        }
        yield str(column(task, row, "task_id")), text, meta


EXAMPLE = Example(
    record={
        "task_id": "HumanEval/0",
        "prompt": 'def double(x: int) -> int:\n    """Twice x."""\n',
        "entry_point": "double",
        "test": "def check(candidate):\n"
        "    assert candidate(2) == 4\n    assert candidate(-3) == -6\n",
    },
    prompt="Complete this Python function. Reply with the whole function, imports included, in one "
    '```python block.\n\n```python\ndef double(x: int) -> int:\n    """Twice x."""\n```',
    right="```python\ndef double(x: int) -> int:\n    return 2 * x\n```",
    wrong="```python\ndef double(x: int) -> int:\n    return 4\n```",
)
KIND = code_kind(CodeOptions, humaneval_rows, EXAMPLE)
