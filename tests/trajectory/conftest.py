"""Shared by the tests of checkpoints: one launch of DeepSpeed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, made_once


@pytest.fixture(scope="session")
def zero(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DeepSpeed's checkpoints of ZeRO 1, 2 and 3, of one rank and of two: RANKS/checkpoint-STAGE.

    With parameter groups, a frozen parameter and a buffer.
    """
    pytest.importorskip("deepspeed")

    def make(folder: Path) -> None:
        command = [sys.executable, "-m", "tests.trajectory.deepspeed_runs", str(folder)]
        environment = os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
        child = subprocess.run(command, cwd=ROOT, capture_output=True, env=environment)
        assert child.returncode == 0, child.stderr.decode()[-3000:]

    return made_once(tmp_path_factory, "zero", make)
