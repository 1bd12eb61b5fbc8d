"""The launchers as a user calls them: the local script, sbatch, and a Hydra sweep over Slurm."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.artifacts import read_json, read_jsonl
from pipeline.config import ComputeConfig
from pipeline.errors import PipelineError
from pipeline.stages import rl_train
from pipeline.status.reader import Run, read
from pipeline.training.launch import command
from tests.conftest import PICO, ROOT, on_checkpoints, pipeline_command, run_pipeline
from tests.stages.contexts import context_of


def _slurm_down() -> str | None:
    """Why there is no Slurm to submit to, or None."""
    if shutil.which("sbatch") is None:
        return "Slurm is not installed"
    ping = subprocess.run(["scontrol", "ping"], capture_output=True, text=True)
    return None if "UP" in ping.stdout else "slurmctld does not answer"


needs_slurm = pytest.mark.skipif(_slurm_down() is not None, reason=_slurm_down() or "")


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHON": sys.executable}


def _arguments(pico_run: Path) -> list[str]:
    """From the finished run's checkpoints: seconds of work, but through every layer."""
    return [*on_checkpoints(pico_run), "stages=[snapshot,weight_extrap]"]


def test_local_script_runs_and_keeps_a_log(pico_run: Path, tmp_path: Path) -> None:
    """Would catch a script that loses arguments, the exit code or the log."""
    logs = ROOT / "outputs" / "logs"
    before = set(logs.glob("*.log"))
    command = [str(ROOT / "launchers" / "local.sh"), *_arguments(pico_run)]
    done = subprocess.run(
        [*command, f"run.dir={tmp_path / 'run'}"],
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "weight_extrap" / "done.json").exists()
    new = set(logs.glob("*.log")) - before
    assert any("[weight_extrap] done" in path.read_text() for path in new)
    failed = subprocess.run([*command, "nonsense=1"], env=_environment(), capture_output=True)
    assert failed.returncode == 1
    for path in set(logs.glob("*.log")) - before:
        path.unlink()


PIPELINE_STAND_IN = """#!/usr/bin/env bash
trap 'echo heard >> "$LOG"; exit 75' USR1
echo "$@" >> "$LOG"
if [ "${ENDS:-}" != "" ]; then exit "$ENDS"; fi
kill -$SIGNAL $PPID
while true; do sleep 0.05; done
"""


@pytest.mark.parametrize(
    ("given", "code", "requeued"),
    [({"SIGNAL": "USR1"}, 75, True), ({"SIGNAL": "TERM"}, 75, True), ({"ENDS": "1"}, 1, False)],
)
def test_the_batch_script_requeues_on_75_only(
    tmp_path: Path, given: dict[str, str], code: int, requeued: bool
) -> None:
    """Would catch a signal that ends the script and leaves the pipeline to be killed, a job that is
    not requeued, and a mistake that is requeued for ever. Here Slurm and the pipeline are scripts.
    """
    log = tmp_path / "log"
    for name, script in (
        ("python", PIPELINE_STAND_IN),
        ("scontrol", '#!/usr/bin/env bash\necho "scontrol $@" >> "$LOG"\n'),
    ):
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    environment = {
        **os.environ,
        **given,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHON": str(tmp_path / "python"),
        "LOG": str(log),
        "SLURM_JOB_ID": "7",
    }
    script = str(ROOT / "launchers" / "slurm" / "pipeline.sbatch")
    done = subprocess.run(["bash", script, "+experiment=pico"], env=environment, timeout=60)
    assert done.returncode == code
    said = log.read_text().splitlines()
    assert said[0] == "-m pipeline +experiment=pico"
    assert ("scontrol requeue 7" in said) == requeued
    assert ("heard" in said) == requeued


@pytest.mark.slurm
@needs_slurm
def test_sbatch_runs_a_pico_run(tmp_path: Path, pico_cache: Path) -> None:
    """Would catch a batch script that does not pass Slurm's word on, or a run that dies in a job.

    Training runs as two ranks under the deepspeed launcher inside the job.
    """
    run_dir, log = tmp_path / "run", tmp_path / "job.log"
    stages = "stages=[sft_train,rl_train,snapshot,weight_extrap]"
    arguments = [*PICO, f"run.dir={run_dir}", f"run.cache={pico_cache}", stages]
    job = _batch("pipeline.sbatch", *arguments, "compute=cpu_2_ranks", options=[f"--output={log}"])
    words = log.read_text()
    assert (run_dir / "weight_extrap" / "two_point" / "step_6" / "config.json").exists(), words
    assert f"job {job}" in words
    assert "2 ranks, deepspeed, ZeRO-2" in words


SMALL = {"NO_GPUS": "1", "CPU_CPUS": "1", "CPU_MEM": "1G", "GPU_MEM": "1G", "TIME": "10"}


