"""Runs of more files than a process may open: read all the same."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from pipeline.trajectory.combine import extrapolate
from pipeline.trajectory.descriptors import Descriptors
from pipeline.trajectory.fingerprint import check_finite
from pipeline.trajectory.sources import discover
from tests.conftest import ROOT
from tests.trajectory.pico import load_model, run_tensors, write_run


def open_descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def test_at_most_so_many_stay_open(tmp_path: Path) -> None:
    """Catches a cache without a bound, a descriptor closed under its reader, and a leak."""
    paths = [tmp_path / str(i) for i in range(6)]
    for path in paths:
        path.write_text(path.name)
    before = open_descriptors()
    kept = Descriptors(room=3)
    held = kept.take(paths[0])
    for path in paths[1:]:
        descriptor = kept.take(path)
        assert os.pread(descriptor, 9, 0).decode() == path.name
        kept.give_back(descriptor)
        assert len(open_descriptors() - before) <= 3
    assert os.pread(held, 9, 0) == b"0"  # in use all the time
    assert kept.take(paths[0]) == held
    kept.give_back(held)
    kept.give_back(held)
    busy = [kept.take(path) for path in paths]  # more than there is room for
    assert [os.pread(d, 9, 0).decode() for d in busy] == [path.name for path in paths]
    kept.close()
    assert open_descriptors() == before


def test_threads_share_them(tmp_path: Path) -> None:
    """Catches a race between closing and reading: a number reused for another file."""
    paths = [tmp_path / str(i) for i in range(8)]
    for path in paths:
        path.write_text(path.name)
    kept = Descriptors(room=2)
    wrong: list[str] = []

    def read(start: int) -> None:
        for i in range(400):
            path = paths[(start + i * 3) % len(paths)]
            descriptor = kept.take(path)
            if os.pread(descriptor, 9, 0).decode() != path.name:
                wrong.append(path.name)
            kept.give_back(descriptor)

    threads = [threading.Thread(target=read, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept.close()
    assert not wrong


WORK = """
import resource, sys
from pathlib import Path
import torch
from pipeline.trajectory import kernels  # what libraries open on import is not what is tested
from pipeline.trajectory.combine import extrapolate
from pipeline.trajectory.fingerprint import check_finite, fingerprint
from pipeline.trajectory.linearity import probe_weights
from pipeline.trajectory.sources import discover
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
trajectory = fingerprint(discover(Path(sys.argv[1]), None))
check_finite(trajectory)
probe_weights(trajectory, 1e-4, 4)
extrapolate(trajectory, "least_squares", 0, 29, [35], {35: Path(sys.argv[2])}, dtype="float32")
"""


def test_more_files_than_may_be_open(tmp_path: Path) -> None:
    """Catches `too many open files` for a long run of sharded checkpoints: 30 x 5 files under a
    limit of 64. The result must be that of an unlimited process, to the bit."""
    root = write_run(tmp_path / "run", run_tensors(list(range(30))), torch.float32, shards=5)
    command = [sys.executable, "-c", WORK, str(root), str(tmp_path / "few")]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    many = tmp_path / "many"
    trajectory = discover(root, None)
    extrapolate(trajectory, "least_squares", 0, 29, [35], {35: many}, dtype="float32")
    one, two = load_model(tmp_path / "few"), load_model(many)
    assert one.keys() == two.keys()
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_a_file_that_goes_away_is_named(tmp_path: Path) -> None:
    """Catches an error without a path from the thread that meets it."""
    root = write_run(tmp_path / "run", run_tensors([0, 10]))
    trajectory = discover(root, None)
    gone = root / "global_step_10" / "model.safetensors"
    gone.unlink()
    with pytest.raises(FileNotFoundError) as caught:
        check_finite(trajectory)
    assert str(caught.value.filename) == str(gone)
