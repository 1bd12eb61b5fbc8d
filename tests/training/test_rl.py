"""Faults caught: steps counted in optimiser updates, snapshots that are not loadable, rounded or of
the wrong moment, a reward that does not reach the weights, knobs that do not reach TRL."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.trainer.grpo_config import GRPOConfig

from pipeline.artifacts import read_jsonl
from pipeline.errors import PipelineError
from pipeline.training.checkpoints import MARKER
from pipeline.training.devices import PATIENCE
from pipeline.training.trainers import rl_arguments
from pipeline.training.worker import run
from tests.training.pico import assert_same, rl_spec, weights


@pytest.fixture(scope="module")
def rl_output(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """A finished run of 6 steps of 2 updates, snapshots every 2 steps; read-only."""
    output = tmp_path_factory.mktemp("rl")
    run(rl_spec(output, base))
    return output


def test_steps_are_batches_of_rollouts(rl_output: Path) -> None:
    names = sorted(path.name for path in (rl_output / "snapshots").iterdir())
    assert names == ["step_2", "step_4", "step_6"]
    rows = read_jsonl(rl_output / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    keys = {"reward", "reward_std", "loss", "grad_norm", "completion_length", "seconds"}
    assert all(keys <= row.keys() for row in rows)
    assert all(0 <= row["reward"] <= 1 and 1 <= row["completion_length"] <= 4 for row in rows)


def test_every_snapshot_is_a_model_and_each_differs(rl_output: Path, base: Path) -> None:
    before = weights(base)
    for step in (2, 4, 6):
        folder = rl_output / "snapshots" / f"step_{step}"
        model = AutoModelForCausalLM.from_pretrained(folder)
        assert model.dtype == torch.float32
        assert AutoTokenizer.from_pretrained(folder)("1+2=")["input_ids"]
        assert (folder / "generation_config.json").exists()
        now = weights(folder)
        assert now.keys() == before.keys()
        assert any(not torch.equal(now[name], before[name]) for name in now)
        before = now


def test_the_last_snapshot_is_the_state_of_training(rl_output: Path) -> None:
    assert_same(rl_output / "snapshots" / "step_6", rl_output / "checkpoints" / "checkpoint-12")


def test_same_seed_same_bits_and_another_seed_other_bits(
    rl_output: Path, base: Path, tmp_path: Path
) -> None:
    run(rl_spec(tmp_path / "same", base, steps=2))
    assert_same(tmp_path / "same/snapshots/step_2", rl_output / "snapshots/step_2")
    run(rl_spec(tmp_path / "other", base, steps=2, seed=1))
    other = weights(tmp_path / "other/snapshots/step_2")
    same = weights(tmp_path / "same/snapshots/step_2")
    assert any(not torch.equal(other[name], same[name]) for name in same)


def test_the_reward_rises(base: Path, tmp_path: Path) -> None:
    spec = rl_spec(
        tmp_path,
        base,
        steps=80,
        snapshot_every=80,
        checkpoint_every=80,
        prompts_per_step=16,
        rollouts_per_prompt=16,
        updates_per_step=1,
    )
    rows: list[dict[str, float]] = []
    run(spec, rows.append)
    reward = [row["reward"] for row in rows]
    assert rows == read_jsonl(tmp_path / "metrics.jsonl")
    # 2,560 rollouts each: the standard error of the difference is 0.012, the rise about 0.1
    assert sum(reward[-10:]) / 10 > sum(reward[:10]) / 10 + 0.04


def test_snapshots_in_bf16_are_the_fp32_weights_rounded_once(
    rl_output: Path, base: Path, tmp_path: Path
) -> None:
    run(rl_spec(tmp_path, base, steps=2, snapshot_dtype="bfloat16"))
    exact = weights(rl_output / "snapshots/step_2")
    for name, tensor in weights(tmp_path / "snapshots/step_2").items():
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(tensor, exact[name].to(torch.bfloat16)), name
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "snapshots/step_2")
    assert model.dtype == torch.bfloat16


@pytest.mark.parametrize(
    "changes",
    [
        {"importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4},  # GSPO
        {"scale_rewards": "batch"},  # REINFORCE++-baseline
        {"scale_rewards": "none", "loss_type": "dr_grpo"},
        {"loss_type": "dapo", "mask_truncated": True},
        {"trainer": "rloo"},
    ],
)
def test_algorithms_are_values(base: Path, tmp_path: Path, changes: dict[str, object]) -> None:
    run(rl_spec(tmp_path, base, steps=1, snapshot_every=1, **changes))
    after, before = weights(tmp_path / "snapshots/step_1"), weights(base)
    assert any(not torch.equal(after[name], before[name]) for name in after)


def test_every_knob_reaches_trl(tmp_path: Path) -> None:
    spec = rl_spec(
        tmp_path,
        tmp_path,
        prompts_per_step=8,
        rollouts_per_prompt=4,
        updates_per_step=2,
        micro_batch=4,
        epsilon=0.1,
        epsilon_high=0.3,
        kl_beta=0.05,
        temperature=0.7,
        top_p=0.9,
        top_k=20,
        max_response_tokens=7,
        importance_sampling_level="sequence",
        scale_rewards="none",
        loss_type="dr_grpo",
        learning_rate=2e-4,
        adam_beta2=0.95,
        weight_decay=0.1,
        max_grad_norm=0.5,
        warmup_steps=3,
    )
    args = rl_arguments(spec)
    assert isinstance(args, GRPOConfig)
    assert args.generation_batch_size == 32
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (4, 4)
    assert (args.steps_per_generation, args.max_steps, args.save_steps) == (8, 12, 4)
    assert (args.epsilon, args.epsilon_high, args.beta) == (0.1, 0.3, 0.05)
    assert (args.temperature, args.top_p, args.top_k) == (0.7, 0.9, 20)
    assert (args.num_generations, args.max_completion_length) == (4, 7)
    assert args.importance_sampling_level == "sequence"
    assert (args.scale_rewards, args.loss_type) == ("none", "dr_grpo")
    assert (args.learning_rate, args.adam_beta2, args.weight_decay) == (2e-4, 0.95, 0.1)
    assert (args.max_grad_norm, args.warmup_steps) == (0.5, 3)
    assert args.lr_scheduler_type == "constant_with_warmup"


def test_rollouts_are_not_corrected_unasked(tmp_path: Path) -> None:
    """Catches TRL's own default, which leaves out most long responses of an engine's rollouts."""
    found = []
    for level in ("off", "token", "sequence"):
        args = rl_arguments(
            rl_spec(tmp_path, tmp_path, rollout_correction=level, rollout_correction_cap=2.0)
        )
        assert isinstance(args, GRPOConfig)
        found.append((args.vllm_importance_sampling_correction, args.vllm_importance_sampling_mode))
        assert args.vllm_importance_sampling_clip_max == 2.0
    assert found[0][0] is False
    assert found[1:] == [(True, "token_truncate"), (True, "sequence_truncate")]
    assert not args.bf16


def test_ranks_wait_for_the_mark_and_the_model_goes_when_training_ends(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranks that go on while the first one flushes a large checkpoint: they wait in a group of
    DeepSpeed's then, which on NCCL gives up after ten minutes. And a model that something of a
    trainer's keeps: it would lie on the GPU beside the engines of the next stages."""
    marked: list[bool] = []
    wait = Accelerator.wait_for_everyone

    def waits(accelerator: Accelerator) -> None:
        marked.append(any(tmp_path.glob(f"checkpoints/*/{MARKER}")))
        wait(accelerator)

    monkeypatch.setattr(Accelerator, "wait_for_everyone", waits)
    before = held()
    run(rl_spec(tmp_path, base, steps=1, snapshot_every=1, checkpoint_every=1))
    assert marked[-2:] == [False, True]
    assert held() <= before
    assert rl_arguments(rl_spec(tmp_path, base)).ddp_timeout == PATIENCE


def held() -> int:
    """Parameters that Python knows of."""
    gc.collect()
    return sum(type(one) is torch.nn.Parameter for one in gc.get_objects())


def test_a_missing_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="no tokenizer can be loaded") as caught:
        run(rl_spec(tmp_path / "out", tmp_path / "nothing"))
    assert "\n" not in str(caught.value)
