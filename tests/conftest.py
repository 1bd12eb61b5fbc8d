"""Shared by all tests: a quiet, offline environment, one finished pico run, and how the tests are
dealt over two workers.
"""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

from tests.warm import Warm

ROOT = Path(__file__).resolve().parent.parent
PICO = ["+experiment=pico", "tracking.mode=disabled"]

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_SILENT", "true")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# or torch, asked for its devices, would start CUDA in the process that others are forked from
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
WORKER = os.environ.get("PYTEST_XDIST_WORKER")
if WORKER is not None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # Two workers on two cores: one thread each.

WARM = Warm(ROOT)


def pipeline_command(*arguments: str) -> list[str]:
    """The command line of a user, with this interpreter."""
    return [sys.executable, "-m", "pipeline", *arguments]


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Where the benchmark files lie; tests that need them are skipped where they are absent."""
    folder = Path(os.environ.get("PIPELINE_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no benchmark files in {folder} (set PIPELINE_TEST_DATA)")
    return folder


def run_pipeline(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the pipeline as a user would, from the repository's root: in a process of its own, forked
    from a warm one, or started anew where it is to have variables of its own."""
    if environment or not WARM.suits(os.environ):
        return start_pipeline(*arguments, **environment)
    return WARM.run(arguments, ROOT)


def start_pipeline(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The same in a process that is started anew, for what the start itself may do wrong."""
    return subprocess.run(
        pipeline_command(*arguments),
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=500,
    )


def on_checkpoints(pico_run: Path) -> list[str]:
    """Arguments for a run of seconds on the checkpoints of a finished pico run."""
    return [
        "+experiment=from_checkpoints",
        "tracking.mode=disabled",
        f"snapshot.source={pico_run / 'rl_train' / 'snapshots'}",
        f"snapshot.base={pico_run / 'sft_train' / 'model'}",
    ]


def needs_engine(nodeid: str) -> bool:
    """Whether a test is in a file that starts vLLM or Slurm jobs."""
    return re.search(r"/test_(vllm\w*|serve|launchers\w*)\.py", nodeid) is not None


class ByFile(LoadFileScheduling):
    """A file's tests stay together, as its fixtures are made once; all that need an engine are one
    such file, so that there is one engine at a time."""

    def _split_scope(self, nodeid: str) -> str:
        return "engine" if needs_engine(nodeid) else str(super()._split_scope(nodeid))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    return ByFile(config, log)


# Tests of more than about 15 s on two quiet cores: each drives again, over more processes, engines
# or jobs, what a quick one covers. `make test` leaves them out, `make test-all` does not.
SLOW = re.compile(
    r"test_(vllm_compiled|vllm_sharded|vllm_sharing|serve|rollouts)\.py"
    r"|test_vllm\.py::(TestUntied|TestPair.*pair[12])"
    r"|test_two_ranks|test_a_full_disk_of_another|deepspeed_launcher|under_torchrun|test_tasks_of_a_step_may"
    r"|test_end_to_end\.py::test_(killed|offline)|test_deltas\.py::test_(killed|deltas_give)"
    r"|test_sweeps\.py::test_(a_killed|a_job|two_that_start)"
    r"|test_stop\.py::test_(a_rank|the_command|a_signal_costs|a_full_disk)"
    r"|test_package\.py::test_(a_wheel|an_inst|it_runs)|test_the_cores_benchmark"
    r"|test_local_script_runs|test_the_peak_of_a_training|test_humaneval_references"
    r"|test_share\.py::test_(the_others_give_up.*1\]|what_a_killed)"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file first: what is short fills up the other worker."""
    items.sort(key=lambda item: not needs_engine(item.nodeid))
    for item in items:
        deepspeed = "zero" in getattr(item, "fixturenames", ())  # checkpoints of every stage
        if SLOW.search(item.nodeid) or item.get_closest_marker("slurm") or deepspeed:
            item.add_marker(pytest.mark.slow)


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder `name`, filled by `make` in the first worker that comes; the others wait."""
    root = factory.getbasetemp() if WORKER is None else factory.getbasetemp().parent
    folder, made = root / name, root / f"{name}.made"
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            folder.mkdir()
            make(folder)
            made.touch()
    return folder


@pytest.fixture(scope="session")
def pico_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for the base model of all pico runs."""
    return made_once(tmp_path_factory, "cache", lambda folder: None)


@pytest.fixture(scope="session")
def pico_run(tmp_path_factory: pytest.TempPathFactory, pico_cache: Path) -> Path:
    """A whole pico run, finished; treat it as read-only."""

    def make(folder: Path) -> None:
        place = [f"run.dir={folder / 'run'}", f"run.cache={pico_cache}"]
        done = start_pipeline(*PICO, *place)
        assert done.returncode == 0, done.stdout + done.stderr

    return made_once(tmp_path_factory, "pico", make) / "run"
