"""Faults caught: prompts that no engine or two answer, results given to other prompts, an engine
with old weights, a call that hears the rest of the last one, and a death without a word."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.inference.crew import EngineCrew
from pipeline.inference.interface import Sampling
from pipeline.inference.open import open_engine
from pipeline.trajectory.recipe import Recipe
from tests.inference.pico import one_gpu, prompts_of

pytestmark = one_gpu

SAMPLING = Sampling(max_tokens=6, n=3, seed=2)


@pytest.fixture(scope="module")
def crew(first: Path) -> Iterator[EngineCrew]:
    two = EngineCrew(2, {"name": "hf", "models": [str(first)], "dtype": "float32", "batch_size": 8})
    yield two
    two.close()


def test_two_engines_answer_as_one(crew: EngineCrew, first: Path, second: Path) -> None:
    one, prompts = open_engine("hf", first, batch_size=8), prompts_of(7)
    recipe = Recipe((first, second), [0.0, 1.5], dtype="float32")
    keys, samples = list(range(100, 107)), [[0, 2], [1], [], [0], [2], [0, 1, 2], [1]]
    for source in (first, recipe, second):
        for engine in (one, crew):
            engine.load_weights(source)
        made = [
            sorted(engine.generate(prompts, SAMPLING, keys=keys, samples=samples), key=_place)
            for engine in (one, crew)
        ]
        assert len(made[0]) == 9
        assert made[0] == made[1]
        responses = [[4, 5, 6][: 1 + index % 3] for index in range(7)]
        scores = [engine.score(prompts, responses) for engine in (one, crew)]
        assert [len(row) for row in scores[1]] == [len(row) for row in responses]
        flat = [torch.tensor([s for row in found for s in row]) for found in scores]
        torch.testing.assert_close(flat[0], flat[1], atol=1e-5, rtol=0)
    assert crew.tokenizer("5")["input_ids"] == one.tokenizer("5")["input_ids"]


def _place(made: object) -> tuple[int, int]:
    return made.prompt_index, made.sample  # type: ignore[attr-defined]


def test_a_call_that_is_left_early(crew: EngineCrew) -> None:
    listening = crew.generate(prompts_of(6), SAMPLING)
    next(listening)
    listening.close()  # type: ignore[attr-defined]
    made = list(crew.generate(prompts_of(5), SAMPLING))
    assert sorted(map(_place, made)) == [(i, s) for i in range(5) for s in range(3)]


def test_an_engine_that_says_no(first: Path) -> None:
    one = EngineCrew(1, {"name": "hf", "models": [str(first)]})
    with pytest.raises(PipelineError, match="the engine holds one model"):
        one.set_coefficients([-0.5, 1.5])


def test_an_engine_that_dies(crew: EngineCrew) -> None:
    """The last test of this file."""
    os.kill(crew._processes[1].pid, signal.SIGKILL)
    with pytest.raises(PipelineError, match="engine 1 of 2 ended with code -9"):
        list(crew.generate(prompts_of(4), SAMPLING))
