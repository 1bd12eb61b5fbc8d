"""Turns between processes: one at a time, and the dead keep nobody waiting."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.liveness import Process, ended, this
from pipeline.turns import Owner, owner, turn
from tests.conftest import ROOT

HOLD = """
import sys
from pathlib import Path
from pipeline.turns import turn
with turn(Path(sys.argv[1]), Path("run"), lambda owner: None):
    print("mine", flush=True)
    sys.stdin.read()
print("released", flush=True)
"""


@contextmanager
def holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process whose turn it is, until its stdin is closed or it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "mine\n"
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def never(held: Owner) -> None:
    raise AssertionError(f"waits for {held}")


def test_the_next_one_waits_for_the_release(tmp_path: Path) -> None:
    """Would catch two at work together, and a release that nobody sees."""
    seen = []

    def waiting(held: Owner) -> None:
        seen.append(held)
        assert held.process is not None
        assert held.process.pid == process.pid
        assert process.stdin is not None
        process.stdin.close()

    with holder(tmp_path) as process, turn(tmp_path, Path("other"), waiting):
        assert seen
        assert seen[0].run == "run"
        held = owner(tmp_path)
        assert held is not None
        assert held.process == this()
    held = owner(tmp_path)
    assert held is not None
    assert held.released


def test_a_killed_owner_is_taken_over_at_once(tmp_path: Path) -> None:
    """Would catch a lock that outlives its process, and one that trusts a mere process number."""
    with holder(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        with turn(tmp_path, Path("other"), never):
            pass
    assert len(list(tmp_path.glob("*.json"))) == 2


def test_the_same_number_of_another_process_is_not_the_owner(tmp_path: Path) -> None:
    """Would catch a waiter that takes whoever got the dead one's number for it."""
    now = this()
    entry = {"process": Process(now.host, now.machine, os.getppid(), 1).to_json(), "run": "r"}
    (tmp_path / "000001.json").write_text(json.dumps(entry))
    with turn(tmp_path, Path("other"), never):
        pass


@pytest.mark.parametrize("content", ["elsewhere", "", "[]", '{"process": {"pid": "x"}}'])
def test_an_owner_elsewhere_counts_as_dead_once_it_is_silent(tmp_path: Path, content: str) -> None:
    """Would catch a file of another machine, or one that a crash has torn, that blocks for ever;
    and one that is taken over although it shows signs of life."""
    path = tmp_path / "000007.json"
    entry = {"process": Process("far", "far boot ns", 1, 1).to_json(), "run": "r"}
    path.write_text(json.dumps(entry) if content == "elsewhere" else content)
    touched = 0

    def waiting(held: Owner) -> None:
        nonlocal touched
        assert held.path == path
        if touched < 3:  # longer than the patience, in looks
            touched += 1
            os.utime(path, ns=(touched, touched))

    with turn(tmp_path, Path("other"), waiting, patience=0.25):
        assert touched == 3
        assert (tmp_path / "000008.json").exists()


def test_of_many_that_come_together_one_has_its_turn(tmp_path: Path) -> None:
    """Would catch two that both believe they have taken over from the dead: a counter that each
    reads, and writes one higher, would then lose some."""
    code = """
import sys
from pathlib import Path
from pipeline.turns import turn
counter = Path(sys.argv[2])
for _ in range(5):
    with turn(Path(sys.argv[1]), Path("run"), lambda owner: None):
        value = int(counter.read_text())
        counter.write_text(str(value + 1))
"""
    counter, folder = tmp_path / "counter", tmp_path / "turns"
    counter.write_text("0")
    folder.mkdir()
    now = this()
    dead = {"process": Process(now.host, now.machine, os.getppid(), 1).to_json(), "run": "r"}
    (folder / "000001.json").write_text(json.dumps(dead))
    command = [sys.executable, "-c", code, str(folder), str(counter)]
    processes = [subprocess.Popen(command, cwd=ROOT) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    assert counter.read_text() == "20"


def test_what_a_process_is(tmp_path: Path) -> None:
    """Would catch a living process that counts as dead, and a dead one that has not been waited
    for that counts as living."""
    assert ended(this()) is False
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=-1)
    fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
    process = Process(this().host, this().machine, child.pid, int(fields[19]))
    assert ended(process) is False
    assert child.stdin is not None
    child.stdin.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert ended(process) is True  # a zombie
    child.wait()
    assert ended(process) is True
    assert ended(Process("far", "far", child.pid, 1)) is None
