"""Snapshots as deltas. Faults caught: a delta from the trainer's rounded copy of the base instead
of its files, from one rank's shard, of another moment, or half written and taken for whole."""

from __future__ import annotations

import errno
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from pipeline.artifacts import read_json, read_jsonl
from pipeline.errors import PipelineError
from pipeline.training import callbacks
from pipeline.training import launch as launching
from pipeline.training.checkpoints import resumable
from pipeline.training.launch import launch
from pipeline.training.snapshots import DeltaWriter
from pipeline.training.spec import write_spec
from pipeline.training.worker import run
from pipeline.trajectory.entries import Entry
from pipeline.trajectory.layouts import zero
from pipeline.trajectory.shards import Files
from pipeline.trajectory.sources import discover
from tests.training.pico import Tensors, changed, compute, rl_spec, weights

KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline.training.spec import read_spec
from pipeline.training.worker import run
from pipeline.trajectory.layouts import delta

write, calls = delta.ShardFile.write, []

def die(self, name, start, data):
    calls.append(name)
    if calls.count(name) == 2:  # in the middle of the second snapshot
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, name, start, data)

delta.ShardFile.write = die
run(read_spec(Path(sys.argv[1])))
"""


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """A run of 4 steps with whole fp32 snapshots; read-only."""
    output = tmp_path_factory.mktemp("exact")
    run(rl_spec(output, base, steps=4))
    return output


def values(entries: dict[str, Entry]) -> Tensors:
    """Whole tensors in fp32, through our reader."""
    found = {}
    with Files() as files:
        for name, entry in entries.items():
            out = torch.empty(entry.numel)
            files.load(entry, 0, entry.numel, out)
            found[name] = out.view(entry.shape)
    return found


def assert_close(got: Tensors, truth: Tensors, start: Tensors, bits: int) -> None:
    """base + delta is the truth, up to a delta rounded to `bits` bits and one fp32 sum."""
    assert got.keys() == truth.keys()
    for name, value in truth.items():
        delta = (value.double() - start[name].double()).abs()
        bound = 2.0**-bits * delta + 2.0**-24 * value.double().abs() + 1e-40
        error = (got[name].double() - value.double()).abs()
        assert bool((error <= bound * 1.001).all()), name
        assert bool((delta > 0).any()), name


def snapshot(output: Path, base: Path, step: int) -> Tensors:
    return values(discover(output / "snapshots", base).checkpoints[step].entries)


@pytest.mark.parametrize(("dtype", "bits"), [("bfloat16", 8), ("float32", 24)])
def test_base_plus_delta_is_the_fp32_snapshot(
    exact: Path, base: Path, tmp_path: Path, dtype: str, bits: int
) -> None:
    """Catches a wrong sign, base, moment or a tensor left out: the same run in fp32 is the truth.

    Half a unit in the last of 8 (bf16) or 24 (fp32) significant bits of the delta is 2^-8 or
    2^-24 of it at most; adding it to the base rounds once more.
    """
    run(rl_spec(tmp_path, base, steps=4, snapshot_dtype=f"delta_{dtype}"))
    for step in (2, 4):
        truth = weights(exact / f"snapshots/step_{step}")
        assert_close(snapshot(tmp_path, base, step), truth, weights(base), bits)
        folder = tmp_path / f"snapshots/step_{step}"
        assert sorted(p.name for p in folder.iterdir()) == ["delta.json", "delta.safetensors"]
        assert {t.dtype for t in load_file(folder / "delta.safetensors").values()} == {
            getattr(torch, dtype)
        }
    assert read_json(folder / "delta.json")["base"] == str(base.resolve())
    alone = discover(tmp_path / "snapshots", None)  # each names its base
    assert alone.steps == [2, 4]
    assert alone.base.folder == base.resolve()


@pytest.mark.parametrize("stage", [2, 3])
def test_two_ranks_with_masters_from_a_bf16_copy(base: Path, tmp_path: Path, stage: int) -> None:
    """Catches a delta from the bf16 copy that DeepSpeed's masters start from, of one shard, or at
    another place of its tensor.

    The truth is read from the optimizer files of the checkpoint of the same step.
    """
    ranks = compute(launcher="torchrun", processes=2, zero_stage=stage, bf16=True)
    changes = {"steps": 2, "compute": ranks, "snapshot_dtype": "delta_float32"}
    launch(rl_spec(tmp_path, base, **changes))
    found = zero.read(tmp_path / "checkpoints/checkpoint-4", None)
    assert found is not None
    start, truth = weights(base), values(found.entries)
    assert_close(snapshot(tmp_path, base, 2), {n: truth[n] for n in start}, start, 24)
    folder = tmp_path / "snapshots/step_2"
    assert not (folder / "delta.safetensors").exists()
    deltas = joined(folder)
    assert all(torch.equal(deltas[name], truth[name] - start[name]) for name in start)
    assert {p.name for p in folder.iterdir()} == {
        "delta.json",
        "delta.safetensors.index.json",
        "delta-00001-of-00002.safetensors",
        "delta-00002-of-00002.safetensors",
    }
    rounded = {n: t.bfloat16().float() for n, t in start.items()}
    assert any(not torch.equal(rounded[n], start[n]) for n in start)  # or this tests nothing


def joined(folder: Path) -> Tensors:
    """The deltas of a snapshot in parts, put together by the index alone."""
    index = read_json(folder / "delta.safetensors.index.json")
    parts = {file: load_file(folder / file) for file in index["parts"]}
    found = {}
    for name, shape in index["shapes"].items():
        held = [(s[name], parts[file][name]) for file, s in index["parts"].items() if name in s]
        held.sort(key=lambda part: part[0])
        found[name] = torch.cat([part for _, part in held]).view(shape)
    return found


def test_killed_two_ranks_write_what_one_gathers(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches half a snapshot under its final name, a part of another moment or run, and rounding
    that depends on who writes. (Stage 1 has masters of another kind, DeepSpeed's BF16_Optimizer.)
    """
    ranks = compute(launcher="torchrun", processes=2, zero_stage=1, bf16=True)
    spec = rl_spec(tmp_path / "dead", base, steps=4, compute=ranks)
    spec = changed(spec, snapshot_dtype="delta_bfloat16")
    with monkeypatch.context() as patch:
        patch.setattr(launching, "MODULE", "tests.training.other_rank")
        patch.setenv("OTHER_RANK", "die")
        with pytest.raises(PipelineError, match="SIGKILL"):
            launch(spec)
        found = {path.name for path in (tmp_path / "dead/snapshots").iterdir()}
        assert found == {".step_4.partial", "step_2"}
        resumed = resumable(spec)
        assert resumed is not None
        assert resumed[1] == 2
        patch.setenv("OTHER_RANK", "gather")
        launch(changed(spec, output=str(tmp_path / "gathered")))
    launch(spec)
    assert {path.name for path in (tmp_path / "dead/snapshots").iterdir()} == {"step_2", "step_4"}
    rows = read_jsonl(tmp_path / "dead/metrics.jsonl")
    assert [row["step"] for row in rows if "snapshot_stall_seconds" in row] == [2, 4]
    record = read_json(tmp_path / "dead/trajectory.json")
    assert [row["step"] for row in record["snapshots"]] == [2, 4]
    for step in (2, 4):
        deltas = joined(tmp_path / f"dead/snapshots/step_{step}")
        whole = load_file(tmp_path / f"gathered/snapshots/step_{step}/delta.safetensors")
        assert deltas.keys() == whole.keys()
        assert all(torch.equal(deltas[name], whole[name]) for name in whole)
        one, two = (snapshot(tmp_path / name, base, step) for name in ("dead", "gathered"))
        assert all(torch.equal(one[name], two[name]) for name in two)


