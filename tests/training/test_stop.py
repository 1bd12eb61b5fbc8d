"""Faults caught: a signal that loses steps, that only some ranks act on, that ends the ranks
instead of reaching them, an exit code that no launcher can requeue by, and a resumed run with other
losses."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts import read_jsonl
from pipeline.errors import PipelineError
from pipeline.stopping import REQUEUE, Requeue, stopped_by
from pipeline.training.checkpoints import resumable
from pipeline.training.launch import command, launch
from pipeline.training.schema import RegroundConfig
from pipeline.training.spec import RlSpec, write_spec
from pipeline.training.stop import STOPPED, ask
from pipeline.training.trainers import build_rl
from pipeline.training.worker import run
from tests.conftest import ROOT, pipeline_command
from tests.training.pico import assert_same, compute, rl_spec, sft_spec, weights

STEPS = 6
JUMPS = RegroundConfig(every=3, jump=2)


def spec(output: Path, base: Path, **changes: Any) -> RlSpec:
    """Checkpoints only at the end: what is lost without one at the signal is seen."""
    values: dict[str, Any] = {"checkpoint_every": STEPS, "problems": 8, "snapshot_every": 1}
    return rl_spec(output, base, **(values | changes))


def losses(output: Path) -> list[dict[str, Any]]:
    rows = read_jsonl(output / "metrics.jsonl")
    return [{key: row[key] for key in ("step", "loss", "grad_norm", "reward")} for row in rows]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """Uninterrupted, with a jump behind steps 3 and 6; read-only."""
    output = tmp_path_factory.mktemp("whole")
    run(spec(output, base, reground=JUMPS))
    return output


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("step", [random.Random(5).randrange(1, 3), 3])  # 3: that of a jump
def test_a_signal_costs_no_step(
    whole: Path, base: Path, tmp_path: Path, sign: signal.Signals, step: int
) -> None:
    wanted = spec(tmp_path, base, reground=JUMPS)

    def at(row: dict[str, Any]) -> None:
        if row["step"] == step:
            os.kill(os.getpid(), sign)

    with pytest.raises(Requeue, match=f"stopped after step {step + 1}, checkpoint written"):
        run(wanted, at)
    assert signal.getsignal(sign) is signal.SIG_DFL
    found = resumable(wanted)
    assert found is not None
    assert found[1] == step + 1
    seen: list[int] = []
    run(wanted, lambda row: seen.append(row["step"]))
    assert seen == list(range(step + 2, STEPS + 1))
    assert losses(tmp_path) == losses(whole)
    regrounds = [read_jsonl(output / "regrounds.jsonl") for output in (tmp_path, whole)]
    assert [row["beta"] for row in regrounds[0]] == [row["beta"] for row in regrounds[1]]
    assert_same(tmp_path / "snapshots/step_6", whole / "snapshots/step_6")


def test_a_signal_while_models_are_loaded_is_not_lost(base: Path, tmp_path: Path) -> None:
    """It came before the first step could end: nothing is written, and nothing trained."""
    wanted = spec(tmp_path, base)
    build = build_rl

    def slow(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGUSR1)
        return build(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.training.worker.build_rl", slow)
        with pytest.raises(Requeue, match="stopped before step 1"):
            run(wanted)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_sft_stops_and_resumes(sft_output: Path, tmp_path: Path) -> None:
    wanted = sft_spec(tmp_path)

    def at(row: dict[str, Any]) -> None:
        if row["step"] == 40:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Requeue, match="stopped after step 41"):
        run(wanted, at)
    assert not (tmp_path / "model").exists()
    run(wanted)
    assert_same(tmp_path / "model", sft_output / "model")


@pytest.mark.parametrize("launcher", ["deepspeed", "torchrun"])
def test_two_ranks_stop_together(base: Path, tmp_path: Path, launcher: str) -> None:
    """The pipeline's process gets the signal, and so does each launcher (as from Slurm)."""
    pytest.importorskip("deepspeed")
    ranks = compute(launcher=launcher, processes=2, zero_stage=2, threads=1)
    steps = {"steps": 30, "snapshot_every": 30, "checkpoint_every": 30}
    whole = spec(tmp_path / "whole", base, **steps, compute=ranks, reground=JUMPS)
    cut = replace(whole, output=str(tmp_path / "cut"))
    others = _children(os.getpid())  # of the tests themselves

    def at(row: dict[str, Any]) -> None:
        if row["step"] == 1:
            for child in set(_children(os.getpid())).difference(others):
                os.kill(child, signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)

    if launcher == "deepspeed":
        launch(whole)
    with pytest.raises(Requeue, match=r"stopped after step \d+, checkpoint written") as caught:
        launch(cut, at)
    step = int(str(caught.value).split()[3].rstrip(","))
    assert 1 < step < 30
    assert (tmp_path / "cut" / STOPPED).exists()
    found = resumable(cut)
    assert found is not None
    assert found[1] == step
    if launcher == "torchrun":
        return  # from here on both are the same
    launch(cut)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert_same(tmp_path / "cut/snapshots/step_30", tmp_path / "whole/snapshots/step_30")


