"""Faults caught: a status that ends in a traceback, or waits for ever, because a file in the folder
is torn, of another program or another version, or is deleted while it is looked at."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import PipelineError
from pipeline.status.reader import QUEUED, Run, Sweep, active, read, to_json
from pipeline.status.show import show

SAID = {
    "name": "pico",
    "stages": ["rl_train"],
    "state": "runs",
    "stage": "rl_train",
    "given": ["a=1"],
    "process": {"host": "far", "machine": "far 1", "pid": 1, "start": 2},
    "progress": {"label": "x", "done": 1, "total": 4, "unit": "step", "seconds_left": 3.0},
    "waits_for": {"process": "p", "run": "r"},
    "error": "e",
    "log": "/dev/null",
    "updated": 1.0,
}
ODD: list[Any] = [None, 1, "x", [], {}, [1], {"a": 1}, True, [["x"]], {"label": None}, 1e400]


def look(path: Path) -> list[Run | Sweep]:
    """Everything that the command does with what it finds."""
    found = read(path)
    json.dumps([to_json(item) for item in found], allow_nan=False)
    assert show(found)
    assert isinstance([active(item) for item in found], list)
    return found


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


@pytest.mark.parametrize("key", SAID)
def test_a_field_of_another_type_is_left_out(key: str, tmp_path: Path) -> None:
    for value in ODD:
        for state in ("runs", "failed", "done", "of the next version"):
            write(tmp_path / "status.json", {**SAID, "state": state, key: value})
            write(tmp_path / ".parts" / "0of2.json", {**SAID, "updated": 2.0, key: value})
            write(tmp_path / ".parts" / "1of2.json", value)
            look(tmp_path)
            shutil.rmtree(tmp_path / ".parts")
            look(tmp_path)


@pytest.mark.parametrize("key", ["label", "done", "total", "unit", "seconds_left"])
def test_progress_of_another_type_is_left_out(key: str, tmp_path: Path) -> None:
    for value in ODD:
        write(tmp_path / "status.json", {**SAID, "progress": {"done": 1, key: value}})
        look(tmp_path)


@pytest.mark.parametrize("key", ["command", "jobs", "given", "seconds"])
def test_a_sweep_of_another_version_is_read(key: str, tmp_path: Path) -> None:
    for value in ODD:
        sweep = {"command": ["a=1"], "jobs": [["b=1"], ["b=2"]], key: value}
        write(tmp_path / "sweep.json", sweep)
        write(tmp_path / "0" / "status.json", {**SAID, key: value})
        write(tmp_path / "0" / "rl_train" / "done.json", {"seconds": value})
        look(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\0", b"[" * 100_000, b"null"])
def test_torn_files_are_no_traceback(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "rl_train").mkdir()
    (tmp_path / "rl_train" / "done.json").write_bytes(content)
    (tmp_path / "status.json").write_bytes(content)
    (found,) = look(tmp_path)
    assert isinstance(found, Run)
    assert found.stages == {"rl_train": "done"}


def test_links_folders_and_pipes_in_the_place_of_files(tmp_path: Path) -> None:
    """A pipe as the log of a dead run has no end that could be read."""
    (tmp_path / "a" / "status.json").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "config.yaml").symlink_to("/nonexistent")
    (tmp_path / "b" / "rl_train").symlink_to("../shared/gone")
    (tmp_path / "b" / "again").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    write(tmp_path / "c" / "status.json", {**SAID, "log": str(tmp_path / "pipe")})
    os.utime(tmp_path / "c" / "status.json", (1, 1))
    states = {Path(item.path).name: item for item in look(tmp_path)}
    assert set(states) == {"a", "c"}
    assert isinstance(states["c"], Run)
    assert states["c"].state == "silent"


def test_a_folder_of_another_program_is_no_run(tmp_path: Path) -> None:
    """config.yaml is a common name."""
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "config.yaml").write_text("a: 1")
    with pytest.raises(PipelineError, match="holds no run"):
        read(tmp_path)


def test_a_run_that_was_submitted_is_queued(tmp_path: Path) -> None:
    """What submit.sh tells its user to look at, before Slurm has started anything."""
    (tmp_path / ".submit").touch()
    (found,) = look(tmp_path)
    assert isinstance(found, Run)
    assert found.state == QUEUED
    assert active(found)


def test_parts_of_an_evaluation_speak_for_the_run(tmp_path: Path) -> None:
    """A run that seems done, of the job before, while its evaluation is at work or has failed."""
    write(tmp_path / "status.json", {**SAID, "state": "done"})
    done = {**SAID, "state": "done", "updated": 2.0}
    write(tmp_path / ".parts" / "0of3.json", done)
    write(tmp_path / ".parts" / "1of3.json", {**SAID, "updated": 3.0, "stage": "evaluate"})
    (found,) = look(tmp_path)
    assert isinstance(found, Run)
    assert (found.state, found.stage) == ("runs", "evaluate")
    assert found.parts == {"done": 1, "runs": 1, "to do": 1}
    failed = {**SAID, "state": "failed", "updated": 4.0, "error": "out of luck"}
    write(tmp_path / ".parts" / "1of3.json", failed)
    (found,) = look(tmp_path)
    assert isinstance(found, Run)
    assert (found.state, found.error) == ("failed", "out of luck")
    write(tmp_path / "status.json", {**SAID, "state": "done", "updated": 5.0})
    (found,) = look(tmp_path)
    assert isinstance(found, Run)
    assert (found.state, found.parts) == ("done", {})


def test_a_number_that_no_float_can_hold_is_left_out(tmp_path: Path) -> None:
    """Would catch an OverflowError for the folder of another program."""
    (tmp_path / "evaluate").mkdir()
    (tmp_path / "status.json").write_text(json.dumps(SAID))
    (tmp_path / "evaluate" / "done.json").write_text(f'{{"seconds": 1{"0" * 400}}}')
    [run] = look(tmp_path)
    assert isinstance(run, Run)
    assert run.seconds == {"evaluate": 0.0}
