"""Logit extrapolation on vLLM with CUDA graphs, and sharded over two devices.

On a GPU the two members are compiled and captured, which the CPU backend skips: here a member
could be given the other's graph, and with it the other's KV cache, or its hidden states could be
written over by the other's graphs (batches with prompts in them run by piecewise ones, which share
a pool of memory).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.inference.interface import Sampling
from pipeline.inference.open import open_engine
from tests.inference.pico import prompts_of, save_model

pytest.importorskip("vllm", reason="vLLM is not installed")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.vllm,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture(scope="module", params=[1, 2])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Any, Path, Path]]:
    """Two untied Llama checkpoints on one or two devices."""
    if torch.cuda.device_count() < request.param:
        pytest.skip(f"needs {request.param} CUDA devices")
    folder = tmp_path_factory.mktemp("pair")
    first = save_model(folder / "first", 1, "llama", tied=False)
    second = save_model(folder / "second", 2, "llama", tied=False)
    engine = open_engine(
        "vllm",
        first,
        second,
        batch_size=16,
        max_model_len=256,
        tensor_parallel=request.param,
        gpu_memory_utilization=0.3,
    )
    yield engine, first, second
    engine.close()


@pytest.mark.parametrize("alpha", [0.0, 1.0, 1.7])
def test_equals_hf(pair: tuple[Any, Path, Path], alpha: float) -> None:
    """A member run with the other's graph or cache; logits added before they are gathered."""
    engine, first, second = pair
    engine.set_coefficients([1 - alpha, alpha])
    reference = open_engine("hf", first, second, coefficients=[1 - alpha, alpha])
    prompts, greedy = prompts_of(12), Sampling(temperature=0, max_tokens=12)

    def run(one: Any) -> list[tuple[int, ...]]:
        made = sorted(one.generate(prompts, greedy), key=lambda g: g.prompt_index)
        return [g.token_ids for g in made]

    made = run(reference)
    assert run(engine) == made
    for found, wanted in zip(
        engine.score(prompts, made), reference.score(prompts, made), strict=True
    ):
        torch.testing.assert_close(torch.tensor(found), torch.tensor(wanted), atol=1e-3, rtol=0)
