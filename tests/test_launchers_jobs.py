"""A run as Slurm jobs: how it is split, what a failure and the end of the time do, many nodes."""

from __future__ import annotations

import itertools
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.artifacts import read_jsonl
from pipeline.errors import PipelineError
from pipeline.stages import rl_train
from pipeline.status.reader import Run, read
from pipeline.training.launch import command
from pipeline.training.schema import ComputeConfig
from tests.conftest import PICO, ROOT, on_checkpoints, run_pipeline
from tests.stages.contexts import context_of
from tests.test_launchers import batch, environment, needs_slurm, slurm_down, wait

SMALL = {"NO_GPUS": "1", "CPU_CPUS": "1", "CPU_MEM": "1G", "GPU_MEM": "1G", "TIME": "60"}


def submit(*arguments: str, **values: str) -> subprocess.CompletedProcess[str]:
    script = str(ROOT / "launchers" / "slurm" / "submit.sh")
    return subprocess.run(
        [script, *arguments],
        env={**environment(), **values},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_run_is_split_into_jobs(tmp_path: Path) -> None:
    """Would catch GPU stages sent to CPU nodes, a job that does not wait for the one before it,
    and nodes that compute=... did not ask for."""
    run_dir = f"run.dir={tmp_path / 'run'}"
    arguments = ["+experiment=qwen_math", run_dir, "compute=four_nodes_8_gpus"]
    done = submit("--dry-run", *arguments, ACCOUNT="lab", CPU_PARTITION="cpu")
    assert done.returncode == 0, done.stderr
    jobs = [line for line in done.stdout.splitlines() if line.startswith("STAGES=")]
    stages = [job.split()[0] for job in jobs]
    assert stages[0] == "STAGES=rl_train"
    assert stages[1] == "STAGES=snapshot,weight_extrap"
    assert stages[2].startswith("STAGES=linear_probe")
    assert stages[3] == "STAGES=report"
    for job, nodes, gpus in zip(jobs, (4, 1, 1, 1), (8, 0, 8, 0), strict=True):
        assert f"--nodes={nodes} " in job
        assert (f"--gpus-per-node={gpus} " in job) == (gpus > 0)
        assert ("--partition=cpu" in job) == (gpus == 0)
        assert "--account=lab" in job
        assert "--signal=B:USR1@900" in job
    assert "--dependency" not in jobs[0]
    for number, job in enumerate(jobs[1:], 1):
        assert f"--dependency=afterok:JOB{number} --kill-on-invalid-dep=yes" in job
    assert "# ---- launchers/slurm/train.sbatch" in done.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["+experiment=pico"], "run.dir: missing"),
        (["+experiment=pico", "run.dir=x", "--now"], "--now: no such option"),
        (["+experiment=pico", "run.dir=x", "stages=[report]"], "pipeline.sbatch"),
        (["+experiment=pico", "run.dir=x", "seeed=1"], "seeed"),
        (["+experiment=pico", "run.dir=x", "compute.nodes=2"], "compute."),
    ],
)
def test_mistakes_are_found_before_anything_is_submitted(arguments: list[str], words: str) -> None:
    """Would catch a mistake that shows when the job starts, perhaps days later."""
    done = submit("--dry-run", *arguments)
    assert done.returncode == 1
    assert words in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "STAGES=" not in done.stdout


def test_nodes_of_a_slurm_job_meet_at_its_first_one(tmp_path: Path) -> None:
    """Would catch ranks that each look for the others on their own node."""
    compute = ComputeConfig(name="x", launcher="srun", nodes=4, processes=8)
    line = command(compute, tmp_path / "spec.json")
    assert line[0] == "srun"
    assert {"--nodes=4", "--ntasks=4", "--ntasks-per-node=1", "--kill-on-bad-exit=1"} <= set(line)
    given = dict(itertools.pairwise(line))
    assert given["--nnodes"] == "4"
    assert given["--nproc-per-node"] == "8"
    host, port = given["--rdzv-endpoint"].split(":")
    assert host == socket.gethostname()
    assert 1024 < int(port) < 65536
    assert line[-2:] == ["pipeline.training.worker", str(tmp_path / "spec.json")]


def test_many_nodes_need_a_job_that_has_them(pico_run: Path) -> None:
    """Would catch a job of one node that waits for three others for ever."""
    context = context_of(pico_run, compute=ComputeConfig(name="x", launcher="srun", nodes=4))
    with pytest.raises(PipelineError, match="wants a Slurm job of 4 nodes, and this one has 0"):
        rl_train.plan(context)


