"""Logit extrapolation on the HF engine against the single models and a direct computation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from pipeline.errors import PipelineError
from pipeline.inference.interface import Engine, Sampling
from pipeline.inference.open import open_engine
from tests.inference.pico import prompts_of, save_model

GREEDY = Sampling(temperature=0, max_tokens=16)
WARM = Sampling(temperature=0.8, top_p=0.9, max_tokens=16, n=2, seed=3)


def _run(engine: Engine, sampling: Sampling) -> list[tuple[int, ...]]:
    made = sorted(
        engine.generate(prompts_of(9), sampling), key=lambda g: (g.prompt_index, g.sample)
    )
    return [g.token_ids for g in made]


@pytest.mark.parametrize("alpha", [0.0, 1.0])
@pytest.mark.parametrize("sampling", [GREEDY, WARM])
def test_ends_are_the_single_models(
    first: Path, second: Path, alpha: float, sampling: Sampling
) -> None:
    """The two models swapped, sharing a cache, or rounded on the way through the mixture."""
    mixed = open_engine("hf", first, second, coefficients=[1 - alpha, alpha], batch_size=6)
    single = open_engine("hf", second if alpha else first, batch_size=6)
    assert _run(mixed, sampling) == _run(single, sampling)
    prompts = prompts_of(4, seed=8)
    assert mixed.score(prompts, prompts) == single.score(prompts, prompts)


@pytest.mark.parametrize("alpha", [-0.5, 0.5, 1.7])
def test_greedy_and_scores_equal_the_direct_computation(
    first: Path, second: Path, alpha: float
) -> None:
    """A mixture of probabilities or log-probabilities instead of logits, or a stale cache."""
    engine = open_engine("hf", first, second, batch_size=4)
    engine.set_coefficients([1 - alpha, alpha])
    models = [AutoModelForCausalLM.from_pretrained(path) for path in (first, second)]
    prompts = prompts_of(9)
    made = _run(engine, GREEDY)
    scores = engine.score(prompts, made)
    for prompt, response, row in zip(prompts, made, scores, strict=True):
        l0, l1 = (m(torch.tensor([[*prompt, *response]])).logits[0].detach() for m in models)
        mixed = (l0 + alpha * (l1 - l0))[len(prompt) - 1 : -1]
        assert mixed.argmax(-1).tolist() == list(response)
        wanted = mixed.log_softmax(-1)[torch.arange(len(response)), list(response)]
        torch.testing.assert_close(torch.tensor(row), wanted, atol=2e-5, rtol=0)


def test_alpha_changes_what_is_sampled(first: Path, second: Path) -> None:
    """An α that is set and not used."""
    engine = open_engine("hf", first, second, coefficients=[1, 0])
    runs = []
    for alpha in (0.0, 0.7, 2.0):
        engine.set_coefficients([1 - alpha, alpha])
        runs.append(_run(engine, GREEDY))
    assert len({tuple(run) for run in runs}) == 3


def test_load_weights_replaces_the_pair(first: Path, second: Path) -> None:
    """Only one of the two models exchanged."""
    engine = open_engine("hf", first, second, coefficients=[-0.5, 1.5])
    engine.load_weights(second, first)
    assert _run(engine, WARM) == _run(
        open_engine("hf", second, first, coefficients=[-0.5, 1.5]), WARM
    )
    with pytest.raises(PipelineError, match="one source for each"):
        engine.load_weights(first)


def test_vocabularies_must_agree(first: Path, tmp_path: Path) -> None:
    """Logits of different tokens added."""
    model = AutoModelForCausalLM.from_pretrained(save_model(tmp_path / "a", seed=4))
    model.resize_token_embeddings(40)
    model.save_pretrained(tmp_path / "a")
    with pytest.raises(PipelineError, match="a vocabulary of 40 tokens, and"):
        open_engine("hf", first, tmp_path / "a")
    with pytest.raises(PipelineError, match="vocabularies of"):
        open_engine("hf", first, first).load_weights(first, tmp_path / "a")
