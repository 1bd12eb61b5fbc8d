"""What is killed or requeued in the middle, on a real Slurm: nothing is lost, twice, or waited for
in vain."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts import read_json, read_jsonl
from pipeline.status.reader import Run, read
from tests.conftest import PICO, ROOT, pipeline_command, run_pipeline
from tests.test_launchers import environment, needs_slurm, wait
from tests.test_launchers_jobs import SMALL, nodes, submit, until

pytestmark = [pytest.mark.slurm, needs_slurm]
JUMPS = [
    *("rl_train.steps=12", "rl_train.checkpoint_every=100", "rl_train.snapshot_every=2"),
    *("rl_train.reground.every=3", "rl_train.reground.jump=4"),
]
DRAWN = ["stages=[logit_extrap,evaluate]", "evaluate.samples_per_problem=32"]


def sbatch(script: str, *arguments: str, options: list[str]) -> str:
    """The number of a job that is not waited for."""
    path = str(ROOT / "launchers" / "slurm" / script)
    line = ["sbatch", "--parsable", *options, path, *arguments]
    done = subprocess.run(
        line, cwd=ROOT, env=environment(), capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def requeue(job: str) -> None:
    subprocess.run(["scontrol", "requeue", job], check=True)


def with_stages(pico_run: Path, folder: Path, *stages: str) -> Path:
    """A run directory with some finished stages of the pico run."""
    for stage in stages:
        shutil.copytree(pico_run / stage, folder / stage)
    return folder


def test_a_jump_run_that_is_requeued(tmp_path: Path, pico_run: Path, pico_cache: Path) -> None:
    """Would catch a jump that is made twice, or not at all, where Slurm takes the node away between
    two of them; every snapshot must be that of a run that nobody touched, to the byte."""
    arguments = [*PICO, *JUMPS, f"run.cache={pico_cache}"]
    whole, cut = (with_stages(pico_run, tmp_path / name, "sft_train") for name in ("whole", "cut"))
    log = tmp_path / "job.log"
    job = sbatch("train.sbatch", *arguments, f"run.dir={cut}", options=[f"--output={log}"])
    until(lambda: len(read_jsonl(cut / "rl_train" / "regrounds.jsonl")) > 0)
    requeue(job)
    wait(job)
    done = run_pipeline(*arguments, f"run.dir={whole}", "stages=[rl_train]")
    assert done.returncode == 0, done.stderr
    assert "restart 1" in log.read_text()
    assert "[rl_train] resumes" in log.read_text()
    jumps = [read_jsonl(run / "rl_train" / "regrounds.jsonl") for run in (cut, whole)]
    for row in jumps[0] + jumps[1]:
        del row["seconds"]
    assert [row["step"] for row in jumps[0]] == [3, 6, 9, 12]
    assert jumps[0] == jumps[1]
    for step in (2, 4, 6, 8, 10, 12):
        weights = f"rl_train/snapshots/step_{step}/model.safetensors"
        assert (cut / weights).read_bytes() == (whole / weights).read_bytes(), step


@pytest.fixture(scope="module")
def evaluated(pico_run: Path, pico_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation by one process; read-only."""
    folder = with_stages(
        pico_run, tmp_path_factory.mktemp("one") / "run", "snapshot", "weight_extrap"
    )
    done = run_pipeline(*PICO, *DRAWN, f"run.cache={pico_cache}", f"run.dir={folder}")
    assert done.returncode == 0, done.stderr
    return folder


def drawn(row: dict[str, Any]) -> str:
    """A row but for the rounding of its log-probability, which its batch decides."""
    return str({key: value for key, value in row.items() if key != "logprob"})


