"""Faults caught: a spec that changes on its way through JSON, a bad value that is only noticed
deep inside a trainer, and a fingerprint that lets a stale checkpoint be resumed."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import config
from pipeline.artifacts import read_json, write_json
from pipeline.errors import PipelineError
from pipeline.training.check import check, micro_batches
from pipeline.training.spec import (
    SNAPSHOT_DTYPES,
    Compute,
    Optimizer,
    Spec,
    fingerprint,
    read_spec,
    write_spec,
)
from tests.training.pico import rl_spec, sft_spec


@pytest.mark.parametrize("kind", ["sft", "rl"])
def test_a_spec_survives_json(tmp_path: Path, kind: str) -> None:
    spec: Spec = sft_spec(tmp_path) if kind == "sft" else rl_spec(tmp_path, tmp_path)
    write_spec(spec, tmp_path / "spec.json")
    assert read_spec(tmp_path / "spec.json") == spec


def test_unknown_and_missing_keys_are_named(tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    write_spec(rl_spec(tmp_path, tmp_path), path)
    good = read_json(path)
    write_json(path, {**good, "compute": {**good["compute"], "gpus": 8}})
    with pytest.raises(PipelineError, match=r"compute: unknown key 'gpus'"):
        read_spec(path)
    del good["steps"]
    write_json(path, good)
    with pytest.raises(PipelineError, match=r"'steps'"):
        read_spec(path)
    write_json(path, {"kind": "ppo"})
    with pytest.raises(PipelineError, match=r"kind is 'ppo'"):
        read_spec(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compute": Compute(processes=2)}, "without a launcher"),
        ({"compute": Compute(zero_stage=2)}, "without a launcher"),
        ({"compute": Compute(launcher="mpi")}, "compute.launcher is 'mpi'"),
        ({"compute": Compute(launcher="torchrun", processes=3)}, "does not divide"),
        ({"micro_batch": 3}, "micro_batch = 3 does not divide"),
        ({"updates_per_step": 3}, "does not divide into 3 update"),
        ({"rollouts_per_prompt": 1}, "at least 2"),
        ({"snapshot_every": 0}, "snapshot_every is 0"),
        ({"steps": 0}, "steps is 0"),
        ({"trainer": "ppo"}, "trainer is 'ppo'"),
        ({"scale_rewards": "std"}, "scale_rewards is 'std'"),
        ({"snapshot_dtype": "int8"}, "snapshot_dtype is 'int8'"),
        ({"snapshot_dtype": "delta_float16"}, "snapshot_dtype is 'delta_float16'"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"optimizer": Optimizer(learning_rate=0.0)}, "learning_rate is 0.0"),
    ],
)
def test_a_bad_value_is_one_line_with_its_key(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(PipelineError, match=message) as caught:
        check(rl_spec(tmp_path, tmp_path, **changes))
    assert "\n" not in str(caught.value)


def test_sft_starts_from_a_model_or_from_nothing_but_not_both(tmp_path: Path) -> None:
    for changes in ({"model": "somewhere"}, {"architecture": None}):
        with pytest.raises(PipelineError, match="exactly one of model and architecture"):
            check(sft_spec(tmp_path, **changes))


def test_deltas_need_a_folder_to_refer_to(tmp_path: Path) -> None:
    spec = rl_spec(tmp_path, tmp_path, snapshot_dtype="delta_bfloat16")
    check(spec)
    with pytest.raises(PipelineError, match=r"model 'lab/model' is no folder"):
        check(replace(spec, model="lab/model"))


def test_the_configuration_knows_the_same_ways_to_store_a_snapshot() -> None:
    assert set(SNAPSHOT_DTYPES) == set(config.SNAPSHOT_DTYPES)


def test_rollouts_are_dealt_to_updates_processes_and_passes(tmp_path: Path) -> None:
    spec = rl_spec(
        tmp_path,
        tmp_path,
        prompts_per_step=128,
        rollouts_per_prompt=16,
        updates_per_step=2,
        micro_batch=8,
        compute=Compute(launcher="torchrun", processes=4, nodes=2),
    )
    passes, accumulation = micro_batches(spec)
    assert (passes, accumulation) == (8, 16)
    assert passes * accumulation * 8 * 2 == 128 * 16


def test_the_fingerprint_sees_weights_and_values_but_not_places(tmp_path: Path, base: Path) -> None:
    spec = rl_spec(tmp_path / "a", base)
    same = replace(spec, output=str(tmp_path / "b"), checkpoint_every=5)
    same = replace(same, compute=replace(spec.compute, threads=2), micro_batch=2, steps=9)
    moved = tmp_path / "moved"
    shutil.copytree(base, moved)
    assert fingerprint(same) == fingerprint(spec) == fingerprint(replace(spec, model=str(moved)))
    assert fingerprint(replace(spec, seed=1)) != fingerprint(spec)
    content = bytearray((moved / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (moved / "model.safetensors").write_bytes(content)
    assert fingerprint(replace(spec, model=str(moved))) != fingerprint(spec)
