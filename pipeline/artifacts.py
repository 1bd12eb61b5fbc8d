"""Files that are either whole or absent, and the hashes that say what they came from.

Every artefact is written to a temporary name beside its target, flushed to disk and renamed, so a
process killed at any moment leaves the old file or the new one, never half of one. Rows that
arrive over hours (generations, metrics) are appended as whole JSON lines; a torn last line, the
only damage a kill can do, is dropped on reading and cut off before the next append.
"""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.faults import naming, why_missing

_ODD = "backslashreplace"  # what stands for bytes of a path that are no UTF-8
LFS_POINTER = b"version https://git-lfs"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to, renamed to `path` if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming(path):
            yield temporary
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # where the disk was full: half of it helps nobody
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Write `text` (UTF-8) atomically: after a crash the file is the old one or the new one."""
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", errors=_ODD) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, atomically. NaN and infinities are refused: JSON has none."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_own(path: Path, *keys: str) -> Any:
    """Parse a JSON file that this pipeline wrote, and that it can write again.

    Args:
        keys: that it must have.

    Raises:
        PipelineError: the file is missing, truncated, not JSON, or lacks a key; it names the file.
    """
    try:
        value = _parse(path)
    except ValueError as error:
        raise PipelineError(f"{path}: {error}; delete it and rerun") from None
    for key in keys:
        if not isinstance(value, dict) or key not in value:
            raise PipelineError(f"{path}: has no {key!r}; delete it and rerun")
    return value


def read_json(path: Path) -> Any:
    """Parse a JSON file that somebody else wrote, e.g. a checkpoint's config.json.

    Raises:
        PipelineError: the file is missing or not JSON; it names the file.
    """
    try:
        return _parse(path)
    except ValueError as error:
        raise PipelineError(f"{path}: {error}; correct it or copy it again") from None


def read_object(path: Path) -> dict[str, Any]:
    """The same, of a file that must hold an object.

    Raises:
        PipelineError: the file is missing, not JSON, or no object; it names the file.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise PipelineError(
            f"{path}: holds {kind_of(value)}, not a JSON object; correct it or copy it again"
        )
    return value


def kind_of(value: Any) -> str:
    """What a JSON value is, in words: "text", "a list", "null"."""
    names = {str: "text", bool: "true or false", int: "a whole number", float: "a number"}
    names |= {list: "a list", dict: "an object", type(None): "null"}
    return names.get(type(value), type(value).__name__)


def _parse(path: Path) -> Any:
    """The JSON value in a file; what is wrong with it as a ValueError."""
    try:
        text = decode(path)
    except FileNotFoundError:
        raise PipelineError(f"{path}: {why_missing(path)}") from None
    if not text.strip():
        raise ValueError("is empty")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not valid JSON ({error})") from None


def decode(path: Path) -> str:
    """The text of a file in UTF-8, with or without a byte order mark.

    Raises:
        ValueError: it is something else; says what.
    """
    with naming(path):
        data = path.read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in data[:4]:
        raise ValueError("is UTF-16 or UTF-32 text or binary, not UTF-8: save it as UTF-8")
    if data.startswith(LFS_POINTER):
        raise ValueError("is a Git LFS pointer, not the file itself: run `git lfs pull`")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 text (byte {error.start}): save it as UTF-8") from None


def append_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Append one line a row and flush to disk, so that a kill loses at most these rows."""
    text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming(path), open(path, "a", encoding="utf-8", errors="surrogatepass") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def repair_jsonl(path: Path) -> None:
    """Cut off a torn last line (no newline at the end), left by a kill during an append."""
    if not path.exists():
        return
    with naming(path), open(path, "rb+") as file:
        size = file.seek(0, os.SEEK_END)
        end = size
        while end > 0:  # walk back in blocks to the last newline
            start = max(0, end - 65536)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        if end < size:
            file.truncate(end)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """All whole rows of a JSONL file; see iter_jsonl."""
    return list(iter_jsonl(path))


def iter_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The whole rows of a JSONL file, one at a time; none if it does not exist.

    A torn last line is left out.

    Raises:
        PipelineError: a line before the last is not JSON (names file and line).
    """
    if not path.exists():
        return
    with naming(path), open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise PipelineError(
                    f"{path}: line {number} is not JSON ({error}); delete that line and rerun"
                ) from None
            if not isinstance(row, dict):
                raise PipelineError(
                    f"{path}: line {number} is no JSON object; delete that line and rerun"
                )
            yield row


def hash_json(value: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of `value`: the order of keys does not matter."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 (hex) of a file's content, read once in blocks."""
    with naming(path), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