def _children(process: int) -> list[int]:
    found = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [int(child) for child in found]


def test_a_rank_that_is_killed_is_one_line(base: Path, tmp_path: Path) -> None:
    """And what was there before it stays."""
    pytest.importorskip("deepspeed")
    ranks = compute(launcher="deepspeed", processes=2, zero_stage=2, threads=1)
    wanted = spec(tmp_path, base, steps=300, checkpoint_every=1, compute=ranks)

    seen: list[int] = []
    others = _children(os.getpid())  # of the tests themselves

    def at(row: dict[str, Any]) -> None:
        seen.append(row["step"])
        if len(seen) == 1:
            [node] = set(_children(os.getpid())).difference(others)
            os.kill(_children(node)[-1], signal.SIGKILL)

    with pytest.raises(PipelineError, match="2 ranks: one was ended by SIGKILL, as the system"):
        launch(wanted, at)
    found = resumable(wanted)
    assert found is not None
    assert found[1] >= 1


@pytest.mark.parametrize("killed", ["0", "1"])
def test_a_rank_that_is_killed_is_told_before_those_that_fail_without_it(killed: str) -> None:
    """DeepSpeed's launcher looks once a second, and names whichever of the dead it finds first."""
    pytest.importorskip("deepspeed")
    line = command(compute(launcher="deepspeed", processes=2), Path(killed))
    line[line.index("--module") + 1] = "tests.training.one_is_killed"
    ended = subprocess.run(line, cwd=ROOT, capture_output=True, timeout=100)
    assert ended.returncode == 128 + signal.SIGKILL


def test_the_command_ends_with_the_code_to_requeue_by(base: Path, tmp_path: Path) -> None:
    """One process under the launcher's supervision, or alone: 75, one line, and no traceback."""
    write_spec(spec(tmp_path, base, steps=500), tmp_path / "spec.json")
    line = [sys.executable, "-m", "pipeline.training.worker", str(tmp_path / "spec.json")]
    worker = subprocess.Popen(line, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    _when(tmp_path / "metrics.jsonl")
    worker.send_signal(signal.SIGTERM)
    _, said = worker.communicate(timeout=100)
    assert worker.returncode == REQUEUE
    assert "checkpoint written: run the same command again to resume" in said.splitlines()[-1]
    assert "Traceback" not in said


def _when(path: Path) -> None:
    """Wait for a file."""
    tick = threading.Event()
    while not path.exists():
        tick.wait(0.05)


def test_what_an_earlier_stop_left_stops_nothing(base: Path, tmp_path: Path) -> None:
    """Ranks that are started by hand, behind a run that was stopped under a launcher."""
    ask(tmp_path, "SIGTERM")
    run(spec(tmp_path, base, steps=1, checkpoint_every=1))
    assert len(losses(tmp_path)) == 1


def test_a_full_disk_leaves_the_last_checkpoint(base: Path, tmp_path: Path) -> None:
    """Half a checkpoint that is resumed from, or a traceback in place of a line."""
    rare: dict[str, Any] = {"checkpoint_every": 1, "snapshot_every": 100, "steps": 100}
    short = spec(tmp_path, base, checkpoint_every=1, steps=2)
    run(short)
    write_spec(replace(short, rl_train=replace(short.rl_train, **rare)), tmp_path / "spec.json")
    line = [sys.executable, "-m", "pipeline.training.worker", str(tmp_path / "spec.json")]
    done = subprocess.run(line, cwd=ROOT, preexec_fn=_small_files, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"error: {tmp_path}/checkpoints/checkpoint-6")
    found = resumable(short)
    assert found is not None
    assert found[1] == 2
    run(replace(short, rl_train=replace(short.rl_train, steps=3)))
    assert len(losses(tmp_path)) == 3


def _small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))


def test_a_loss_that_is_not_finite_is_not_saved(base: Path, tmp_path: Path) -> None:
    """A checkpoint of NaN, from which every resume would stop again."""
    wanted = spec(tmp_path, base, checkpoint_every=1, learning_rate=1e18)
    with pytest.raises(PipelineError, match=r"is (nan|inf) at step \d; lower learning_rate"):
        run(wanted)
    for checkpoint in (tmp_path / "checkpoints").glob("*"):
        assert all(bool(tensor.isfinite().all()) for tensor in weights(checkpoint).values())


def test_other_threads_do_not_listen() -> None:
    """Python lets only the main thread set handlers: a library that calls us would crash."""
    before = signal.getsignal(signal.SIGTERM)
    found: list[Any] = []

    def other() -> None:
        with stopped_by(lambda name: None):
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert found == [before]


def test_a_stage_that_keeps_every_row_stops_at_once(tmp_path: Path) -> None:
    """SIGUSR1 would by default end the process with 138, by which nobody requeues."""
    line = pipeline_command("+experiment=pico", f"run.dir={tmp_path}/run", f"run.cache={tmp_path}")
    process = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    _when(tmp_path / "run" / "config.yaml")
    process.send_signal(signal.SIGUSR1)
    _, said = process.communicate(timeout=100)
    assert process.returncode == REQUEUE, said
    assert b"run the same command again to resume" in said.splitlines()[-1]
