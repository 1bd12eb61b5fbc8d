"""The vLLM engine against the HF engine: one model, its weights replaced, and mixtures.

One engine at a time: each is started by the first test that needs it and closed before the next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from pipeline.errors import PipelineError
from pipeline.inference.interface import Sampling
from pipeline.inference.open import open_engine
from pipeline.inference.run import PromptItem, sample_to_jsonl
from pipeline.trajectory.export import export_base
from pipeline.trajectory.plan import make_plan
from pipeline.trajectory.recipe import Recipe, recipes
from pipeline.trajectory.recipe_weights import checkpoint_tensors
from pipeline.trajectory.rule import make_rule
from pipeline.trajectory.sources import discover
from tests.inference.pico import prompts_of, save_model
from tests.inference.vllm_checks import GREEDY, OPTIONS, assert_same, run

pytest.importorskip("vllm", reason="vLLM is not installed")
pytestmark = pytest.mark.vllm


@pytest.fixture(scope="class")
def single(first: Path) -> Iterator[Any]:
    """One Qwen2 model with tied embeddings."""
    engine = open_engine("vllm", first, **OPTIONS)
    yield engine
    engine.close()


def reload_halfway(worker: Any, folder: str) -> str:
    """In the worker: reload without packing the heads again; what the checksum says of it."""
    from pipeline.inference.vllm.checksum import compare, counted, read_back

    model, dtype = worker.model_runner.get_model(), worker.model_runner.model_config.dtype
    fed: Counter[str] = Counter()
    stream = counted(checkpoint_tensors(Path(folder)), fed, dtype, tied=True)
    worker.model_runner.reload_weights(weights_iterator=stream)
    try:
        sums = read_back(model, dtype)
        assert sums is not None
        compare(fed, [sums], folder)
    except PipelineError as error:
        return str(error)
    return ""


class TestSingle:
    """One model on the engine."""

    def test_equals_hf(self, single: Any, first: Path) -> None:
        """Token ids mistaken for text, scores shifted by one, outputs given to other prompts."""
        assert_same(single, open_engine("hf", first), prompts_of(20))
        made = list(single.generate(prompts_of(20), GREEDY))
        assert {g.finish_reason for g in made} == {"stop", "length"}
        for g in made:
            assert (g.finish_reason == "stop") == (g.token_ids[-1] == 1)
            assert g.text == single.tokenizer.decode(g.token_ids, skip_special_tokens=True)

    def test_samples(self, single: Any, first: Path) -> None:
        """Samples of a prompt that are copies, a wrong distribution."""
        prompts, sampling = [[4, 5, 6]], Sampling(max_tokens=1, n=3000, seed=1)
        made = run(single, prompts, sampling)
        counts = torch.bincount(torch.tensor(made)[:, 0], minlength=32).double()
        model = AutoModelForCausalLM.from_pretrained(first)
        wanted = model(torch.tensor(prompts)).logits[0, -1].detach().double().softmax(0) * 3000
        large = wanted >= 5
        statistic = ((counts - wanted)[large] ** 2 / wanted[large]).sum()
        assert statistic < 61.1  # chi-square of 31 degrees (at most), p = 0.001

    def test_an_interrupted_run_goes_on(self, single: Any, tmp_path: Path) -> None:
        """Samples made twice, or requests of the abandoned call that answer the next one."""
        items = [PromptItem("t", "test", f"p{i}", tuple(p)) for i, p in enumerate(prompts_of(6))]
        sampling = Sampling(max_tokens=8, n=4)
        listening = single.generate([item.token_ids for item in items], sampling)
        next(listening)
        listening.close()
        out = tmp_path / "generations.jsonl"
        names: dict[str, Any] = {"model": "base", "kind": "base", "fingerprint": "f"}
        assert sample_to_jsonl(single, items[:2], sampling, out, **names) == 8
        assert sample_to_jsonl(single, items, sampling, out, **names) == 16

    def test_too_long_a_prompt_is_named(self, single: Any) -> None:
        """Responses cut short without a word."""
        with pytest.raises(PipelineError, match=r"engine\.max_model_len"):
            list(single.generate([[5] * 380], GREEDY))

    def test_load_weights(self, single: Any, first: Path, second: Path) -> None:
        """Old weights in any layer, the tied head above all, or a prefix cache of the old model."""
        for folder in (second, first, second):
            single.load_weights(folder)
            assert single.checksum
            assert_same(single, open_engine("hf", folder), prompts_of(8))

    def test_the_checksum_sees_a_stale_head(self, single: Any, first: Path, second: Path) -> None:
        """A checksum that cannot fail."""
        single.load_weights(first)
        before = single.checksum
        [said] = single.llm.collective_rpc(reload_halfway, args=(str(second),))
        assert said.startswith(f"vLLM kept old weights in layer lm_head of {second}")
        single.load_weights(second)
        assert set(single.checksum.items()).isdisjoint(before.items())

    def test_recipe(self, single: Any, first: Path, second: Path) -> None:
        """Extrapolated weights that differ from HF's."""
        reference = open_engine("hf", first)
        for alpha in (1.5, -0.5):
            recipe = Recipe((first, second), [0.0, alpha], dtype="float32")
            single.load_weights(recipe)
            reference.load_weights(recipe)
            assert_same(single, reference, prompts_of(8))

    def test_a_tied_engine_refuses_a_head_of_its_own(self, single: Any, tmp_path: Path) -> None:
        """A head that vLLM passes over without a word."""
        untied = save_model(tmp_path / "untied", seed=3, tied=False)
        for source in (untied, Recipe((untied,), [1.0], dtype="float32")):
            with pytest.raises(PipelineError, match="its head differs from its embedding"):
                single.load_weights(source)


