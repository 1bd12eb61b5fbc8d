"""submit.sh where things go wrong, with scripts in the place of Slurm and of the pipeline.

Would catch: jobs left in the queue behind a failure, a run submitted twice, limits under which a
job comes back for ever, and arguments that reach the jobs as other ones.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT

PYTHON = """#!/usr/bin/env bash
case "$*" in *--cfg*)
  printf 'name: x\\ncompute:\\n  nodes: 2\\n  processes: 4\\n  launcher: srun\\n'
  printf 'engine:\\n  name: vllm\\n  replicas: null\\n  tensor_parallel: 1\\n'; exit ;; esac
for word in "$@"; do case $word in run.dir=*) dir=$(realpath -m "${word#run.dir=}") ;; esac; done
echo "dry run of x in $dir (nothing is written)"
for stage in rl_train snapshot evaluate report; do echo "  $stage   run   words"; done
"""
SBATCH = """#!/usr/bin/env bash
number=$(($(ls "$SAID" | grep -c sbatch) + 1))
printf '%s\\n' "STAGES=$STAGES" "$@" > "$SAID/sbatch.$number"
[ "$number" -lt "${FAILS_AT:-99}" ] || { echo "Invalid account" >&2; exit 1; }
echo "10$number;cluster"
"""
SQUEUE = '#!/usr/bin/env bash\ncat "$SAID/queue" 2>/dev/null || true\n'
SCANCEL = '#!/usr/bin/env bash\necho "$@" >> "$SAID/scancel"\n'

Submit = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def said(tmp_path: Path) -> Path:
    """Where the stand-ins write down how they were called."""
    (tmp_path / "said").mkdir()
    return tmp_path / "said"


@pytest.fixture
def submit(tmp_path: Path, said: Path) -> Submit:
    """submit.sh, started in a folder of its own whose name has a space."""
    tools, here = tmp_path / "tools", tmp_path / "a folder"
    for folder in (tools, here):
        folder.mkdir()
    scripts = {"python": PYTHON, "sbatch": SBATCH, "squeue": SQUEUE, "scancel": SCANCEL}
    for name, text in scripts.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    path = f"{tools}:{os.environ['PATH']}"
    known = {**os.environ, "PATH": path, "PYTHON": str(tools / "python"), "SAID": str(said)}

    def call(*arguments: str, **values: str) -> subprocess.CompletedProcess[str]:
        line = [str(ROOT / "launchers" / "slurm" / "submit.sh"), "+experiment=x", *arguments]
        return subprocess.run(
            line, cwd=here, env=known | values, capture_output=True, text=True, timeout=60
        )

    return call


def jobs(said: Path) -> list[list[str]]:
    return [path.read_text().splitlines() for path in sorted(said.glob("sbatch.*"))]


def test_arguments_arrive_as_they_were_typed(submit: Submit, said: Path, tmp_path: Path) -> None:
    odd = ["task.prompt_template='{problem} \"$x\" `y`, z'", "weight_extrap.targets=[900, 1100]"]
    done = submit("run.dir=my runs/first", *odd)
    assert done.returncode == 0, done.stderr
    chain = jobs(said)
    assert len(chain) == 4
    for line in chain:
        assert line[-4:] == ["+experiment=x", "run.dir=my runs/first", *odd]
        assert f"--comment=pipeline {tmp_path}/a folder/my runs/first" in line
        assert line[-5].startswith(f"{ROOT}/launchers/slurm/")
    assert "--dependency=afterok:102" in chain[2]
    assert "--array=0-1" in chain[2]
    assert not any(word.startswith("--array") for line in (*chain[:2], chain[3]) for word in line)
    shown = done.stdout.splitlines()[-1]
    assert shown == f"python -m pipeline.status {tmp_path}/a\\ folder/my\\ runs/first --watch"


def test_a_refused_job_takes_those_before_it_along(submit: Submit, said: Path) -> None:
    """An account that has no CPU partition: training would run, and nothing behind it."""
    done = submit("run.dir=x", FAILS_AT="3")
    assert done.returncode == 1
    assert "Invalid account" in done.stderr
    assert "error: evaluate: not submitted; 2 jobs before it are cancelled" in done.stderr
    assert (said / "scancel").read_text().split() == ["101", "102"]
    assert "pipeline.status" not in done.stdout


def test_a_run_in_the_queue_is_not_submitted_again(
    submit: Submit, said: Path, tmp_path: Path
) -> None:
    """Two chains on one folder, of which one fails as soon as the other works there; of another run
    whose folder begins alike nothing is to be seen."""
    mark = f"pipeline {tmp_path}/a folder/x"
    (said / "queue").write_text(f"7 {mark}\n8 (null)\n9 {mark} y\n12 {mark}\n")
    done = submit("run.dir=x")
    assert done.returncode == 1
    assert "is in the queue already, as job(s) 7 12" in done.stderr
    assert not jobs(said)
    (said / "queue").write_text(f"8 (null)\n9 {mark}y\n")
    assert submit("run.dir=x").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "values", "words"),
    [
        (["run.dir=x"], {"TIME": "15"}, "TIME=15: not longer than WARN=900"),
        (["run.dir=x"], {"CPU_TIME": "0-00:10"}, "CPU_TIME=0-00:10: not longer"),
        (["run.dir=x"], {"TIME": "1:00:00", "WARN": "3600"}, "TIME=1:00:00: not longer"),
        (["run.dir=x"], {"CLUSTER": "mine.sh"}, "mine.sh: no such file"),
        (["run.dir=x", "dry_run=true"], {}, "give --dry-run"),
        (["run.dir=x", "+run.part=0/2"], {}, "EVALUATE_JOBS"),
        (["run.dir=x", "--multirun"], {}, "no such option"),
    ],
)
def test_what_cannot_work_is_refused(
    submit: Submit, said: Path, arguments: list[str], values: dict[str, str], words: str
) -> None:
    done = submit(*arguments, **values)
    assert done.returncode == 1
    assert words in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not jobs(said)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *(("10", 600), ("1:30", 90), ("2:00:00", 7200), ("1-2", 93600), ("1-02:03", 93780)),
        *(("1-02:03:04", 93784), ("08:09:09", 29349), ("UNLIMITED", 999999999)),
    ],
)
def test_times_are_read_as_slurm_reads_them(text: str, seconds: int) -> None:
    line = f"source {ROOT}/launchers/slurm/times.sh; seconds {text}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert int(done.stdout) == seconds


def test_empty_settings_are_the_clusters_own(submit: Submit, said: Path) -> None:
    """Clusters without --mem or --cpus-per-task refuse a job that asks for any."""
    empty = dict.fromkeys(("GPU_MEM", "CPU_MEM", "CPUS_PER_GPU", "CPU_CPUS", "PARTITION"), "")
    assert submit("run.dir=x", **empty).returncode == 0
    words = [word for line in jobs(said)[:3] for word in line]
    assert not [w for w in words if w.startswith(("--mem", "--cpus", "--part"))]