def nodes() -> int:
    if slurm_down() is not None:
        return 0
    listed = subprocess.run(["sinfo", "-h", "-N", "-o", "%N"], capture_output=True, text=True)
    return len(set(listed.stdout.split()))


@pytest.mark.slurm
@pytest.mark.skipif(nodes() < 2, reason="no Slurm of two nodes")
def test_two_nodes_train_as_two_ranks_of_one(tmp_path: Path, pico_cache: Path) -> None:
    """Would catch nodes that each train alone, or ranks that get others' rollouts: every loss,
    gradient and reward must be that of two ranks on one machine."""
    arguments = [*PICO, f"run.cache={pico_cache}", "rl_train.steps=3"]
    there, here, log = tmp_path / "there", tmp_path / "here", tmp_path / "job.log"
    options = ["--nodes=2", f"--output={log}"]
    batch("train.sbatch", *arguments, f"run.dir={there}", "compute=two_nodes_cpu", options=options)
    alone = [f"run.dir={here}", "compute=torchrun_2_ranks", "stages=[sft_train,rl_train]"]
    done = run_pipeline(*arguments, *alone)
    assert done.returncode == 0, done.stderr
    told = log.read_text()
    assert "2 ranks, srun, ZeRO-2" in told
    rows = [
        [
            {key: value for key, value in row.items() if not key.endswith("seconds")}
            for row in read_jsonl(run / "rl_train" / "metrics.jsonl")
        ]
        for run in (there, here)
    ]
    assert len(rows[0]) == 3, told
    assert "loss" in rows[0][0]
    assert rows[0] == rows[1]


@pytest.mark.slurm
@needs_slurm
def test_when_a_job_fails_those_behind_it_go(pico_run: Path, tmp_path: Path) -> None:
    """Would catch jobs that wait for ever for one that failed, and a status that does not say why:
    here a weight is not finite, which only reading all of them can tell."""
    source = tmp_path / "snapshots"
    shutil.copytree(pico_run / "rl_train" / "snapshots", source)
    weights = source / "step_3" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-4:] = b"\x00\x00\xc0\x7f"  # a NaN
    weights.write_bytes(content)
    run_dir = tmp_path / "run"
    done = submit(*on_checkpoints(pico_run), f"snapshot.source={source}", f"run.dir={run_dir}",
                   **SMALL, SBATCH_OUTPUT=str(tmp_path / "job-%j.log"))  # fmt: skip
    assert done.returncode == 0, done.stderr
    jobs = [line.split()[1].rstrip(":") for line in done.stdout.splitlines()[:-1]]
    assert len(jobs) > 1
    for job in jobs:
        wait(job)
    (found,) = read(run_dir)
    assert isinstance(found, Run)
    assert (found.state, found.stage) == ("failed", "snapshot")
    assert "step_3" in str(found.error)
    assert found.log == str(tmp_path / f"job-{jobs[0]}.log")
    assert found.stages["weight_extrap"] == "to do"
    assert [path.name for path in tmp_path.glob("job-*.log")] == [f"job-{jobs[0]}.log"]


@pytest.mark.slurm
@needs_slurm
def test_a_job_whose_time_is_up_comes_back(tmp_path: Path, pico_cache: Path) -> None:
    """Would catch a warning that does not reach training, a job that is not requeued, or one that
    begins anew. The signal is the one that --signal=B:USR1@900 sends, to the batch script only."""
    run_dir, log = tmp_path / "run", tmp_path / "job.log"
    arguments = [*PICO, f"run.dir={run_dir}", f"run.cache={pico_cache}"]
    more = ["rl_train.steps=400", "rl_train.checkpoint_every=400", "rl_train.snapshot_every=100"]
    script = str(ROOT / "launchers" / "slurm" / "train.sbatch")
    job = subprocess.run(
        ["sbatch", "--parsable", f"--output={log}", script, *arguments, *more],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    until(lambda: len(read_jsonl(run_dir / "rl_train" / "metrics.jsonl")) > 3)
    subprocess.run(["scancel", "--signal=USR1", "--batch", job], check=True)
    until(lambda: f"job {job} on" in log.read_text() and "restart 1" in log.read_text())
    until(lambda: len(read_jsonl(run_dir / "rl_train" / "metrics.jsonl")) > 20)
    subprocess.run(["scancel", job], check=True)
    wait(job)
    words = log.read_text()
    assert "the time is up; requeued" in words
    assert "[rl_train] resumes" in words
    rows = read_jsonl(run_dir / "rl_train" / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))


def until(there: Callable[[], bool]) -> None:
    for _ in range(3000):
        if there():
            return
        time.sleep(0.1)
    raise AssertionError("it did not come to that")
