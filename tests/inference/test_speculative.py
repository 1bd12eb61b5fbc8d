"""Speculative sampling: exact for the mixture, whatever is drafted, rolled back or batched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, Qwen2Config
from transformers import Qwen2ForCausalLM as Qwen2

from pipeline.errors import PipelineError
from pipeline.inference.hf import mixture, speculative
from pipeline.inference.hf.speculative import Draft, judge
from pipeline.inference.interface import Sampling
from pipeline.inference.open import open_engine
from tests.inference.pico import SIZE, prompts_of, save_tokenizer

GREEDY = Sampling(temperature=0, max_tokens=24)
WARM = Sampling(temperature=0.9, top_p=0.9, max_tokens=16, n=2, seed=3)
Found = dict[tuple[int, int], tuple[int, ...]]


def _run(engine: Any, prompts: list[list[int]], sampling: Sampling, **options: Any) -> Found:
    made = list(engine.generate(prompts, sampling, **options))
    found = {(g.prompt_index, g.sample): g.token_ids for g in made}
    assert len(found) == len(made)
    return found


def _of_first(found: Found, prompts: int) -> Found:
    return {place: tokens for place, tokens in found.items() if place[0] < prompts}


def _truncated(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Temperature, top-k, top-p of one distribution [vocabulary], token by token, in fp64."""
    probabilities = (logits.double() / sampling.temperature).softmax(0)
    order = probabilities.argsort(descending=True).tolist()[: sampling.top_k or None]
    mass = sum(float(probabilities[i]) for i in order)
    held, wanted = 0.0, torch.zeros_like(probabilities)
    for index in order:
        if held >= sampling.top_p:
            break
        wanted[index] = probabilities[index]
        held += float(probabilities[index]) / mass
    return wanted / wanted.sum()


class _Mixture:
    """The mixture computed without any of the engine: plain forward passes, no cache."""

    def __init__(self, first: Path, second: Path, alpha: float) -> None:
        self.models = [AutoModelForCausalLM.from_pretrained(path) for path in (first, second)]
        self.alpha = alpha

    @torch.inference_mode()
    def law(
        self, prompt: list[int], length: int, sampling: Sampling
    ) -> dict[tuple[int, ...], float]:
        """Probability of every response of at most `length` tokens that can be drawn."""
        known: dict[tuple[int, ...], float] = {(): 1.0}
        for _ in range(length):
            open_ones = [text for text in known if not text or text[-1] != 1]
            ids = torch.tensor([[*prompt, *text] for text in open_ones])
            l0, l1 = (model(ids).logits[:, -1] for model in self.models)
            for text, logits in zip(open_ones, l0 + self.alpha * (l1 - l0), strict=True):
                mass = known.pop(text)
                following = _truncated(logits, sampling)
                for token in following.nonzero()[:, 0].tolist():
                    known[*text, token] = mass * float(following[token])
        return known


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.5, 3.0])
@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_three_tokens_follow_the_mixture(
    first: Path, second: Path, monkeypatch: pytest.MonkeyPatch, alpha: float, top_p: float
) -> None:
    """A verdict or replacement from the wrong distribution, truncation of only one of p and q,
    a random number used twice, a cache that keeps what was rejected.
    """
    monkeypatch.setattr(speculative, "BUSY_ROWS", 1 << 20)
    count, prompt = 16_000, [4, 5, 6]
    sampling = Sampling(top_p=top_p, max_tokens=3, n=count, seed=11)
    engine: Any = open_engine(
        "hf", first, second, coefficients=[1 - alpha, alpha], speculative=2, batch_size=4000
    )
    seen: dict[tuple[int, ...], int] = {}
    for response in _run(engine, [prompt], sampling).values():
        seen[response] = seen.get(response, 0) + 1
    law = _Mixture(first, second, alpha).law(prompt, 3, sampling)
    assert sum(law.values()) == pytest.approx(1)
    assert set(seen) <= set(law)
    statistic, cells, rest, rest_seen = 0.0, 0, 0.0, 0
    for response, probability in law.items():
        expected, got = probability * count, seen.get(response, 0)
        if expected >= 5:
            statistic += (got - expected) ** 2 / expected
            cells += 1
        else:
            rest, rest_seen = rest + expected, rest_seen + got
    statistic += (rest_seen - rest) ** 2 / max(rest, 5.0)
    assert cells >= 15
    assert statistic < cells + 3.7 * (2 * cells) ** 0.5 + 5  # chi-square, p about 0.0005
    if alpha != 1:
        assert engine.statistics["rejected"] > 500  # else nothing was tested


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=0.6),
        Sampling(top_p=0.7),
        Sampling(temperature=1.3, top_k=3, top_p=0.9),
    ],
)
def test_verdicts_give_the_target_exactly(sampling: Sampling) -> None:
    """Integrated over all random numbers on a grid, not sampled: bias of any size above 1/300."""
    grid, size = 300, 6
    generator = torch.Generator().manual_seed(1)
    drafter, target = torch.randn(2, size, generator=generator) * 1.5
    q, p = _truncated(drafter, sampling), _truncated(target, sampling)
    points = (torch.arange(grid, dtype=torch.float64) + 0.5) / grid
    uniform = torch.cartesian_prod(points, points).T[:, :, None]
    law = torch.zeros(size, dtype=torch.float64)
    for token in q.nonzero()[:, 0].tolist():
        rows = grid * grid
        draft = Draft(
            torch.full((rows, 1), token),
            drafter.expand(rows, 1, -1),
            q.float().expand(rows, 1, -1),
        )
        tokens, _, accepted = judge(draft, target.expand(rows, 1, -1), uniform, sampling)
        law += q[token] * torch.bincount(tokens[:, 0], minlength=size) / rows
        share = float(accepted.double().mean())
        assert share == pytest.approx(float((p / q)[token].clamp(max=1)), abs=1 / grid)
    torch.testing.assert_close(law, p, atol=2 / grid, rtol=0)