@pytest.mark.parametrize("options", ["--array=3-7:4", "--nodes=2"])
def test_parts_of_an_evaluation(
    options: str, evaluated: Path, pico_run: Path, pico_cache: Path, tmp_path: Path
) -> None:
    """Would catch a row twice or missing, or scores of a part, where a task of an array is killed
    outright, or a job of two nodes requeued, while they draw."""
    if options == "--nodes=2" and nodes() < 2:
        pytest.skip("no Slurm of two nodes")
    folder = with_stages(pico_run, tmp_path / "run", "snapshot", "weight_extrap")
    arguments = [*PICO, *DRAWN, f"run.cache={pico_cache}", f"run.dir={folder}"]
    log = f"--output={tmp_path}/%j.log"
    job = sbatch("evaluate.sbatch", *arguments, options=[options, log])
    part = folder / "evaluate" / "generations.part1of2.jsonl"
    until(lambda: len(read_jsonl(part)) > 0)
    if options == "--nodes=2":
        requeue(job)
    else:
        os.kill(read_json(folder / ".parts" / "1of2.json")["process"]["pid"], signal.SIGKILL)
        wait(job)
        assert not (folder / "evaluate" / "done.json").exists()
        (found,) = read(folder)
        assert isinstance(found, Run)
        assert (found.state, found.parts) == ("died", {"done": 1, "died": 1})
        requeue(f"{job}_7")
    wait(job)
    said = "".join(path.read_text() for path in tmp_path.glob("*.log"))
    assert said.count("[evaluate] done in") == 1, said
    for stage in ("logit_extrap", "evaluate"):
        path = Path(stage) / "generations.jsonl"
        rows = [sorted(map(drawn, read_jsonl(run / path))) for run in (folder, evaluated)]
        assert rows[0] == rows[1]
        assert len(rows[0]) == len(set(rows[0])) > 0
    scores = [(run / "evaluate" / "scores.json").read_bytes() for run in (folder, evaluated)]
    assert scores[0] == scores[1]
    assert not list(folder.glob("*/*part*"))


STAND_IN = """#!/usr/bin/env bash
trap 'exit 75' USR1
trap 'exit 75' TERM
echo "$@ [$PIPELINE_LOG]"
[ "${SLURM_RESTART_COUNT:-0}" = 0 ] || { echo again; exit 0; }
until [ -e "$(dirname "$0")/end" ]; do sleep 0.2; done
echo first
"""


