"""Tensor parallelism: each model cut over two processes, with a core each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.inference.engine import open_engine
from pipeline.inference.recipe import Recipe
from tests.inference.pico import prompts_of, save_model
from tests.inference.vllm_checks import OPTIONS, assert_same

pytest.importorskip("vllm", reason="vLLM is not installed")
pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core only"),
]


@pytest.fixture(scope="class")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Path, Path]]:
    """Two checkpoints in lockstep, with tied embeddings."""
    folder = tmp_path_factory.mktemp("sharded")
    first, second = (save_model(folder / f"{i}", i) for i in (1, 2))
    engine = open_engine("vllm", first, second=second, tensor_parallel=2, **OPTIONS)
    yield engine, first, second
    engine.close()


class TestSharded:
    """Two ranks on the CPU."""

    @pytest.mark.parametrize("alpha", [0.0, 1.0, 1.7])
    def test_equals_hf(self, pair: tuple[Any, Path, Path], alpha: float) -> None:
        """Logits mixed on one rank only, or before they are gathered; α not sent to all ranks."""
        engine, first, second = pair
        engine.set_alpha(alpha)
        assert_same(engine, open_engine("hf", first, second=second, alpha=alpha), prompts_of(12))

    def test_new_weights(self, pair: tuple[Any, Path, Path]) -> None:
        """A rank that keeps old weights, or reads the shard of the other."""
        engine, first, second = pair
        engine.set_alpha(1.5)
        recipe = Recipe((first, second), [0.0, 1.5], dtype="float32")
        for sources in ((second, first), (recipe, second)):
            engine.load_weights(*sources)
            reference = open_engine("hf", first, second=second, alpha=1.5)
            reference.load_weights(*sources)
            assert_same(engine, reference, prompts_of(8))
