"""Rows of a data set: from the hub by name and revision, or from a local file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.artifacts import decode, kind_of
from pipeline.errors import PipelineError, first_line
from pipeline.faults import is_local
from pipeline.tasks.task import TaskConfig

FILES = (".jsonl", ".json", ".parquet")


def load_rows(task: TaskConfig) -> list[dict[str, Any]]:
    """All rows of the task's data set.

    Raises:
        PipelineError: the file or hub data set is missing or unreadable.
    """
    file = local_file(task)
    if file is None:
        return _texts(task, _from_hub(task))
    try:
        rows = _parse(file)
    except (OSError, ValueError) as error:
        if is_local(error):
            raise
        raise PipelineError(
            f"task {task.name}: {file} cannot be read ({first_line(error)}); fetch or write the "
            "file again"
        ) from None
    wrong = next((i for i, row in enumerate(rows, 1) if not isinstance(row, dict)), None)
    if wrong is not None:
        raise PipelineError(
            f"task {task.name}: {file}: row {wrong} is no object with named columns; write each "
            'problem as {"problem": ..., "answer": ...}'
        )
    return _texts(task, rows)


def _texts(task: TaskConfig, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, whose problems must be texts: "[...]" or "3.5" would be no problem. Rows without
    one are for the task to leave out."""
    source = task.source
    name = source.problem
    for number, row in enumerate(rows, 1):
        if not isinstance(row.get(name), str | None):
            raise PipelineError(
                f"task {task.name}: {source.path}: row {number}: {name} is "
                f"{kind_of(row[name])}, not text; correct the row or leave it out"
            )
    return rows


def local_file(task: TaskConfig) -> Path | None:
    """The file that `dataset.path` names; None if it is a hub id or a folder, or there is none.

    Raises:
        PipelineError: it is not there, or of another kind.
    """
    if task.dataset is None:
        return None
    file = Path(task.dataset.path).expanduser()
    known = file.suffix in FILES
    if known and not file.is_file():
        raise PipelineError(f"task {task.name}: {file}: no such file (task.dataset.path)")
    if not known and file.is_file():
        raise PipelineError(
            f"task {task.name}: {file} (task.dataset.path): problems are read from "
            f"{', '.join(FILES)} files; convert it"
        )
    return file if known else None


def _parse(file: Path) -> list[Any]:
    """The rows of a file by its kind; what is wrong with it as a ValueError."""
    if file.suffix == ".parquet":
        import pyarrow.parquet

        return list(pyarrow.parquet.read_table(file).to_pylist())
    text = decode(file)
    if file.suffix == ".json":
        rows = _value(text)
        if not isinstance(rows, list):
            raise ValueError("not a list of rows")
        return rows
    rows = []
    # not splitlines: a JSON string may hold U+2028 as it is
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            rows.append(_value(line))
        except ValueError as error:
            raise ValueError(f"line {number} is not JSON: {error}") from None
    return rows


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("brackets within brackets without end") from None


def _from_hub(task: TaskConfig) -> list[dict[str, Any]]:
    import datasets

    source = task.source
    try:
        rows = datasets.load_dataset(
            source.path, source.name, split=source.split, revision=source.revision
        )
    except (OSError, ValueError, RuntimeError) as error:
        if is_local(error):
            raise
        raise PipelineError(
            f"task {task.name}: cannot load {source.path} from the hub ({first_line(error)}); "
            "check the name and the network, or set task.dataset.path to a local .jsonl or "
            ".parquet file"
        ) from error
    return [dict(row) for row in rows]


def column(task: TaskConfig, row: Mapping[str, Any], name: str) -> Any:
    """`row[name]`, or an error that lists the columns there are."""
    if name not in row:
        raise PipelineError(
            f"task {task.name}: {task.source.path} has no column {name!r}; "
            f"columns: {', '.join(row)}"
        )
    return row[name]


def whole_column(task: TaskConfig, rows: Sequence[Mapping[str, Any]], name: str) -> list[Any]:
    """The value of each row, None where a row has none; an error if no row has the column."""
    if rows and not any(name in row for row in rows):
        column(task, rows[0], name)
    return [row.get(name) for row in rows]