def test_a_task_of_an_array_comes_back_alone(tmp_path: Path) -> None:
    """Would catch a requeue of the whole array by the task that has its number, and paths with
    spaces that do not survive a job. Here the pipeline is a script."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    (folder / "py thon").write_text(STAND_IN)
    (folder / "py thon").chmod(0o755)
    script = ROOT / "launchers" / "slurm" / "evaluate.sbatch"
    line = [
        "sbatch",
        "--parsable",
        "--array=0-1",
        f"--output={folder}/log %a",
        str(script),
        "x='a b'",
    ]
    known = {"PYTHON": str(folder / "py thon"), "PIPELINE_ROOT": str(ROOT)}
    job = subprocess.run(
        line, cwd=folder, env=os.environ | known, capture_output=True, text=True, check=True
    ).stdout.strip()
    logs = [folder / f"log {task}" for task in (0, 1)]
    until(lambda: all(log.exists() and "run.part" in log.read_text() for log in logs))
    listed = subprocess.run(
        ["squeue", "-h", "-r", "-j", job, "-o", "%A %K"], capture_output=True, text=True
    )
    named = dict(row.split() for row in listed.stdout.splitlines())
    task = int(named[job])  # the one that has the array's number
    subprocess.run(["scancel", "--signal=USR1", "--batch", f"{job}_{task}"], check=True)
    until(lambda: "again" in logs[task].read_text())
    (folder / "end").touch()
    wait(job)
    other = logs[1 - task].read_text()
    assert "restart 1" not in other
    assert other.splitlines()[-1] == "first"
    words = f"-m pipeline x='a b' stages=[linear_probe,logit_extrap,evaluate] run.part={task}/2"
    assert f"{words} [{logs[task]}]" in logs[task].read_text().splitlines()


def sweep(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """A multirun whose jobs are Slurm's."""
    line = pipeline_command("--multirun", *arguments, "hydra/launcher=submitit_slurm")
    line += ["hydra.launcher.timeout_min=10", "hydra.launcher.cpus_per_task=1", f"run.dir={folder}"]
    return subprocess.Popen(
        line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_a_sweep_of_three_targets_trains_once(tmp_path: Path, pico_cache: Path) -> None:
    """Would catch jobs on three nodes that each train: three times the price of a sweep."""
    folder = tmp_path / "sweep"
    stages = "stages=[sft_train,rl_train,snapshot,weight_extrap]"
    targets = "weight_extrap.targets=[5],[6],[8]"
    process = sweep(folder, *PICO, stages, f"run.cache={pico_cache}", targets)
    said, _ = process.communicate(timeout=400)
    assert process.returncode == 0, said
    logs = "".join(path.read_text() for path in folder.glob(".submitit/**/*_log.out"))
    for stage, count in (("sft_train", 1), ("rl_train", 1), ("snapshot", 1), ("weight_extrap", 3)):
        assert logs.count(f"[{stage}] starts") == count, stage
    assert len(list(folder.glob("shared/rl_train-*/metrics.jsonl"))) == 1
    for number, target in enumerate((5, 6, 8)):
        method = folder / str(number) / "weight_extrap" / "two_point"
        assert [path.name for path in method.iterdir()] == [f"step_{target}"]


def test_a_job_that_dies_ends_the_sweep(tmp_path: Path, pico_run: Path, pico_cache: Path) -> None:
    """Would catch a sweep that waits for ever for the result of a job that was killed: it must end
    within a minute of it (and of what the other jobs need), and say which job it was."""
    folder = tmp_path / "sweep"
    steps = "rl_train.steps=500,2"
    arguments = [*PICO, f"run.cache={pico_cache}", "stages=[sft_train,rl_train]", steps]
    for number in ("0", "1"):
        with_stages(pico_run, folder / number, "sft_train")
    process = sweep(folder, *arguments, "rl_train.snapshot_every=1", "rl_train.checkpoint_every=9")
    until(lambda: any(len(read_jsonl(path)) > 3 for path in folder.glob("shared/rl*/m*.jsonl")))
    (found,) = read(folder)
    assert not isinstance(found, Run)
    assert found.jobs[0].state == "runs"
    os.kill(read_json(folder / "0" / "status.json")["process"]["pid"], signal.SIGKILL)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1, said
    assert "_0" in said
    print(said)
    assert [each.state for each in read(folder)[0].jobs] == ["died", "done"]  # type: ignore[union-attr]


def test_when_the_middle_job_fails_the_last_one_goes(pico_run: Path, tmp_path: Path) -> None:
    """Would catch a chain that goes on behind a failure, or hangs there: snapshots and predictions
    are made, the evaluation fails (a folder without weights), the report never starts."""
    run_dir, bare = with_stages(pico_run, tmp_path / "run", "sft_train", "rl_train"), tmp_path / "m"
    bare.mkdir()
    shutil.copy(pico_run / "sft_train" / "model" / "config.json", bare)
    done = submit(*PICO, f"run.dir={run_dir}", f"+evaluate.models.bare={bare}",
                  **SMALL, SBATCH_OUTPUT=str(tmp_path / "job-%j.log"))  # fmt: skip
    assert done.returncode == 0, done.stderr
    jobs = [line.split()[1].rstrip(":") for line in done.stdout.splitlines()[:-1]]
    assert len(jobs) == 4
    for job in jobs:
        wait(job)
    (found,) = read(run_dir)
    assert isinstance(found, Run)
    assert found.stages["weight_extrap"] == "done"
    assert (found.state, found.stage) == ("failed", "evaluate")
    assert "report" not in found.stages
    assert str(bare) in str(found.error)
    assert found.log == str(tmp_path / f"job-{jobs[2]}.log")
    logs = {path.name for path in tmp_path.glob("job-*.log")}
    assert logs == {f"job-{job}.log" for job in jobs[:3]}
