"""Faults caught: a spec that changes on its way through JSON, a bad value that is only noticed
deep inside a trainer, and a fingerprint that lets a stale checkpoint be resumed."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.artifacts import read_json, write_json
from pipeline.checks import check as check_config
from pipeline.config import PipelineConfig
from pipeline.errors import PipelineError
from pipeline.training.check import check, micro_batches
from pipeline.training.schema import LoraConfig, RegroundConfig, ValidationConfig
from pipeline.training.spec import RlSpec, Spec, fingerprint, read_spec, write_spec
from tests.test_configs import composed
from tests.training.pico import changed, compute, rl_spec, sft_spec

JUMPS = RegroundConfig(every=1, jump=1)


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
    del good["task"]
    write_json(path, good)
    with pytest.raises(PipelineError, match=r"'task'"):
        read_spec(path)
    write_json(path, {"kind": "ppo"})
    with pytest.raises(PipelineError, match=r"kind is 'ppo'"):
        read_spec(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compute": compute(processes=2)}, "launcher=none runs one process"),
        ({"compute": compute(zero_stage=2)}, "zero_stage=2 needs another compute.launcher"),
        ({"compute": compute(launcher="torchrun", zero_stage=7)}, "zero_stage: must be"),
        ({"compute": compute(launcher="mpi")}, "compute.launcher: 'mpi'"),
        ({"compute": compute(launcher="torchrun", processes=3)}, "do not divide"),
        ({"compute": compute(offload=True)}, "offload=true needs compute.zero_stage=1"),
        ({"compute": compute(vllm_max_model_len=2051)}, "no room for .* = 2052"),
        ({"micro_batch": 3}, "micro_batch=3 does not divide"),
        ({"updates_per_step": 3}, "do not divide over 3"),
        ({"rollouts_per_prompt": 1}, "at least 2"),
        ({"snapshot_every": 0}, "rl_train.snapshot_every: must be at least 1"),
        ({"snapshot_every": 7}, "there would be no snapshot"),
        ({"validation": ValidationConfig(every=7)}, "accuracy would never be measured"),
        ({"steps": 0}, "rl_train.steps: must be at least 1"),
        ({"trainer": "ppo"}, "algorithm.trainer: 'ppo'"),
        ({"scale_rewards": "std"}, "algorithm.scale_rewards: 'std'"),
        ({"loss_type": "gspo"}, "algorithm.loss_type: 'gspo'"),
        ({"advantage": "gae"}, "algorithm.advantage: 'gae'"),
        ({"advantage": "reinforce_pp", "trainer": "rloo"}, "needs algorithm.trainer=grpo"),
        ({"loss_type": "cispo"}, "epsilon_high=0.28: loss_type=cispo takes it as the largest"),
        ({"dynamic_sampling": 2, "scale_rewards": "batch"}, "needs advantages within groups"),
        ({"dynamic_sampling": 2, "advantage": "reinforce_pp"}, "needs advantages within groups"),
        (
            {"dynamic_sampling": 2, "prompts_per_step": 1, "updates_per_step": 1}
            | {"compute": compute(launcher="torchrun", processes=2)},
            "split over 2 ranks",
        ),
        ({"sft_noise_db": -10.0}, "for algorithm.trainer=sft alone"),
        ({"trainer": "sft"}, "rollouts_per_prompt=4: algorithm.trainer=sft has no rollouts"),
        (
            {"trainer": "sft", "rollouts_per_prompt": 1, "validation": ValidationConfig(every=1)},
            "rl_train.validation.every: algorithm.trainer=sft generates nothing",
        ),
        ({"lora": LoraConfig(rank=2), "snapshot_dtype": "delta_bfloat16"}, "set it to bfloat16"),
        ({"lora": LoraConfig(rank=2), "reground": JUMPS}, "none through the weights"),
        ({"lora": LoraConfig(rank=2, targets=[])}, "lora.targets: names no module"),
        ({"rollouts_kept": 1.5}, "rl_train.rollouts_kept: must be at least 0 and at most 1"),
        ({"loss_type": "luspo"}, "loss_type=luspo needs sequence"),
        ({"importance_sampling_level": "tokens"}, "did you mean 'token'"),
        ({"optimizer": "adam"}, "algorithm.optimizer: 'adam'"),
        ({"lr_schedule": "cosin"}, "did you mean 'cosine'"),
        ({"attention": "flash"}, "model.attention: 'flash'"),
        ({"snapshot_dtype": "int8"}, "rl_train.snapshot_dtype: 'int8'"),
        ({"snapshot_dtype": "delta_float16"}, "snapshot_dtype: 'delta_float16'"),
        ({"temperature": 0.0}, "algorithm.temperature: must be above 0"),
        ({"learning_rate": 0.0}, "algorithm.learning_rate: must be above 0"),
    ],
)
def test_a_bad_value_is_one_line_with_its_key(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    """In a training process, and in the plan of a run with the same sections."""
    spec = rl_spec(tmp_path, tmp_path, **changes)
    for look in (lambda: check(spec), lambda: check_config(as_config(spec))):
        with pytest.raises(PipelineError, match=message) as caught:
            look()
        assert "\n" not in str(caught.value)


def as_config(spec: RlSpec) -> PipelineConfig:
    """The configuration of a run that would train so."""
    config = composed("+experiment=pico")
    for section in ("task", "model", "algorithm", "rl_train", "compute"):
        setattr(config, section, getattr(spec, section))
    config.stages = ["rl_train"]
    return config


def test_rollouts_are_dealt_to_updates_processes_and_passes(tmp_path: Path) -> None:
    spec = rl_spec(
        tmp_path,
        tmp_path,
        prompts_per_step=128,
        rollouts_per_prompt=16,
        updates_per_step=2,
        micro_batch=8,
        compute=compute(launcher="torchrun", processes=4, nodes=2),
    )
    passes, accumulation = micro_batches(spec)
    assert (passes, accumulation) == (8, 16)
    assert passes * accumulation * 8 * 2 == 128 * 16


def test_the_fingerprint_sees_weights_and_values_but_not_places(tmp_path: Path, base: Path) -> None:
    spec = rl_spec(tmp_path / "a", base)
    same = changed(spec, output=str(tmp_path / "b"), checkpoint_every=5, micro_batch=2, steps=9)
    same = replace(same, compute=compute(threads=2, launcher="torchrun"))
    moved = tmp_path / "moved"
    shutil.copytree(base, moved)
    assert fingerprint(same) == fingerprint(spec) == fingerprint(changed(spec, path=str(moved)))
    assert fingerprint(replace(spec, seed=1)) != fingerprint(spec)
    content = bytearray((moved / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (moved / "model.safetensors").write_bytes(content)
    assert fingerprint(changed(spec, path=str(moved))) != fingerprint(spec)
