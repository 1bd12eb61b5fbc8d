"""Accuracy of the model in training on a few fixed problems: to judge a jump of re-grounding by,
and for a curve over the run.

With the same seed the same problems are answered with the same random numbers, so that two
figures differ by the weights and by little else. The random state of training is left as it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from accelerate import PartialState
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pipeline.tasks import Problem
from pipeline.training.agreement import summed
from pipeline.training.metrics import MetricsCallback
from pipeline.training.trl_trainers import RLOOTrainer

Right = Callable[[list[tuple[Problem, str]]], list[bool]]


class Accuracy:
    """Call it with a seed for the share of right responses, over all ranks; a collective.

    Args:
        trainer: TRL's; its own generation (transformers or vLLM) is used.
        problems: the same on every rank, which answers its share of them.
        right: grades (problem, response) pairs.
        samples: responses to each problem.
        batch: responses at once on one rank.
    """

    def __init__(
        self, trainer: Any, problems: list[Problem], right: Right, samples: int, batch: int
    ) -> None:
        state = PartialState()
        self.trainer = trainer
        self.right = right
        self.batch = batch
        posed = [problem for problem in problems for _ in range(samples)]
        # every rank generates equally often: under ZeRO 3 it is a collective
        even = len(posed) - len(posed) % state.num_processes
        self.mine = posed[state.process_index : even : state.num_processes]

    def __call__(self, seed: int) -> float:
        state = PartialState()
        with torch.random.fork_rng(
            [torch.cuda.current_device()] if state.device.type == "cuda" else []
        ):
            torch.manual_seed(1_000_003 * seed + state.process_index)
            said = [
                text
                for at in range(0, len(self.mine), self.batch)
                for text in self._answers(self.mine[at : at + self.batch])
            ]
        right = sum(self.right(list(zip(self.mine, said, strict=True))))
        counts = summed(torch.tensor([right, len(self.mine)], dtype=torch.float64))
        return float(counts[0] / counts[1])

    def _answers(self, problems: list[Problem]) -> list[str]:
        trainer = self.trainer
        if trainer.use_vllm:
            trainer._last_loaded_step = -1  # the engine has the weights of another moment
        ids, images, fields = trainer._tokenize_prompts([p.prompt for p in problems])
        if isinstance(trainer, RLOOTrainer):
            groups, trainer.num_generations = trainer.num_generations, 1  # it asks for no other
            try:
                completions = trainer._generate_single_turn(ids, images, fields)
            finally:
                trainer.num_generations = groups
        else:
            completions, _ = trainer._generate_single_turn(ids, images, fields, num_generations=1)
        if trainer.use_vllm:
            trainer._last_loaded_step = -1  # nor will it have those that a jump leaves
        tokenizer = trainer.processing_class
        texts: list[str] = tokenizer.batch_decode(completions, skip_special_tokens=True)
        return texts


class ValidationCallback(TrainerCallback):
    """Puts validation_accuracy into the metrics of every `every`-th step, behind its jump.

    All of them use the random numbers of one seed. Its seconds are not counted as the step's: they
    are in validation_seconds.
    """

    def __init__(
        self, every: int, updates: int, accuracy: Accuracy, metrics: MetricsCallback, seed: int
    ) -> None:
        self.every = every * updates
        self.accuracy = accuracy
        self.metrics = metrics
        self.seed = seed

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step % self.every:
            return
        began = time.monotonic()
        value = self.accuracy(self.seed)
        seconds = time.monotonic() - began
        self.metrics.add({"validation_accuracy": value, "validation_seconds": seconds}, seconds)
