"""Tensor parallelism: each model cut over two processes, with a core each."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.inference.open import open_engine
from pipeline.trajectory.recipe import Recipe
from tests.inference.pico import prompts_of, save_model
from tests.inference.vllm_checks import OPTIONS, assert_same

pytest.importorskip("vllm", reason="vLLM is not installed")
pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core only"),
]


GROUPS = {"0", "1", "embed_tokens", "lm_head", "norm"}


def load_first(worker: Any, sources: list[str]) -> Any:
    """In the workers: new weights on the first rank only; both report."""
    if worker.rank == 0:
        return worker.load_sources(sources)
    from pipeline.inference.vllm.checksum import read_back

    members = worker.model_runner.get_model().members
    return [(Counter(), read_back(member, torch.float32, 2)) for member in members]


@pytest.fixture(scope="class")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Path, Path]]:
    """Two checkpoints in lockstep, with tied embeddings."""
    folder = tmp_path_factory.mktemp("sharded")
    # vLLM rounds a vocabulary up to a multiple of 64: of a smaller one all is on the first rank
    first, second = (save_model(folder / f"{i}", i, vocabulary=100) for i in (1, 2))
    engine = open_engine("vllm", first, second, tensor_parallel=2, **OPTIONS)
    yield engine, first, second
    engine.close()


class TestSharded:
    """Two ranks on the CPU."""

    @pytest.mark.parametrize("alpha", [0.0, 1.0, 1.7])
    def test_equals_hf(self, pair: tuple[Any, Path, Path], alpha: float) -> None:
        """Logits mixed on one rank only, or before they are gathered; α not sent to all ranks."""
        engine, first, second = pair
        engine.set_coefficients([1 - alpha, alpha])
        assert_same(
            engine,
            open_engine("hf", first, second, coefficients=[1 - alpha, alpha]),
            prompts_of(12),
        )

    def test_new_weights(self, pair: tuple[Any, Path, Path]) -> None:
        """A rank that keeps old weights, or reads the shard of the other."""
        engine, first, second = pair
        engine.set_coefficients([-0.5, 1.5])
        recipe = Recipe((first, second), [0.0, 1.5], dtype="float32")
        for sources in ((second, first), (recipe, second)):
            engine.load_weights(*sources)
            assert engine.checksum.keys() == {f"{i}:{group}" for i in (0, 1) for group in GROUPS}
            reference = open_engine("hf", first, second, coefficients=[-0.5, 1.5])
            reference.load_weights(*sources)
            assert_same(engine, reference, prompts_of(8))

    def test_a_rank_left_behind_is_seen(self, pair: tuple[Any, Path, Path]) -> None:
        """Sums of one rank taken for all; key and value heads that both ranks hold added twice."""
        from pipeline.inference.vllm.checksum import compare

        engine, first, second = pair
        engine.load_weights(first, second)
        sources = [str(second), str(first)]
        (fed, mine), (_, stale) = [
            r[0] for r in engine.llm.collective_rpc(load_first, args=(sources,))
        ]
        assert {piece for _, piece in stale} == {"rank 1", "heads 0", "copy"}
        with pytest.raises(
            PipelineError, match=f"layer 0, 1, embed_tokens, lm_head, norm of {second}"
        ):
            compare(fed, [mine, stale], str(second))

    def test_each_piece_counts(self, pair: tuple[Any, Path, Path]) -> None:
        """A piece of the second rank that no sum holds."""
        from pipeline.inference.vllm.checksum import compare

        engine, first, second = pair
        sources = [str(first), str(second)]
        ranks = engine.llm.collective_rpc("load_sources", args=(sources,))
        for number in range(2):
            (fed, mine), (_, other) = [rank[number] for rank in ranks]
            compare(fed, [mine, other], "s")
            for key in other:
                with pytest.raises(PipelineError, match=f"layer {key[0]} of"):
                    compare(fed, [mine, Counter({**other, key: other[key] + 1})], "s")
