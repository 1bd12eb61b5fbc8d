"""Faults caught: rollouts of old weights, an engine whose log-probs are not the trainer's, runs of
another seed that draw the same responses, and a resumed run that draws others."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipeline.artifacts import read_jsonl
from pipeline.errors import PipelineError
from pipeline.stopping import Requeue
from pipeline.training.check import check, engine_tokens
from pipeline.training.launch import launch
from pipeline.training.spec import RlSpec
from pipeline.training.worker import run
from tests.training.pico import SIZES, TASK, compute, rl_spec, sft_spec, timeless

ENGINE = {"vllm_rollouts": True, "vllm_kv_cache_gib": 0.05, "threads": 1}


def spec(output: Path, base: Path, **changes: Any) -> RlSpec:
    values: dict[str, Any] = {
        "learning_rate": 1e-2,
        "max_response_tokens": 6,
        "compute": compute(**ENGINE),
    }
    values |= {"steps": 3, "snapshot_every": 3, "checkpoint_every": 3}
    values["task"] = replace(TASK, max_prompt_tokens=16)
    return rl_spec(output, base, **(values | changes))


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model whose heads are as wide as vLLM's attention on the CPU takes them."""
    output = tmp_path_factory.mktemp("wide")
    run(sft_spec(output, architecture={**SIZES, "heads": 1}))
    return output / "model"


@pytest.mark.vllm
def test_the_engine_has_the_trainers_weights_after_every_update(wide: Path, tmp_path: Path) -> None:
    """And a run that is stopped and resumed draws what an uninterrupted one does.

    An engine that keeps the weights of the start is off by 2.2 nats a token at ten times the rate.
    """
    pytest.importorskip("vllm")
    steps = {"steps": 40, "snapshot_every": 40, "checkpoint_every": 40, "learning_rate": 1e-3}
    whole, cut = (spec(tmp_path / name, wide, **steps) for name in ("whole", "cut"))
    launch(whole)
    rows = read_jsonl(tmp_path / "whole" / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 41))
    for row in rows:
        assert 0 < row["rollout_logprob_gap"] < 1e-4, row
        assert 0 <= row["rollout_kl"] < 1e-6
        assert row["rollout_capped_share"] == 0
    assert rows[0]["grad_norm"] > 0

    def at(row: dict[str, Any]) -> None:
        if row["step"] == 1:
            os.kill(os.getpid(), signal.SIGUSR1)

    with pytest.raises(Requeue, match=r"stopped after step \d+, checkpoint written"):
        launch(cut, at)
    stopped = [row["step"] for row in read_jsonl(tmp_path / "cut" / "metrics.jsonl")]
    assert 1 < len(stopped) < 40
    launch(cut)
    assert timeless(read_jsonl(tmp_path / "cut" / "metrics.jsonl")) == timeless(rows)


@pytest.mark.vllm
def test_heads_that_the_engine_does_not_know(base: Path, tmp_path: Path) -> None:
    """They are 16 wide: on the CPU vLLM would die at the first token, minutes later."""
    pytest.importorskip("vllm.v1.attention.backends.cpu_attn")
    with pytest.raises(PipelineError, match="no attention for heads of 16"):
        run(spec(tmp_path, base))


def test_the_engine_holds_prompt_and_response(tmp_path: Path) -> None:
    """Not the model's own limit, for which its cache has no room."""
    wanted = spec(tmp_path, tmp_path)
    assert engine_tokens(wanted) == 16 + 6
    longer = spec(tmp_path, tmp_path, compute=compute(**ENGINE, vllm_max_model_len=64))
    assert engine_tokens(longer) == 64


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"vllm_tensor_parallel": 2}, "vllm_tensor_parallel=2 does not divide the 1 processes"),
        ({"vllm_host": "node1", "vllm_sleep": True}, "compute.vllm_sleep is of an engine inside"),
    ],
)
def test_values_that_cannot_serve(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        check(spec(tmp_path, tmp_path, compute=compute(**ENGINE, **values)))


@pytest.mark.vllm
def test_an_engine_draws_no_more_at_once_than_vllm_takes(tmp_path: Path) -> None:
    """512 prompts of 16 responses on one GPU: the engine would not start."""
    config = pytest.importorskip("vllm.config.scheduler").SchedulerConfig
    from pipeline.training.rollouts import BATCHED_TOKENS, _at_once

    def start(responses: int) -> None:
        config(
            max_num_seqs=responses,
            max_num_batched_tokens=BATCHED_TOKENS,
            max_model_len=18432,
            is_encoder_decoder=False,
        )

    with pytest.raises(ValueError, match="max_num_seqs"):
        start(8192)
    start(_at_once(8192, compute(**ENGINE)))
    assert _at_once(64, compute(**ENGINE, vllm_tensor_parallel=4)) == 256


@pytest.mark.vllm
def test_experts_on_a_gpu_stay_in_the_order_of_a_checkpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """TRL writes into vLLM's tensors: where its kernels want gates and values the other way round,
    new weights would go to the wrong places, and nothing would say so."""
    oracle = pytest.importorskip("vllm.model_executor.layers.fused_moe.oracle.unquantized")
    from pipeline.training.rollouts import _engine_arguments

    gates, down = torch.randn(2, 8, 4), torch.randn(2, 4, 4)

    def held(backend: Any) -> torch.Tensor:
        made: torch.Tensor = oracle.convert_to_unquantized_kernel_format(
            backend, SimpleNamespace(is_act_and_mul=True), gates.clone(), down.clone()
        )[0]
        return made

    for name in ("VLLM_WORKER_MULTIPROC_METHOD", "TRITON_F32_DEFAULT"):
        monkeypatch.setenv(name, "")  # put back at the end
    arguments = _engine_arguments(compute(bf16=True, **ENGINE), cuda=True)
    assert os.environ["TRITON_F32_DEFAULT"] == "ieee"  # else fp32 would be TF32 in attention
    assert arguments["enforce_eager"] is False
    asked = oracle.map_unquantized_backend(arguments["moe_backend"])
    assert held(asked).equal(gates)
    assert not held(oracle.UnquantizedMoeBackend.FLASHINFER_CUTLASS).equal(gates)
    taken = pytest.importorskip("vllm.engine.arg_utils").EngineArgs.__dataclass_fields__
    assert arguments.keys() <= taken.keys()
