"""Two engines on one machine: every row once, the same rows as one engine makes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.artifacts import append_jsonl, read_jsonl
from pipeline.config import EngineConfig
from pipeline.errors import PipelineError
from pipeline.hardware import device_names
from pipeline.inference import device, options, parallel
from pipeline.inference.interface import Sampling, sampling_hash
from pipeline.inference.open import open_engine
from pipeline.inference.options import EngineOptions
from pipeline.inference.parallel import Candidate, Draw, Work, run_local, run_part
from pipeline.inference.part_files import merge_parts
from pipeline.inference.run import PromptItem, row_key, sample_to_jsonl
from pipeline.trajectory.recipe import Recipe
from tests.inference.pico import one_gpu, prompts_of

SAMPLING = Sampling(max_tokens=6, n=2, seed=4)


@pytest.fixture
def work(first: Path, second: Path, tmp_path: Path) -> Work:
    """Two models on nine problems."""
    recipe = Recipe((first, second), [0.0, 1.5], dtype="float32")
    return Work(
        {"name": "hf", "models": [str(first)], "batch_size": 8},
        [
            Candidate("base", "base", "f0", first, {}),
            Candidate("two_point-15", "weight", "f1", recipe, {"step": 15}),
        ],
        [PromptItem("t", "test", f"p{i}", tuple(p)) for i, p in enumerate(prompts_of(9))],
        [Draw(SAMPLING, tmp_path / "generations.jsonl")],
    )


@one_gpu
def test_two_workers_make_what_one_makes(work: Work, first: Path, tmp_path: Path) -> None:
    """Problems dealt out twice or never, models' weights mixed up, rows of a killed run lost, rows
    of one temperature in another's file, a second draw that is left out."""
    whole = tmp_path / "whole.jsonl"
    engine = open_engine("hf", first)
    for each in work.candidates:
        assert each.source is not None
        engine.load_weights(each.source)
        sample_to_jsonl(
            engine,
            work.items,
            SAMPLING,
            whole,
            model=each.name,
            kind=each.kind,
            fingerprint=each.fingerprint,
            extra=each.extra,
        )
    rows = read_jsonl(whole)
    assert len(rows) == 36
    [draw] = work.draws
    append_jsonl(draw.path, rows[:5])  # an earlier run: five rows merged, three only in a part,
    left = tmp_path / "generations.part0of3.jsonl"
    append_jsonl(left, [*rows[4:8]])
    left.write_text(left.read_text() + '{"task": "t", "spl')  # and one torn
    greedy = Draw(Sampling(temperature=0, max_tokens=6), tmp_path / "greedy.jsonl")
    both = replace(work, draws=[draw, greedy])
    assert run_local(both, workers=2) == 28 + 18
    made = read_jsonl(draw.path)
    for row in (*made, *rows):
        assert row.pop("logprob") < 0  # the last bits depend on the batch
    assert sorted(made, key=row_key) == sorted(rows, key=row_key)
    assert [path.name for path in tmp_path.glob("*generations*")] == ["generations.jsonl"]
    surest = read_jsonl(greedy.path)
    assert {row["sampling"] for row in surest} == {sampling_hash(greedy.sampling)}
    assert {(row["model"], row["problem_id"]) for row in surest} == {
        (each.name, item.problem_id) for each in work.candidates for item in work.items
    }
    greedy.path.unlink()
    assert run_local(both, workers=1) == 18


def test_other_settings_have_a_file_of_their_own(work: Work, tmp_path: Path) -> None:
    """Rows of two temperatures in one file, rows of a killed run put with the others' settings, or
    rows made again when the old settings come back."""
    assert run_local(work, workers=1) == 36
    path = work.draws[0].path
    cold = replace(work, draws=[Draw(replace(SAMPLING, temperature=0.5), path)])
    more = replace(work, draws=[Draw(replace(SAMPLING, n=3), path)])
    before = read_jsonl(path)
    append_jsonl(tmp_path / "generations.part0of3.jsonl", [before[0], {**before[1], "sample": 2}])
    old = tmp_path / f"generations-{sampling_hash(SAMPLING)}.jsonl"
    assert run_local(cold, workers=1) == 36
    cold_hash = sampling_hash(cold.draws[0].sampling)
    assert {row["sampling"] for row in read_jsonl(path)} == {cold_hash}
    assert len(read_jsonl(old)) == 37
    assert run_local(work, workers=1) == 0
    assert read_jsonl(path)[:36] == before
    assert run_local(more, workers=1) == 17
    assert run_local(cold, workers=1) == 0
    assert {path.name for path in tmp_path.glob("*generations*")} == {"generations.jsonl", old.name}


@one_gpu
def test_a_failing_worker_is_reported_and_its_neighbours_rows_kept(
    work: Work, tmp_path: Path
) -> None:
    """A failure that ends as an empty result."""
    bad = Candidate("rl-9", "rl", "f2", tmp_path / "missing", {})
    broken = Work(work.engine, [work.candidates[0], bad], work.items, work.draws)
    with pytest.raises(PipelineError, match="worker 0 of 2 ended with code 1"):
        run_local(broken, workers=2)
    assert len(read_jsonl(work.draws[0].path)) == 18


def test_work_survives_the_file(work: Work, tmp_path: Path) -> None:
    """A field that the workers do not get."""
    work.save(tmp_path / "work.json")
    again = Work.load(tmp_path / "work.json")
    again.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_text() == (tmp_path / "work.json").read_text()
    assert again.items == list(work.items)
    assert again.draws == list(work.draws)