def test_equal_distributions_need_no_replacement() -> None:
    """A replacement drawn from nothing where p and q differ by rounding alone."""
    logits = torch.tensor([0.0, 1.0, 2.0, 0.5]).expand(1, 1, -1)
    q = logits.softmax(-1) * (1 + 1e-6)
    uniform = torch.full((2, 1, 1), 1 - 2.0**-52, dtype=torch.float64)
    for token in range(4):
        tokens, _, _ = judge(Draft(torch.tensor([[token]]), logits, q), logits, uniform, Sampling())
        assert 0 <= int(tokens) < 4


@pytest.mark.parametrize("alpha", [0.6, 1.5, 3.0])
@pytest.mark.parametrize("waste", [1.0, 100.0])
def test_greedy_equals_lockstep(
    first: Path, second: Path, monkeypatch: pytest.MonkeyPatch, alpha: float, waste: float
) -> None:
    """Positions under padding and gaps, gaps not closed or closed wrongly, rows that join or
    leave with another's cache, text past an end-of-text token or the limit.
    """
    monkeypatch.setattr(mixture, "WASTE", waste)
    prompts = prompts_of(17)
    lockstep = open_engine("hf", first, second, coefficients=[1 - alpha, alpha], batch_size=6)
    wanted = _run(lockstep, prompts, GREEDY)
    assert len({len(tokens) for tokens in wanted.values()}) > 1
    for length, batch, count in [(3, 6, 17), (8, 4, 17), (4, 1, 4)]:
        engine: Any = open_engine(
            "hf",
            first,
            second,
            coefficients=[1 - alpha, alpha],
            speculative=length,
            batch_size=batch,
        )
        assert _run(engine, prompts[:count], GREEDY) == _of_first(wanted, count)
        assert engine.statistics["rejected"] > 0


