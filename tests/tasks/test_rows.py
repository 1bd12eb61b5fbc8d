"""Data files of users: what is read, and what a broken one is told."""

import json
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.tasks.rows import load_rows
from tests.tasks.make import task

ROWS = [{"problem": "first\u2028line", "answer": "1"}, {"problem": "ü", "answer": 2}]
LINES = [json.dumps(row, ensure_ascii=False) for row in ROWS]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("last newline.jsonl", "\n".join(LINES) + "\n"),
        ("none.jsonl", "\n".join(LINES)),
        ("blank lines.jsonl", "\n\n".join(LINES) + "\n \n"),
        ("windows.jsonl", "\r\n".join(LINES) + "\r\n"),
        ("list.json", json.dumps(ROWS, indent=1)),
    ],
)
def test_rows_are_read_whatever_the_line_ends(tmp_path: Path, name: str, text: str) -> None:
    """Catches rows cut at a separator inside a text, and a file that a blank line makes invalid."""
    (tmp_path / name).write_bytes(text.encode())
    assert load_rows(task("t", dataset=tmp_path / name)) == ROWS


BROKEN = {
    "torn.jsonl": (f"{LINES[0]}\n{LINES[1][:-9]}".encode(), "line 2 is not JSON"),
    "object.json": (LINES[0].encode(), "not a list of rows"),
    "torn.json": (b"[" + LINES[0].encode(), "cannot be read"),
    "latin.jsonl": ('{"problem": "ü"}'.encode("latin-1"), "cannot be read"),
    "torn.parquet": (b"PAR1 and no more", "cannot be read"),
    "lists.jsonl": (f"{LINES[0]}\n[1, 2]\n".encode(), "row 2 is no object"),
    "table.csv": (b"problem,answer\n", "problems are read from .jsonl, .json, .parquet files"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_named(tmp_path: Path, name: str) -> None:
    """Catches tracebacks, rows dropped without a word, and a file looked for on the hub."""
    content, message = BROKEN[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PipelineError) as caught:
        load_rows(task("t", dataset=tmp_path / name))
    (line,) = str(caught.value).splitlines()
    assert str(tmp_path / name) in line
    assert message in line
