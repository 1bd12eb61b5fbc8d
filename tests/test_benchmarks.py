"""The benchmarks run for anyone: would catch one that a change of the core has broken."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT


def test_the_cores_benchmark_times_floor_job_and_peer(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "weights.py"), "--scale", "pico"]
    command += ["--cases", "rank1", "--turns", "1", "--peers", "--json", str(figures)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "| **rank1 of 4, 1 target** |" in done.stdout
    [runs] = json.loads(figures.read_text()).values()
    assert list(runs) == ["floor", "ours", "SVD of each tensor"]
    assert all(turn["seconds"] > 0 and turn["anonymous"] > 1e6 for [turn] in runs.values())