def _submit(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    script = str(ROOT / "launchers" / "slurm" / "submit.sh")
    return subprocess.run(
        [script, *arguments],
        env={**_environment(), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_run_is_split_into_jobs(tmp_path: Path) -> None:
    """Would catch GPU stages sent to CPU nodes, a job that does not wait for the one before it,
    and nodes that compute=... did not ask for."""
    run_dir = f"run.dir={tmp_path / 'run'}"
    arguments = ["+experiment=qwen_math", run_dir, "compute=four_nodes_8_gpus"]
    done = _submit("--dry-run", *arguments, ACCOUNT="lab", CPU_PARTITION="cpu")
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
    done = _submit("--dry-run", *arguments)
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


def _nodes() -> int:
    if _slurm_down() is not None:
        return 0
    listed = subprocess.run(["sinfo", "-h", "-N", "-o", "%N"], capture_output=True, text=True)
    return len(set(listed.stdout.split()))


@pytest.mark.slurm
@pytest.mark.skipif(_nodes() < 2, reason="no Slurm of two nodes")
def test_two_nodes_train_as_two_ranks_of_one(tmp_path: Path, pico_cache: Path) -> None:
    """Would catch nodes that each train alone, or ranks that get others' rollouts: every loss,
    gradient and reward must be that of two ranks on one machine."""
    arguments = [*PICO, f"run.cache={pico_cache}", "rl_train.steps=3"]
    there, here, log = tmp_path / "there", tmp_path / "here", tmp_path / "job.log"
    options = ["--nodes=2", f"--output={log}"]
    _batch("train.sbatch", *arguments, f"run.dir={there}", "compute=two_nodes_cpu", options=options)
    alone = [f"run.dir={here}", "compute=torchrun_2_ranks", "stages=[sft_train,rl_train]"]
    done = run_pipeline(*arguments, *alone)
    assert done.returncode == 0, done.stderr
    told = log.read_text()
    assert "2 ranks, srun, ZeRO-2" in told
    rows = [read_jsonl(run / "rl_train" / "metrics.jsonl") for run in (there, here)]
    assert len(rows[0]) == 3, told
    for row in (*rows[0], *rows[1]):
        del row["seconds"]
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
    done = _submit(*on_checkpoints(pico_run), f"snapshot.source={source}", f"run.dir={run_dir}",
                   **SMALL, SBATCH_OUTPUT=str(tmp_path / "job-%j.log"))  # fmt: skip
    assert done.returncode == 0, done.stderr
    jobs = [line.split()[1].rstrip(":") for line in done.stdout.splitlines()[:-1]]
    assert len(jobs) > 1
    for job in jobs:
        _wait(job)
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
        env=_environment(),
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    _until(lambda: len(read_jsonl(run_dir / "rl_train" / "metrics.jsonl")) > 3)
    subprocess.run(["scancel", "--signal=USR1", "--batch", job], check=True)
    _until(lambda: f"job {job} on" in log.read_text() and "restart 1" in log.read_text())
    _until(lambda: len(read_jsonl(run_dir / "rl_train" / "metrics.jsonl")) > 20)
    subprocess.run(["scancel", job], check=True)
    _wait(job)
    words = log.read_text()
    assert "the time is up; requeued" in words
    assert "[rl_train] resumes" in words
    rows = read_jsonl(run_dir / "rl_train" / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))


@pytest.mark.slurm
@needs_slurm
def test_two_tasks_share_an_extrapolation(pico_run: Path, tmp_path: Path) -> None:
    """Would catch tasks of a step that each extrapolate alone, or wait for each other for ever."""
    run_dir, log = tmp_path / "run", tmp_path / "job.log"
    arguments = [*on_checkpoints(pico_run), "weight_extrap.targets=[8,12]", f"run.dir={run_dir}"]
    _batch("extrapolate.sbatch", *arguments, options=["--ntasks=2", f"--output={log}"])
    words = log.read_text()
    assert words.count("[weight_extrap] done in") == 1, words
    for target in (8, 12):
        folder = run_dir / "weight_extrap" / "two_point" / f"step_{target}"
        assert read_json(folder / "extrapolation.json")["target"] == target
        assert (folder / "model.safetensors").exists()


@pytest.mark.slurm
@needs_slurm
def test_a_sweep_over_the_horizon_through_submitit(pico_run: Path, tmp_path: Path) -> None:
    """Would catch a multirun whose jobs share a folder, or that Slurm never sees."""
    sweep = tmp_path / "sweep"
    command = pipeline_command(
        "--multirun",
        *_arguments(pico_run),
        "hydra/launcher=submitit_slurm",
        "hydra.launcher.timeout_min=5",
        "hydra.launcher.cpus_per_task=1",
        f"hydra.sweep.dir={sweep}",
        "weight_extrap.targets=[5],[7]",
    )
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for number, target in enumerate((5, 7)):
        folder = sweep / str(number) / "weight_extrap" / "two_point"
        assert [path.name for path in folder.glob("step_*")] == [f"step_{target}"]
        assert read_json(folder / f"step_{target}" / "extrapolation.json")["target"] == target
    assert list((sweep / ".submitit").glob("*/*_result.pkl"))


@pytest.mark.slurm
@needs_slurm
def test_a_job_of_a_sweep_that_fails_is_seen(pico_run: Path, tmp_path: Path) -> None:
    """Would catch a sweep that ends with 0 although a job made a mistake."""
    command = pipeline_command(
        "--multirun",
        *_arguments(pico_run),
        "hydra/launcher=submitit_slurm",
        "hydra.launcher.timeout_min=5",
        f"hydra.sweep.dir={tmp_path / 'sweep'}",
        "extrapolation.last=999",
    )
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "no checkpoint of step 999" in done.stderr


def _batch(script: str, *arguments: str, options: list[str]) -> str:
    """Submit one of the batch scripts and wait for its end; returns the job's number."""
    path = str(ROOT / "launchers" / "slurm" / script)
    job = subprocess.run(
        ["sbatch", "--parsable", *options, path, *arguments],
        cwd=ROOT,
        env=_environment(),
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    _wait(job)
    return job


def _until(there: Callable[[], bool]) -> None:
    for _ in range(3000):
        if there():
            return
        time.sleep(0.1)
    raise AssertionError("it did not come to that")


def _wait(job: str) -> None:
    """Until Slurm no longer lists the job."""
    for _ in range(3000):
        listed = subprocess.run(["squeue", "-h", "-j", job], capture_output=True, text=True)
        if not listed.stdout.strip():
            return
        time.sleep(0.1)
    raise AssertionError(f"job {job} did not end")