class TestUntied:
    """An engine on a base whose head was made a tensor of its own, as an untied run asks for."""

    def test_both_tensors_are_used(self, first: Path, tmp_path: Path) -> None:
        """A head that is still the embedding, or another model's, since vLLM ties by the config."""
        untied = save_model(tmp_path / "run/step_10", seed=3, tied=False)
        trajectory = discover(tmp_path / "run", first)
        export_base(trajectory, tmp_path / "start")
        [recipe] = recipes(
            [make_plan(trajectory, make_rule("two_point"), 0, 10, [20], ["*norm*"], "float32")]
        )[0].values()
        engine: Any = open_engine("vllm", tmp_path / "start", **OPTIONS)
        try:
            assert_same(engine, open_engine("hf", first), prompts_of(8))
            for source in (untied, recipe, first):
                engine.load_weights(source)
                assert engine.checksum
                reference = open_engine("hf", first)
                reference.load_weights(source)
                assert_same(engine, reference, prompts_of(8))
        finally:
            engine.close()


@pytest.fixture(scope="class", params=[("llama", False), ("qwen3", True), ("qwen2", True)])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Any, Path, Path]]:
    """Two checkpoints on one engine, with a cache so small that requests are pre-empted, prompts
    read in pieces, and prefixes shared."""
    architecture, tied = request.param
    folder = tmp_path_factory.mktemp(architecture)
    first = save_model(folder / "first", 1, architecture, tied)
    second = save_model(folder / "second", 2, architecture, tied)
    options = {**OPTIONS, "kv_cache_gib": 0.0005, "max_num_batched_tokens": 64}
    engine = open_engine("vllm", first, second, disable_log_stats=False, **options)
    yield engine, first, second
    engine.close()


class TestPair:
    """Two models in lockstep."""

    @pytest.mark.parametrize("alpha", [0.0, 1.0])
    def test_ends_are_the_single_models(self, pair: tuple[Any, Path, Path], alpha: float) -> None:
        """Caches shared between the models, models swapped."""
        engine, first, second = pair
        engine.set_coefficients([1 - alpha, alpha])
        assert_same(engine, open_engine("hf", second if alpha else first), prompts_of(12))

    @pytest.mark.parametrize("alpha", [0.5, 1.7])
    def test_between_and_beyond_equal_hf(self, pair: tuple[Any, Path, Path], alpha: float) -> None:
        """Anything but l0 + alpha (l1 - l0) mixed."""
        engine, first, second = pair
        engine.set_coefficients([1 - alpha, alpha])
        assert_same(
            engine,
            open_engine("hf", first, second, coefficients=[1 - alpha, alpha]),
            prompts_of(12),
        )

    def test_preemption_chunks_and_shared_prefixes(self, pair: tuple[Any, Path, Path]) -> None:
        """A cache block of one model freed, reused or shared without the other's."""
        engine, first, second = pair
        engine.set_coefficients([-0.5, 1.5])
        # six blocks of 32 tokens are shared; each response fills three more of its own
        prefix = [2 + i * i % 29 for i in range(200)]
        prompts = [prefix + prompt for prompt in prompts_of(14)]
        sampling = Sampling(temperature=0, max_tokens=100, n=2)
        reference = open_engine("hf", first, second, coefficients=[-0.5, 1.5])
        made = run(engine, prompts, sampling)
        assert made == run(reference, prompts, sampling)
        assert made[::2] == made[1::2]
        counters = {m.name: getattr(m, "value", 0) for m in engine.llm.get_metrics()}
        assert counters["vllm:num_preemptions"] > 0
        assert counters["vllm:prefix_cache_hits"] > 0

    def test_load_weights_replaces_both(self, pair: tuple[Any, Path, Path]) -> None:
        """One of the two models left as it was."""
        engine, first, second = pair
        engine.set_coefficients([-0.5, 1.5])
        engine.load_weights(second, first)
        assert engine.checksum
        assert_same(
            engine, open_engine("hf", second, first, coefficients=[-0.5, 1.5]), prompts_of(8)
        )
        with pytest.raises(PipelineError, match=r"holds 2 model\(s\)"):
            engine.load_weights(first)
