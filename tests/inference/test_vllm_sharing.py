"""Two models inside vLLM that share some of their weights, as the checkpoints of a LoRA run do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.inference.open import open_engine
from tests.inference.pico import prompts_of, save_model, save_variant
from tests.inference.vllm_checks import OPTIONS, assert_same

pytest.importorskip("vllm", reason="vLLM is not installed")
pytestmark = pytest.mark.vllm

ADAPTED = "*.q_proj.weight"


def common(worker: Any) -> set[str]:
    """In the worker: what the two members hold in one place, by name."""
    first, second = worker.model_runner.get_model().members
    modules = dict(first.named_modules())
    found = set()
    for name, module in second.named_modules():
        for key, parameter in module.named_parameters(recurse=False):
            other = getattr(modules[name], key)
            if parameter.numel() and parameter.data_ptr() == other.data_ptr():
                found.add(f"{name}.{key}")
        if hasattr(module, "cpu_linear") and module.cpu_linear is modules[name].cpu_linear:
            found.add(f"{name} (packed)")
    return found


def expected(tied: bool, biases: bool) -> set[str]:
    """All but the matrix into which q, k and v were fused."""
    layers = [f"model.layers.{i}" for i in range(2)]
    packed = [f"{layer}.{m}" for layer in layers for m in PACKED]
    norms = [f"{layer}.{norm}.weight" for layer in layers for norm in NORMS]
    names = {f"{name} (packed)" for name in [*packed, *HEADS]} | {*norms, "model.norm.weight"}
    names |= {f"{layer}.self_attn.qkv_proj.bias" for layer in layers} if biases else set()
    return names | {"model.embed_tokens.weight", "lm_head.weight"}


PACKED = ("self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
HEADS = ("lm_head", "model.embed_tokens")  # vLLM packs the embedding, too
NORMS = ("input_layernorm", "post_attention_layernorm")


@pytest.fixture(scope="class", params=[("llama", False), ("qwen2", True)])
def alike(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Any, Path, Path, set[str]]]:
    """Two checkpoints that differ in the query projections alone."""
    architecture, tied = request.param
    folder = tmp_path_factory.mktemp(architecture)
    first = save_model(folder / "first", 1, architecture, tied)
    second = save_variant(first, folder / "second", ADAPTED, seed=2)
    engine = open_engine("vllm", first, second, **OPTIONS)
    yield engine, first, second, expected(tied, biases=architecture == "qwen2")
    engine.close()


class TestSharedWeights:
    """Equal weights in one place, and never the other model's after a reload."""

    def test_equal_weights_are_held_once(self, alike: tuple[Any, Path, Path, set[str]]) -> None:
        """Copies that are kept, unequal weights that are shared, α that changes one of them."""
        engine, first, second, names = alike
        assert engine.llm.collective_rpc(common) == [names]
        for alpha in (0.0, 1.0, 1.7):
            engine.set_coefficients([1 - alpha, alpha])
            reference = open_engine("hf", first, second, coefficients=[1 - alpha, alpha])
            assert_same(engine, reference, prompts_of(8))

    def test_reloads(self, alike: tuple[Any, Path, Path, set[str]], tmp_path: Path) -> None:
        """One model's new weights written into the other's, or equal ones not shared again."""
        engine, first, second, names = alike
        engine.set_coefficients([-0.5, 1.5])
        unlike = save_variant(second, tmp_path / "unlike", "*", seed=3)
        for pair, wanted in (
            ((first, unlike), set()),
            ((unlike, second), set()),
            ((second, first), names),
            ((unlike, first), set()),
        ):
            engine.load_weights(*pair)
            assert engine.checksum
            assert engine.llm.collective_rpc(common) == [wanted]
            reference = open_engine("hf", pair[0], pair[1], coefficients=[-0.5, 1.5])
            assert_same(engine, reference, prompts_of(8))
