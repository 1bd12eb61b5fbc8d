"""LiveCodeBench, code_generation_lite (Jain et al. 2024, arXiv 2403.07974): files, prompts, tests.

The files are large (their hidden tests fill gigabytes), so a problem remembers its file and byte
offset, and its tests are read when a response is graded.
"""

from __future__ import annotations

import base64
import io
import json
import pickle
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

from pipeline.errors import PipelineError, first_line
from pipeline.tasks.task import TaskConfig

RELEASES = {
    f"release_v{last}": ["test.jsonl", *(f"test{n}.jsonl" for n in range(2, last + 1))]
    for last in range(1, 7)
}
# What contest solutions take for granted; builtins last, or math.pow would replace pow.
HEADER = """\
import bisect, collections, functools, heapq, itertools, math, operator, random, re, string, sys
from bisect import *
from collections import *
from functools import *
from heapq import *
from itertools import *
from math import *
from typing import *
from builtins import *
"""


@dataclass(frozen=True)
class Row:
    id: str
    question: str
    starter: str
    file: str
    offset: int


@dataclass(frozen=True)
class Tests:
    """inputs, outputs: texts; function: "Solution.method", or None for a program on stdin."""

    inputs: list[str]
    outputs: list[str]
    function: str | None

    def calls(self) -> list[dict[str, Any]]:
        """One call a test; each line of an input is one argument as JSON."""
        return [
            {
                "name": self.function,
                "args": [json.loads(line) for line in given.splitlines() if line.strip()],
                "expected": json.loads(expected),
            }
            for given, expected in zip(self.inputs, self.outputs, strict=True)
        ]


def files(task: TaskConfig, release: str | None) -> list[Path]:
    """Local paths of the JSONL files of a release, fetched from the hub if need be.

    A local `dataset.path` may be one .jsonl file (release is ignored) or a folder of them.
    """
    if release is not None and release not in RELEASES:
        raise PipelineError(
            f"task {task.name}: options.release {release!r} is none of {', '.join(RELEASES)}"
        )
    path = Path(task.source.path).expanduser()
    names = RELEASES[release or "release_v6"]
    if path.suffix == ".jsonl":
        wanted = [path]
    elif path.is_dir():
        wanted = [path / name for name in names]
    else:
        return [_fetch(task, name) for name in names]
    for file in wanted:
        if not file.is_file():
            raise PipelineError(f"task {task.name}: {file}: no such file (task.dataset.path)")
    return wanted


def _fetch(task: TaskConfig, name: str) -> Path:
    from huggingface_hub import hf_hub_download

    source = task.source
    try:
        found = hf_hub_download(source.path, name, repo_type="dataset", revision=source.revision)
    except (OSError, ValueError) as error:
        raise PipelineError(
            f"task {task.name}: cannot fetch {name} of {source.path} ({first_line(error)}); check "
            "the network, or set task.dataset.path to a folder with the .jsonl files"
        ) from error
    return Path(found)


def _row(task: TaskConfig, path: Path, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise PipelineError(
            f"task {task.name}: {path} has a line that is not JSON ({error}); fetch the file again"
        ) from None
    if not isinstance(row, dict) or "question_content" not in row:
        raise PipelineError(
            f"task {task.name}: {path} is not LiveCodeBench: no column question_content"
        )
    return row


def problems(
    task: TaskConfig, paths: Sequence[Path], start_date: str | None, end_date: str | None
) -> Iterator[Row]:
    """Rows whose contest lies in [start_date, end_date)."""
    for path in paths:
        with open(path, "rb") as file:
            while True:
                offset = file.tell()
                line = file.readline()
                if not line.strip():
                    break
                row = _row(task, path, line)
                date = str(row["contest_date"])[:10]
                if (start_date and date < start_date) or (end_date and date >= end_date):
                    continue
                yield Row(
                    id=f"{row['platform']}/{row['question_id']}",
                    question=row["question_content"].strip(),
                    starter=(row.get("starter_code") or "").rstrip(),
                    file=str(path),
                    offset=offset,
                )


def prompt(row: Row) -> str:
    """The question and the form of the answer."""
    if row.starter:
        form = (
            "Complete the following code and reply with all of it in one ```python block.\n\n"
            f"```python\n{row.starter}\n```"
        )
    else:
        form = (
            "Write a Python program that reads the input from stdin and prints the answer to "
            "stdout. Reply with the whole program in one ```python block."
        )
    return f"{row.question}\n\n{form}"


@lru_cache(maxsize=16)
def tests(file: str, offset: int) -> Tests:
    """Public and hidden tests of the problem at `offset` of `file`."""
    with open(file, "rb") as source:
        source.seek(offset)
        row = json.loads(source.readline())
    cases = json.loads(row["public_test_cases"]) + _hidden(row["private_test_cases"])
    metadata = row["metadata"]
    if isinstance(metadata, str):
        metadata = json.loads(metadata)
    name = metadata.get("func_name")
    return Tests(
        [case["input"] for case in cases],
        [case["output"] for case in cases],
        None if name is None else f"Solution.{name}",
    )


class _TextOnly(pickle.Unpickler):
    """Hidden tests are a pickled string; a pickle that asks for anything else may run code."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise PipelineError(
            f"LiveCodeBench: hidden tests hold a pickled {module}.{name}, not text; "
            "the file is not the published one"
        )


def _hidden(text: str) -> list[dict[str, str]]:
    """Plain JSON, or base64 of zlib of a pickled JSON string."""
    if text.lstrip().startswith("["):
        return list(json.loads(text))
    unpacked = _TextOnly(io.BytesIO(zlib.decompress(base64.b64decode(text)))).load()
    return list(json.loads(unpacked))
