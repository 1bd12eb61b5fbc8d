"""How runs end where the system refuses something: one line, exit code, and what is left behind.

The command line itself, on tiny checkpoints: limits are set on the child, so nothing is faked.
"""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT, pipeline_command, run_pipeline
from tests.trajectory.pico import Tensors, load_model, run_tensors, write_run

STEPS = [0, 10, 20]
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, PR_CAPBSET_DROP = 1, 2, 24


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose models are larger (2 MB in bf16) than everything else that a run writes."""
    run: dict[int, Tensors] = run_tensors(STEPS)
    for tensors in run.values():
        tensors["model.embed_tokens.weight"] = torch.randn(130_000, 8)
    return write_run(tmp_path_factory.mktemp("source"), run, torch.float32)


def arguments(source: Path, run_dir: Path, *more: str) -> list[str]:
    return [
        "+experiment=from_checkpoints",
        "tracking.mode=disabled",
        "stages=[snapshot,weight_extrap]",
        f"snapshot.source={source}",
        f"run.dir={run_dir}",
        *more,
    ]


def end(
    arguments: list[str], limits: Callable[[], None] | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    if limits is None and not environment:
        return run_pipeline(*arguments)
    return subprocess.run(
        pipeline_command(*arguments),
        cwd=ROOT,
        env={**os.environ, "HYDRA_FULL_ERROR": "", **environment},
        capture_output=True,
        text=True,
        timeout=300,
        preexec_fn=limits,
    )


def said(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that a run ended in; progress bars come before it."""
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert lines == [done.stderr.splitlines()[-1]]
    return lines[0]


def small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))


def no_root() -> None:
    """Root without its power over permissions."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


def test_a_write_that_fails_leaves_nothing_finished_and_resumes(
    source: Path, tmp_path: Path
) -> None:
    """Catches half a model under its name, a stage that counts as done, and a run that cannot go on
    once there is room. (A limit of the file size stands for a full disk: the same call fails.)"""
    run_dir = tmp_path / "run"
    line = said(end(arguments(source, run_dir), small_files))
    assert "/.model.safetensors.tmp: file too large" in line
    assert "ulimit -f" in line
    assert "run the same command again" in line
    assert (run_dir / "snapshot" / "done.json").exists()
    assert not (run_dir / "weight_extrap" / "done.json").exists()
    assert not [p for p in run_dir.rglob("*.safetensors") if not p.name.startswith(".")]
    done = end(arguments(source, run_dir))
    assert done.returncode == 0, done.stderr
    assert "[snapshot] done already" in done.stdout
    written = load_model(run_dir / "weight_extrap" / "two_point" / "step_30")
    assert written["lm_head.weight"].shape == (37, 8)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 200 KB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk(source: Path, small_disk: Path) -> None:
    """Catches a message without path or advice, and rows or JSON torn by the disk."""
    run_dir = small_disk / "run"
    (small_disk / "ballast").write_bytes(bytes(195_000))
    line = said(end(arguments(source, run_dir)))
    assert f"error: {run_dir}/" in line
    assert "no space left on device" in line
    assert "make room" in line
    assert not list(run_dir.rglob("*.tmp"))
    (small_disk / "ballast").unlink()
    done = end(arguments(source, run_dir, "weight_extrap.write=false"))
    assert done.returncode == 0, done.stderr


def test_what_may_not_be_read_or_written(source: Path, tmp_path: Path) -> None:
    """Catches a traceback of PermissionError, and a word on whom to ask that is missing."""
    mine = tmp_path / "mine"
    shutil.copytree(source, mine)
    (mine / "global_step_10" / "model.safetensors").chmod(0)
    limits = no_root if os.geteuid() == 0 else None
    line = said(end(arguments(mine, tmp_path / "run"), limits))
    assert f"{mine}/global_step_10/model.safetensors: permission denied (" in line
    assert "belongs to" in line
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    line = said(end(arguments(source, locked / "run"), limits))
    assert f"{locked}/run: permission denied ({locked} belongs to" in line


def test_a_sweep_whose_jobs_fail(source: Path, tmp_path: Path) -> None:
    """Catches a traceback where Hydra carries the error, and a sweep that seems to have worked."""
    taken = tmp_path / "taken"
    taken.write_text("")
    command = [*arguments(source, taken), "--multirun", "seed=1,2", f"hydra.sweep.dir={tmp_path}"]
    line = said(end(command))
    assert f"{taken}: is a file where a folder belongs" in line


@pytest.mark.parametrize("verbose", ["hydra.verbose=true", "HYDRA_FULL_ERROR"])
def test_the_traceback_is_there_when_asked_for(source: Path, tmp_path: Path, verbose: str) -> None:
    """Catches a fault that nobody can trace."""
    taken = tmp_path / "taken"
    taken.write_text("")
    asked = {"HYDRA_FULL_ERROR": "1"} if verbose == "HYDRA_FULL_ERROR" else {}
    more = [] if asked else [verbose]
    done = end(arguments(source, taken, *more), None, **asked)
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_a_reader_that_has_had_enough() -> None:
    """Catches "BrokenPipeError" after `| head`, also from the interpreter's own last flush."""
    command = pipeline_command("--help")
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.close()
    assert child.stderr is not None
    assert child.stderr.read() == b""
    assert child.wait() == 1


def test_output_that_cannot_be_written() -> None:
    """Catches a run that seems to have said all it had to say."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            pipeline_command("--help"), cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "no space left on device" in done.stderr
    assert len(done.stderr.splitlines()) == 1


INTERRUPTED = """
import sys
import pipeline.__main__ as entry
from pipeline import runner

def run(config):
    print("begun", flush=True)
    sys.stdin.read()

runner.run = run
sys.argv = ["pipeline", "+experiment=tiny"]
entry.main()
"""


def test_an_interrupt_is_one_line() -> None:
    """Catches the traceback of Ctrl-C, and an exit code that a script takes for a failure."""
    child = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in background
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "begun\n"
    child.send_signal(signal.SIGINT)
    _, err = child.communicate()
    assert child.returncode == 130
    assert err == "interrupted: run the same command again to resume\n"
