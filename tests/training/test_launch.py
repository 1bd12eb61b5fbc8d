"""Faults caught: ranks that train apart from each other, weights that are not gathered from their
shards, a failure that is not told, and children that outlive their parent."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from pipeline.artifacts import read_jsonl
from pipeline.errors import PipelineError
from pipeline.training import launch as launching
from pipeline.training.check import check
from pipeline.training.disk import checkpoint_width
from pipeline.training.launch import command, launch
from tests.training.pico import TASK, compute, rl_spec, weights
from tests.training.test_disk import written
from tests.training.test_spec import as_config

SHARDED = {"processes": 2, "zero_stage": 2}


@pytest.fixture(scope="module")
def torchrun_output(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """Two CPU ranks with ZeRO-2 under torchrun: 2 steps of 2 updates; read-only."""
    output = tmp_path_factory.mktemp("torchrun")
    rows: list[dict[str, float]] = []
    ranks = compute(launcher="torchrun", **SHARDED)
    launch(rl_spec(output, base, steps=2, compute=ranks), rows.append)
    assert rows == read_jsonl(output / "metrics.jsonl")  # the hook saw every row, once
    return output


def test_two_ranks_with_zero_2_under_torchrun(torchrun_output: Path, base: Path) -> None:
    folder = torchrun_output / "snapshots/step_2"
    AutoModelForCausalLM.from_pretrained(folder)
    before, after = weights(base), weights(folder)
    assert before.keys() == after.keys()
    changed = [name for name in after if not torch.equal(after[name], before[name])]
    # the shards of both ranks: with one missing, about half of the tensors would be zero or old
    assert len(changed) == len(after)
    for name in after:
        assert (after[name] - before[name]).abs().max() < 0.1, name
    shards = list((torchrun_output / "checkpoints/checkpoint-4").rglob("*zero_pp_rank_*"))
    assert len(shards) == 2  # DeepSpeed really ran: one optimiser shard a rank

    planned = checkpoint_width(as_config(rl_spec(base, base, compute=compute(**SHARDED))))
    assert written(torchrun_output / "checkpoints/checkpoint-4", base) == pytest.approx(
        planned, rel=0.2
    )


def test_the_deepspeed_launcher_gives_the_same_run(
    torchrun_output: Path, base: Path, tmp_path: Path
) -> None:
    ranks = compute(launcher="deepspeed", **SHARDED)
    launch(rl_spec(tmp_path, base, steps=2, compute=ranks))
    one, two = (weights(out / "snapshots/step_2") for out in (torchrun_output, tmp_path))
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=0, atol=1e-5)


def test_a_mistake_in_a_rank_is_one_line_here(base: Path, tmp_path: Path) -> None:
    task = replace(TASK, options={"digits": 1, "colour": "red"})
    spec = rl_spec(tmp_path, base, task=task, compute=compute(launcher="torchrun"))
    with pytest.raises(PipelineError, match="unknown option 'colour'") as caught:
        launch(spec)
    assert "\n" not in str(caught.value)


def test_an_exit_code_is_passed_on(tmp_path: Path) -> None:
    line = [sys.executable, "-c", "raise SystemExit(7)"]
    assert launching._supervise(line, compute(), tmp_path / "metrics.jsonl", None) == 7


def test_the_group_ends_when_we_are_interrupted(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    script = (
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(metrics)!r}, 'w').write('{{\"step\": %d}}\\n' % os.getpgrp())\n"
        "time.sleep(600)\n"
    )
    groups: list[int] = []

    def interrupt(row: dict[str, int]) -> None:
        groups.append(row["step"])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launching._supervise([sys.executable, "-c", script], compute(), metrics, interrupt)
    with pytest.raises(ProcessLookupError):
        os.killpg(groups[0], 0)


def test_devices_are_those_that_the_scheduler_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = compute(launcher="deepspeed", processes=2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert launching._devices(ranks) == [0, 1]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6,7")
    assert launching._devices(ranks) == [0, 1]  # CPU ranks
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert launching._devices(ranks) == ["4", "6"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4")
    with pytest.raises(PipelineError, match="CUDA_VISIBLE_DEVICES has 1"):
        launching._devices(ranks)


def test_commands_for_several_nodes(tmp_path: Path) -> None:
    spec = tmp_path / "spec.json"
    nodes = {"processes": 8, "nodes": 2}
    for launcher, key in (("torchrun", "master_address"), ("deepspeed", "hostfile")):
        with pytest.raises(PipelineError, match=rf"compute\.{key}: {launcher} over several"):
            check(rl_spec(tmp_path, tmp_path, compute=compute(launcher=launcher, **nodes)))
    line = command(
        compute(launcher="torchrun", master_address="node0", **nodes),
        spec,
    )
    assert line[line.index("--nproc-per-node") + 1] == "8"
    assert line[line.index("--rdzv-endpoint") + 1] == "node0:29500"
    assert line[-3:] == ["--module", "pipeline.training.worker", str(spec)]