def test_killed_in_a_write_and_started_again(base: Path, tmp_path: Path) -> None:
    """Catches half a snapshot under its final name, and a resumed run with another delta."""
    spec = rl_spec(tmp_path / "dead", base, steps=4, snapshot_dtype="delta_bfloat16")
    write_spec(spec, tmp_path / "dead/spec.json")
    dead = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "dead/spec.json")],
        cwd=Path(callbacks.__file__).parents[2],
        check=False,
    )
    assert dead.returncode == -signal.SIGKILL
    names = sorted(path.name for path in (tmp_path / "dead/snapshots").iterdir())
    assert names == [".step_4.partial", "step_2"]
    assert discover(tmp_path / "dead/snapshots", base).steps == [0, 2]
    launch(spec)
    run(rl_spec(tmp_path / "whole", base, steps=4, snapshot_dtype="delta_bfloat16"))
    for step in (2, 4):
        one, two = (
            tmp_path / name / f"snapshots/step_{step}/delta.safetensors"
            for name in ("dead", "whole")
        )
        assert one.read_bytes() == two.read_bytes()
    assert len(list((tmp_path / "dead/snapshots").iterdir())) == 2


def test_a_base_of_torch_files_with_a_stored_tied_head(
    exact: Path, base: Path, tmp_path: Path
) -> None:
    """Catches a base that is only looked for in safetensors, and a head that counts twice."""
    folder = tmp_path / "bin"
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    stored = weights(base)
    torch.save(stored | {"lm_head.weight": stored["model.embed_tokens.weight"]},
               folder / "pytorch_model.bin")  # fmt: skip
    run(rl_spec(tmp_path / "out", folder, steps=2, snapshot_dtype="delta_float32"))
    truth = weights(exact / "snapshots/step_2")
    assert_close(snapshot(tmp_path / "out", folder, 2), truth, stored, 24)


