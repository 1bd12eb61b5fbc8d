"""The launchers as a user calls them: the local script, sbatch, and a Hydra sweep over Slurm."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.artifacts import read_json
from tests.conftest import PICO, ROOT, on_checkpoints, pipeline_command


def slurm_down() -> str | None:
    """Why there is no Slurm to submit to, or None."""
    if shutil.which("sbatch") is None:
        return "Slurm is not installed"
    ping = subprocess.run(["scontrol", "ping"], capture_output=True, text=True)
    return None if "UP" in ping.stdout else "slurmctld does not answer"


needs_slurm = pytest.mark.skipif(slurm_down() is not None, reason=slurm_down() or "")


def environment() -> dict[str, str]:
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
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "weight_extrap" / "done.json").exists()
    new = set(logs.glob("*.log")) - before
    assert any("[weight_extrap] done" in path.read_text() for path in new)
    failed = subprocess.run([*command, "nonsense=1"], env=environment(), capture_output=True)
    assert failed.returncode == 1
    for path in set(logs.glob("*.log")) - before:
        path.unlink()


PIPELINE_STAND_IN = """#!/usr/bin/env bash
if [ "${DEAF:-}" != "" ]; then
  kill -$SIGNAL $PPID
  while true; do /bin/sleep 0.05; done
fi
trap 'echo USR1 >> "$LOG"; exit 75' USR1
trap 'echo TERM >> "$LOG"; exit 75' TERM
echo "$@" >> "$LOG"
if [ "${ENDS:-}" != "" ]; then exit "$ENDS"; fi
kill -$SIGNAL $PPID
while true; do /bin/sleep 0.05; done
"""


@pytest.mark.parametrize(
    ("given", "code", "requeued"),
    [
        ({"SIGNAL": "USR1"}, 75, True),
        ({"SIGNAL": "USR1", "LEFT": "14:30"}, 1, False),  # warned at once: it would be so each time
        ({"SIGNAL": "TERM"}, 75, False),  # cancelled; after pre-emption Slurm requeues by itself
        ({"SIGNAL": "USR1", "DEAF": "1"}, 75, True),  # it came while Python was starting
        ({"ENDS": "1"}, 1, False),
        ({"ENDS": "75"}, 75, False),
    ],
)
def test_the_batch_script_requeues_where_the_time_is_up(
    tmp_path: Path, given: dict[str, str], code: int, requeued: bool
) -> None:
    """Would catch a signal that ends the script and leaves the pipeline to be killed, a job that is
    not requeued, and one that comes back after a mistake or scancel. Here Slurm and the pipeline
    are scripts."""
    log = tmp_path / "log"
    for name, script in (
        ("python", PIPELINE_STAND_IN),
        ("scontrol", '#!/usr/bin/env bash\necho "scontrol $@" >> "$LOG"\n'),
        ("squeue", '#!/usr/bin/env bash\necho "${LEFT:-1-00:00:00}"\n'),
        ("sleep", "#!/usr/bin/env bash\n"),  # for Slurm to end the script
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
    heard = "SIGNAL" in given and "DEAF" not in given
    assert ("-m pipeline +experiment=pico" in said) == ("DEAF" not in given)
    assert ("scontrol requeue 7" in said) == requeued
    assert (given.get("SIGNAL") in said) == heard


@pytest.mark.slurm
@needs_slurm
def test_sbatch_runs_a_pico_run(tmp_path: Path, pico_cache: Path) -> None:
    """Would catch a batch script that does not pass Slurm's word on, or a run that dies in a job.

    Training runs as two ranks under the deepspeed launcher inside the job.
    """
    run_dir, log = tmp_path / "run", tmp_path / "job.log"
    stages = "stages=[sft_train,rl_train,snapshot,weight_extrap]"
    arguments = [*PICO, f"run.dir={run_dir}", f"run.cache={pico_cache}", stages]
    job = batch("pipeline.sbatch", *arguments, "compute=cpu_2_ranks", options=[f"--output={log}"])
    words = log.read_text()
    assert (run_dir / "weight_extrap" / "two_point" / "step_6" / "config.json").exists(), words
    assert f"job {job}" in words
    assert "2 ranks, deepspeed, ZeRO-2" in words


@pytest.mark.slurm
@needs_slurm
def test_two_tasks_share_an_extrapolation(pico_run: Path, tmp_path: Path) -> None:
    """Would catch tasks of a step that each extrapolate alone, or wait for each other for ever."""
    run_dir, log = tmp_path / "run", tmp_path / "job.log"
    arguments = [*on_checkpoints(pico_run), "weight_extrap.targets=[8,12]", f"run.dir={run_dir}"]
    batch("extrapolate.sbatch", *arguments, options=["--ntasks=2", f"--output={log}"])
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


def batch(script: str, *arguments: str, options: list[str]) -> str:
    """Submit one of the batch scripts and wait for its end; returns the job's number."""
    path = str(ROOT / "launchers" / "slurm" / script)
    job = subprocess.run(
        ["sbatch", "--parsable", *options, path, *arguments],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    wait(job)
    return job


def wait(job: str) -> None:
    """Until Slurm no longer lists the job."""
    for _ in range(3000):
        listed = subprocess.run(["squeue", "-h", "-j", job], capture_output=True, text=True)
        if not listed.stdout.strip():
            return
        time.sleep(0.1)
    raise AssertionError(f"job {job} did not end")
