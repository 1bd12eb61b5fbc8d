"""What the tests of the vLLM engine share: its comparison with the HF engine."""

from __future__ import annotations

from typing import Any

import torch

from pipeline.inference.interface import Engine, Sampling

GREEDY = Sampling(temperature=0, max_tokens=12)
OPTIONS: dict[str, Any] = {"batch_size": 16, "kv_cache_gib": 0.05, "max_model_len": 384}


def run(engine: Engine, prompts: list[list[int]], sampling: Sampling) -> list[tuple[int, ...]]:
    """Token ids of the responses, in order."""
    made = sorted(engine.generate(prompts, sampling), key=lambda g: (g.prompt_index, g.sample))
    assert len(made) == len(prompts) * sampling.n
    return [g.token_ids for g in made]


def assert_logprobs(engine: Engine, prompts: list[list[int]], tolerance: float) -> None:
    """The log-probs of drawn responses are those that scoring gives them (greedy ones: 0)."""
    made = list(engine.generate(prompts, Sampling(max_tokens=12, n=2)))
    scores = engine.score(
        [prompts[g.prompt_index] for g in made], [list(g.token_ids) for g in made]
    )
    wanted = torch.tensor([sum(row) for row in scores])
    torch.testing.assert_close(
        torch.tensor([g.logprob for g in made]), wanted, atol=tolerance, rtol=0
    )
    assert {g.logprob for g in engine.generate(prompts, GREEDY)} == {0.0}


def assert_same(engine: Engine, reference: Engine, prompts: list[list[int]]) -> None:
    """Greedy tokens equal; log-probs of both the greedy and other text within 1e-3."""
    made = run(reference, prompts, GREEDY)
    assert run(engine, prompts, GREEDY) == made
    for texts in (made, [prompt[::-1] for prompt in prompts]):
        found, wanted = engine.score(prompts, texts), reference.score(prompts, texts)
        assert [len(row) for row in found] == [len(text) for text in texts]
        torch.testing.assert_close(
            torch.tensor([value for row in found for value in row]),
            torch.tensor([value for row in wanted for value in row]),
            atol=1e-3,
            rtol=0,
        )
    assert_logprobs(engine, prompts, tolerance=2e-3)
