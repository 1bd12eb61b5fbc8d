"""What only CUDA can show: run by hand on a GPU machine, skipped elsewhere.

python -m pytest tests/gpu
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from pipeline.artifacts import read_json, read_jsonl
from pipeline.hardware import give_back_memory
from tests.conftest import PICO, run_pipeline

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
TRAIN = "stages=[sft_train,rl_train,snapshot,weight_extrap]"


def trained(run_dir: Path, *arguments: str) -> None:
    done = run_pipeline(*PICO, f"run.dir={run_dir}", f"run.cache={run_dir}/cache", *arguments)
    assert done.returncode == 0, done.stderr
    assert (run_dir / "weight_extrap" / "two_point" / "step_6" / "model.safetensors").exists()


def test_the_whole_pipeline_on_one_gpu(tmp_path: Path) -> None:
    """Would catch a tensor on the wrong device, in any stage."""
    trained(tmp_path / "run")
    scores = read_json(tmp_path / "run" / "evaluate" / "scores.json")
    assert {row["kind"] for row in scores["rows"]} == {"base", "rl", "weight", "logit"}


@pytest.mark.skipif(
    importlib.util.find_spec("flash_attn") is None, reason="flash-attn is not installed"
)
def test_flash_attention_trains(tmp_path: Path) -> None:
    """Would catch a dtype that flash attention refuses, or heads of a size it does not know."""
    trained(tmp_path / "run", TRAIN, "model.attention=flash_attention_2", "compute.bf16=true")


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU only")
@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="no deepspeed")
@pytest.mark.parametrize("stage", [2, 3])
def test_two_gpus_over_nccl(tmp_path: Path, stage: int) -> None:
    """Would catch a collective that gloo forgives and NCCL does not."""
    trained(
        tmp_path / "run",
        TRAIN,
        "compute=node_8_gpus",
        "compute.processes=2",
        f"compute.zero_stage={stage}",
        "compute.vllm_rollouts=false",
    )


def test_what_a_stage_leaves_is_given_back() -> None:
    """Would catch memory that this process keeps: vLLM's engine of the next stage asks for 0.9 of
    the GPU (`request_memory` in its v1/worker/utils.py) and does not start where less is free."""
    free = torch.cuda.mem_get_info()[0]
    left: list[object] = [torch.zeros(1 << 28, device="cuda")]  # 1 GiB
    left.append(left)  # as a trainer and its model hang on each other
    del left
    give_back_memory()
    assert torch.cuda.memory_reserved() == 0
    assert torch.cuda.mem_get_info()[0] > free - (1 << 29)


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
@pytest.mark.parametrize("eager", [True, False])
def test_vllm_evaluates_with_and_without_cuda_graphs(tmp_path: Path, eager: bool) -> None:
    """Would catch a two-model class that CUDA graphs capture wrongly: alpha 1 is the last model."""
    run_dir = tmp_path / "run"
    trained(
        run_dir,
        "engine=vllm",
        "engine.gpu_memory_utilization=0.3",
        f"engine.enforce_eager={eager}",
        "evaluate.temperature=0",
        "evaluate.samples_per_problem=1",
        "evaluate.pass_k=[1]",
        "logit_extrap.alphas=[1.0]",
    )
    rows = read_json(run_dir / "evaluate" / "scores.json")["rows"]
    by_model = {(row["model"], row["split"]): row["avg@k"] for row in rows}
    for split in ("validation", "test"):
        assert by_model["logit-1", split] == by_model["rl-4", split]


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
@pytest.mark.parametrize("sleep", [False, True])
def test_rollouts_inside_the_trainer(tmp_path: Path, sleep: bool) -> None:
    """Would catch rollouts of old weights, and weights that do not come back from sleep."""
    run_dir = tmp_path / "run"
    trained(
        run_dir,
        TRAIN,
        "compute.vllm_rollouts=true",
        "compute.vllm_memory=0.3",
        f"compute.vllm_sleep={sleep}",
    )
    rows = read_jsonl(run_dir / "rl_train" / "metrics.jsonl")
    assert rows
    assert all(row["rollout_logprob_gap"] < 1e-2 for row in rows)