@pytest.mark.parametrize("fault", ["missing", "shape"])
def test_a_base_that_is_not_the_model_is_refused_before_the_first_step(
    base: Path, tmp_path: Path, fault: str
) -> None:
    """Catches a run that finds out after hours that its snapshots cannot be written."""
    folder = tmp_path / "base"
    shutil.copytree(base, folder)
    stored = weights(base)
    name = "model.layers.0.mlp.up_proj.weight"
    model = AutoModelForCausalLM.from_pretrained(folder)
    if fault == "missing":
        del stored[name]
    else:
        stored[name] = stored[name][:3].contiguous()
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    tokenizer: Any = None  # not read before the first snapshot
    callback = callbacks.SnapshotCallback(
        tmp_path,
        1,
        1,
        "delta_bfloat16",
        tokenizer,
        folder,
    )
    with pytest.raises(PipelineError, match=f"{name} .*snapshot_dtype=float32"):
        callback.on_train_begin(None, None, None, model=model)  # type: ignore[arg-type]


def test_another_base_than_the_deltas_were_taken_from(base: Path, tmp_path: Path) -> None:
    """Catches silently wrong weights: shapes fit, values do not."""
    run(rl_spec(tmp_path / "out", base, steps=2, snapshot_dtype="delta_bfloat16"))
    other = tmp_path / "base"
    shutil.copytree(base, other)
    assert discover(tmp_path / "out/snapshots", other).steps == [0, 2]  # the same, moved
    save_file({n: t.bfloat16() for n, t in weights(base).items()}, other / "model.safetensors")
    with pytest.raises(PipelineError, match="other weights than those in"):
        discover(tmp_path / "out/snapshots", other)


def test_training_goes_on_while_a_delta_is_written(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write of step 2 ends only after step 3 has been trained; and it is that of step 2."""
    spec = rl_spec(tmp_path / "a", base, steps=4, checkpoint_every=4)
    spec = changed(spec, snapshot_dtype="delta_float32")
    trained, overlapped = threading.Event(), []
    write = DeltaWriter.write

    def slow(self: DeltaWriter, folder: Path, step: int, *rest: Any) -> None:
        if step == 2:
            overlapped.append(trained.wait(timeout=120))
        write(self, folder, step, *rest)

    def after(row: dict[str, Any]) -> None:
        if row["step"] == 3:
            trained.set()

    monkeypatch.setattr(DeltaWriter, "write", slow)
    run(spec, after)
    assert overlapped == [True]
    rows = read_jsonl(tmp_path / "a/metrics.jsonl")
    assert [row["step"] for row in rows if "snapshot_stall_seconds" in row] == [2, 4]
    assert sum("snapshot_write_seconds" in row for row in rows) == 1
    run(changed(spec, output=str(tmp_path / "b"), snapshot_background=False))
    for step in (2, 4):
        one, two = (tmp_path / f"{n}/snapshots/step_{step}/delta.safetensors" for n in "ab")
        assert one.read_bytes() == two.read_bytes()
    record = read_json(tmp_path / "a/trajectory.json")
    assert [row["step"] for row in record["snapshots"]] == [2, 4]
    assert all(Path(row["folder"]).is_dir() for row in record["snapshots"])


def test_a_delta_that_cannot_be_written_ends_the_run(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a checkpoint that counts although a snapshot before it is missing."""
    spec = rl_spec(tmp_path, base, steps=4, snapshot_dtype="delta_float32")
    write = DeltaWriter.write

    def full(self: DeltaWriter, folder: Path, step: int, *rest: Any) -> None:
        if step == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, folder, step, *rest)

    monkeypatch.setattr(DeltaWriter, "write", full)
    with pytest.raises(OSError, match="No space left"):
        run(spec)
    monkeypatch.undo()
    found = resumable(spec)
    assert found is not None
    assert found[1] == 2
    run(spec)
    assert discover(tmp_path / "snapshots", base).steps == [0, 2, 4]