@pytest.mark.parametrize("sampling", [GREEDY, WARM, Sampling(max_tokens=12, n=2, top_k=4)])
def test_everything_stands_at_alpha_one(first: Path, second: Path, sampling: Sampling) -> None:
    """A drafter that is not l1, or p and q that are processed differently."""
    prompts = prompts_of(9)
    wanted = _run(open_engine("hf", first, second, batch_size=5), prompts, sampling)
    engine: Any = open_engine("hf", first, second, speculative=4, batch_size=5)
    assert _run(engine, prompts, sampling) == wanted
    made = sum(len(tokens) for tokens in wanted.values())
    assert engine.statistics["rejected"] == 0
    assert engine.statistics["accepted"] == engine.statistics["drafted"] == made - len(wanted)


def test_responses_do_not_depend_on_length_or_batch(
    first: Path, second: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random numbers that hang on the round, the batch or on what ran before (resume)."""
    prompts = prompts_of(12)

    def engine(length: int, batch: int) -> Any:
        return open_engine(
            "hf", first, second, coefficients=[-0.5, 1.5], speculative=length, batch_size=batch
        )

    whole = _run(engine(1, 64), prompts, WARM)
    assert len(set(whole.values())) > 12
    for length, batch, count in [(2, 64, 12), (3, 5, 12), (8, 4, 12), (5, 1, 3)]:
        made = _run(engine(length, batch), prompts[:count], WARM)
        assert made == _of_first(whole, count)
    monkeypatch.setattr(speculative, "BUSY_ROWS", 3)  # length changes as rows leave
    assert _run(engine(6, 9), prompts, WARM) == whole
    part = _run(engine(4, 3), [prompts[7], prompts[2]], WARM, keys=[7, 2], samples=[[1], [0, 1]])
    assert part == {(0, 1): whole[7, 1], (1, 0): whole[2, 0], (1, 1): whole[2, 1]}
    other = _run(engine(4, 8), prompts, Sampling(temperature=0.9, top_p=0.9, max_tokens=16, n=2))
    assert other != whole


def test_learned_positions(tmp_path: Path) -> None:
    """Positions of a drafted chunk counted from the padding or over a gap."""
    folders = []
    for seed in range(2):
        torch.manual_seed(seed)
        config = GPT2Config(
            vocab_size=SIZE, n_positions=64, n_embd=32, n_layer=2, n_head=2,
            initializer_range=0.3, bos_token_id=1, eos_token_id=1,
        )  # fmt: skip
        folders.append(tmp_path / str(seed))
        GPT2LMHeadModel(config).save_pretrained(folders[-1])
        save_tokenizer(folders[-1])
    options: dict[str, Any] = {"coefficients": [-0.4, 1.4], "batch_size": 3}
    prompts = prompts_of(10)
    wanted = _run(open_engine("hf", *folders, **options), prompts, GREEDY)
    engine = open_engine("hf", *folders, speculative=4, **options)
    assert _run(engine, prompts, GREEDY) == wanted


def test_errors_name_the_mend(first: Path, second: Path, tmp_path: Path) -> None:
    """An option that is silently ignored, or a cache that cannot be rolled back."""
    for name, models in (("hf", [first]), ("vllm", [first]), ("vllm", [first, second])):
        with pytest.raises(PipelineError, match="only the hf engine with two models"):
            open_engine(name, *models, speculative=4)
    with pytest.raises(PipelineError, match="at least 1 token"):
        open_engine("hf", first, second, speculative=-1)
    config = Qwen2Config(
        vocab_size=SIZE, hidden_size=32, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, use_sliding_window=True,
        sliding_window=4, max_window_layers=0, eos_token_id=1,
    )  # fmt: skip
    Qwen2(config).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    engine = open_engine("hf", tmp_path, tmp_path, speculative=2)
    with pytest.raises(PipelineError, match="cannot be rolled back"):
        list(engine.generate([[3, 4]], GREEDY))