def test_parts_make_what_one_process_makes(work: Work, tmp_path: Path) -> None:
    """Problems in two parts or in none, and rows made again that the whole or another part has."""
    path = tmp_path / "generations.jsonl"
    assert run_local(work, workers=1) == 36
    whole = path.read_text().splitlines()
    path.write_text("".join(f"{line}\n" for line in whole[:5]))
    first = run_part(work, 0, 2, workers=1)
    assert run_part(work, 0, 2, workers=1) == 0
    second = run_part(work, 1, 2, workers=1)
    assert first + second == 36 - 5
    assert path.read_text().splitlines() == whole[:5]  # others may be reading it
    others = replace(work, candidates=work.candidates[:1])
    assert run_part(others, 0, 3, workers=1) == 0  # another number of parts
    assert run_local(work, workers=1) == 0
    rows = {row_key(row): row["text"] for row in read_jsonl(path)}
    assert len(rows) == len(path.read_text().splitlines()) == 36
    assert rows == {row_key(row): row["text"] for row in map(json.loads, whole)}


def test_ranks_of_slurm(
    work: Work,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A rank that does another's share."""
    work.save(tmp_path / "work.json")
    monkeypatch.setattr(sys, "argv", ["parallel", str(tmp_path / "work.json")])
    with pytest.raises(SystemExit, match="1"):
        parallel.main()
    assert capsys.readouterr().err.startswith("error: give --rank and --size")
    monkeypatch.setenv("SLURM_PROCID", "1")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    parallel.main()
    assert merge_parts(work.draws[0].path) == 2 * 2 * 2
    assert {row["problem_id"] for row in read_jsonl(work.draws[0].path)} == {"p1", "p5"}


def test_a_worker_is_born_with_its_devices(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices that a worker chooses once CUDA has started, which has no effect: all on GPU 0."""
    given: list[dict[str, str]] = []
    start = subprocess.Popen

    def record(command: list[str], env: dict[str, str], **options: Any) -> Any:
        given.append(env)
        return start(["true"], env=env)

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-5f,6,7")
    monkeypatch.setattr(device, "gpus", lambda: 4)
    monkeypatch.setattr("pipeline.inference.parallel.subprocess.Popen", record)
    assert run_local(work, workers=2) == 0
    assert [env["CUDA_VISIBLE_DEVICES"] for env in given] == ["4", "GPU-5f"]
    assert all(env["PATH"] == os.environ["PATH"] for env in given)


@pytest.mark.parametrize(
    ("visible", "size", "each", "devices"),
    [
        (None, 2, 1, ["0", "1"]),
        (None, 2, 2, ["0,1", "2,3"]),
        ("3,1,2,0", 2, 2, ["3,1", "2,0"]),
        (" 3, 1,2,0", 2, 2, ["3,1", "2,0"]),
        ("MIG-a,MIG-b,MIG-c,MIG-d", 4, 1, ["MIG-a", "MIG-b", "MIG-c", "MIG-d"]),
    ],
)
def test_devices_are_dealt_out(
    monkeypatch: pytest.MonkeyPatch,
    visible: str | None,
    size: int,
    each: int,
    devices: list[str],
) -> None:
    """Two engines on one GPU, or a GPU that a scheduler has given to another job."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(device, "gpus", lambda: 4)
    found = device.worker_environments(size, each)
    assert [one["CUDA_VISIBLE_DEVICES"] for one in found] == devices
    with pytest.raises(PipelineError, match="5 engines of 1 GPUs need 5, there are 4"):
        device.worker_environments(5, 1)
    monkeypatch.setattr(device, "gpus", lambda: 0)
    assert device.worker_environments(5, 1) == [{}] * 5


@pytest.mark.parametrize(
    ("visible", "found", "devices"),
    [
        ("0,-1,1", 1, ["0"]),
        ("2,GPU-5f,9", 2, ["2", "GPU-5f"]),
        ("MIG-a,MIG-b", 1, ["MIG-a", "MIG-b"]),
        ("", 0, []),
        ("-1", 0, []),
    ],
)
def test_devices_are_those_that_cuda_sees(
    monkeypatch: pytest.MonkeyPatch, visible: str, found: int, devices: list[str]
) -> None:
    """An engine that is given -1, or a GPU that is not there, and draws on the CPU without a word;
    and instances of one GPU that are counted as one."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    for module in (device, options):
        monkeypatch.setattr(module, "gpus", lambda: found)
    assert device_names(found) == devices
    config = EngineConfig(name="hf", replicas=None)
    assert EngineOptions(config, "float32", 0).replicas == max(1, len(devices))
    if devices:
        with pytest.raises(PipelineError, match=f"there are {len(devices)};"):
            device.worker_environments(len(devices) + 1, 1)


def test_vllm_starts_its_worker_anew_on_a_gpu() -> None:
    """A forked worker of a process that has asked for its GPUs cannot use CUDA."""
    settings = device.vllm_settings(
        torch.device("cuda"),
        threads=None,
        tensor_parallel=2,
        kv_cache_gib=1.0,
        gpu_memory_utilization=0.9,
        enforce_eager=False,
    )
    assert settings.environment["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"
    assert settings.environment[device.OURS] == "1"  # they end with this process, see `plugin`
