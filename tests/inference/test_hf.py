"""The HF engine against transformers' own generation and forward pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from pipeline.errors import PipelineError
from pipeline.inference.hf import engine as hf
from pipeline.inference.interface import Engine, Generation, Sampling, sampling_hash
from pipeline.inference.open import open_engine
from tests.inference.pico import prompts_of, save_model
from tests.inference.vllm_checks import assert_logprobs

GREEDY = Sampling(temperature=0, max_tokens=24)
WARM = Sampling(temperature=0.9, top_p=0.95, max_tokens=16, n=3, seed=5)


def _by_key(made: list[Generation]) -> dict[tuple[int, int], Generation]:
    found = {(g.prompt_index, g.sample): g for g in made}
    assert len(found) == len(made)
    return found


def _run(engine: Engine, prompts: list[list[int]], sampling: Sampling) -> list[tuple[int, ...]]:
    found = _by_key(list(engine.generate(prompts, sampling)))
    return [found[key].token_ids for key in sorted(found)]


@pytest.mark.parametrize("batch_size", [3, 64])
def test_greedy_equals_transformers_generate(first: Path, batch_size: int) -> None:
    """Wrong positions under padding, a row that swaps caches on eviction or on joining."""
    prompts = prompts_of(17)
    engine = open_engine("hf", first, batch_size=batch_size)
    found = _by_key(list(engine.generate(prompts, GREEDY)))
    model: Any = AutoModelForCausalLM.from_pretrained(first)
    reasons = set()
    for index, prompt in enumerate(prompts):
        wanted = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=GREEDY.max_tokens,
        )[0, len(prompt) :].tolist()
        made = found[index, 0]
        assert list(made.token_ids) == wanted
        assert made.finish_reason == ("stop" if wanted[-1] == 1 else "length")
        assert made.text == engine.tokenizer.decode(wanted, skip_special_tokens=True)
        reasons.add(made.finish_reason)
    assert reasons == {"stop", "length"}  # else the test has not seen rows leave


def test_samples_do_not_depend_on_the_batch(first: Path) -> None:
    """Draws that hang on batch size, order or which rows are already done."""
    prompts = prompts_of(12)
    whole = _by_key(list(open_engine("hf", first, batch_size=64).generate(prompts, WARM)))
    assert len({g.token_ids for g in whole.values()}) > 12
    small = _by_key(list(open_engine("hf", first, batch_size=5).generate(prompts, WARM)))
    assert small == whole
    part = open_engine("hf", first, batch_size=4).generate(
        [prompts[7], prompts[2]], WARM, keys=[7, 2], samples=[[2], [0, 1]]
    )
    got = {(g.prompt_index, g.sample): g.token_ids for g in part}
    assert got == {
        (0, 2): whole[7, 2].token_ids,
        (1, 0): whole[2, 0].token_ids,
        (1, 1): whole[2, 1].token_ids,
    }


def test_another_seed_gives_other_samples(first: Path) -> None:
    """A seed that is ignored."""
    prompts = prompts_of(6)
    engine = open_engine("hf", first)
    one = _run(engine, prompts, WARM)
    assert one == _run(engine, prompts, WARM)
    other = _run(engine, prompts, Sampling(temperature=0.9, max_tokens=16, n=3, seed=6))
    assert one != other


def test_first_tokens_follow_the_model(first: Path) -> None:
    """Samples of one prompt that share a random number, or logits of the wrong row."""
    prompts = [[4, 5, 6], [9]]
    sampling = Sampling(max_tokens=1, n=6000)
    made = open_engine("hf", first, batch_size=4096).generate(prompts, sampling)
    counts = torch.zeros(2, 32, dtype=torch.float64)
    for g in made:
        counts[g.prompt_index, g.token_ids[0]] += 1
    model = AutoModelForCausalLM.from_pretrained(first)
    for index, prompt in enumerate(prompts):
        wanted = model(torch.tensor([prompt])).logits[0, -1].detach().double().softmax(0) * 6000
        large = wanted >= 5
        statistic = ((counts[index] - wanted)[large] ** 2 / wanted[large]).sum()
        assert statistic < 61.1  # chi-square of 31 degrees (at most), p = 0.001


@pytest.mark.parametrize("elements", [1 << 27, 1 << 8])
def test_scores_equal_a_plain_forward(
    first: Path, monkeypatch: pytest.MonkeyPatch, elements: int
) -> None:
    """Scores shifted by one, mixed up by sorting, or wrong where a chunk begins."""
    monkeypatch.setattr(hf, "SCORE_ELEMENTS", elements)
    prompts, responses = prompts_of(9, seed=1), prompts_of(9, seed=2, longest=20)
    responses[4] = []
    got = open_engine("hf", first, batch_size=4).score(prompts, responses)
    model = AutoModelForCausalLM.from_pretrained(first)
    for prompt, response, row in zip(prompts, responses, got, strict=True):
        logits = model(torch.tensor([prompt + response])).logits[0].detach()
        wanted = logits.log_softmax(-1)[len(prompt) - 1 : -1][torch.arange(len(response)), response]
        torch.testing.assert_close(torch.tensor(row), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("speculative", [None, 0, 3])
def test_logprobs_of_draws_equal_their_scores(
    first: Path, second: Path, speculative: int | None
) -> None:
    """A log-prob of another row after rows have left, or of the draft instead of the mixture."""
    models = [first] if speculative is None else [first, second]
    factors = None if speculative is None else [-0.7, 1.7]
    engine = open_engine(
        "hf", *models, coefficients=factors, batch_size=5, speculative=speculative or 0
    )
    assert_logprobs(engine, prompts_of(9), tolerance=2e-4)


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_other_architectures(tmp_path: Path, architecture: str) -> None:
    """Anything that holds for Qwen2 alone."""
    folder = save_model(tmp_path / architecture, seed=3, architecture=architecture, tied=False)
    prompts = prompts_of(5)
    engine = open_engine("hf", folder, batch_size=8)
    together = _run(engine, prompts, GREEDY)
    assert together == [_run(engine, [prompt], GREEDY)[0] for prompt in prompts]


def test_load_weights_is_the_other_model(first: Path, second: Path) -> None:
    """Weights of the model before that survive a load."""
    prompts = prompts_of(6)
    engine = open_engine("hf", first)
    before = _run(engine, prompts, GREEDY)
    engine.load_weights(second)
    fresh = open_engine("hf", second)
    after = _run(engine, prompts, GREEDY)
    assert after == _run(fresh, prompts, GREEDY) != before
    assert engine.score(prompts, prompts) == fresh.score(prompts, prompts)


def test_sampling_hash_ignores_only_n() -> None:
    """Rows of another temperature taken for these, or all samples redone when n grows."""
    base = Sampling()
    assert sampling_hash(base) == sampling_hash(Sampling(n=9))
    changed = [
        Sampling(temperature=0.5),
        Sampling(top_p=0.5),
        Sampling(top_k=5),
        Sampling(max_tokens=5),
        Sampling(seed=5),
    ]
    assert len({sampling_hash(s) for s in [base, *changed]}) == 6


def test_errors_are_one_line_that_names_the_mend(first: Path, tmp_path: Path) -> None:
    """A traceback from deep inside torch for a mistake of the user's."""
    with pytest.raises(PipelineError, match=r"no config\.json"):
        open_engine("hf", tmp_path)
    with pytest.raises(PipelineError, match="one of hf, vllm"):
        open_engine("tgi", first)
    with pytest.raises(PipelineError, match=r"engine\.dtype=int3"):
        open_engine("hf", first, dtype="int3")
    with pytest.raises(PipelineError, match="top_p"):
        Sampling(top_p=1.5)
    engine = open_engine("hf", first)
    with pytest.raises(PipelineError, match="prompt 1 has no tokens"):
        list(engine.generate([[3], []], GREEDY))
    with pytest.raises(PipelineError, match="the engine holds one model, whose is 1"):
        engine.set_coefficients([-0.5, 1.5])
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(PipelineError, match="cannot load this model"):
        open_engine("hf", tmp_path)


def test_learned_positions(first: Path, tmp_path: Path) -> None:
    """Positions counted from the padding: rotary models forgive it, learned positions do not."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=32, n_positions=64, n_embd=32, n_layer=2, n_head=2, initializer_range=0.3,
        bos_token_id=1, eos_token_id=1,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((first / name).read_bytes())
    prompts = prompts_of(8)
    together = _run(open_engine("hf", tmp_path, batch_size=3), prompts, GREEDY)
    single = open_engine("hf", tmp_path)
    assert together == [_run(single, [prompt], GREEDY)[0] for prompt in prompts]
