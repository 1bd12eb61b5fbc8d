"""Problems as the rows that TRL's trainers read, in an order fixed before the run starts.

The order is a chain of seeded permutations of the problems. A run is one pass over it, however
often each problem comes up, so resuming means skipping rows: no sampler state, and a longer run
starts with exactly the rows of a shorter one.
"""

from __future__ import annotations

import random

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from pipeline.errors import PipelineError
from pipeline.tasks import Problem, encode_prompt, keep_short, load_problems, training_rows
from pipeline.training.spec import SftSpec, Spec


def order(problems: int, rows: int, seed: int) -> list[int]:
    """`rows` indices into `problems` problems: each permutation is used up before the next."""
    rng = random.Random(seed)
    indices: list[int] = []
    while len(indices) < rows:
        indices.extend(rng.sample(range(problems), problems))
    return indices[:rows]


def load_split(spec: Spec, split: str, count: int | None) -> list[Problem]:
    """`count` problems (None: all) of a split of the task."""
    return load_problems(spec.task, split, count, spec.seed)


def training_problems(spec: Spec, tokenizer: PreTrainedTokenizerBase) -> list[Problem]:
    """The problems to train on, without prompts longer than `task.max_prompt_tokens` tokens.

    Raises:
        PipelineError: nothing is left, or the tokenizer has no token for a character of a prompt
            or answer (a byte-level tokenizer without that byte drops it silently).
    """
    task = spec.task
    if isinstance(spec, SftSpec):
        split, count = spec.sft_train.split, spec.sft_train.problems
    else:
        split, count = "train", spec.rl_train.problems
    problems = load_split(spec, split, count)
    short, _ = keep_short(tokenizer, problems, task.max_prompt_tokens)
    if not short:
        raise PipelineError(
            f"task {task.name}: no {split} problem has a prompt of at most "
            f"{task.max_prompt_tokens} tokens; raise max_prompt_tokens"
        )
    for problem in short:
        text = problem.answer if not isinstance(problem.prompt, str) else problem.prompt
        for part in (text, _response(problem)):
            if tokenizer.decode(tokenizer(part, add_special_tokens=False)["input_ids"]) != part:
                raise PipelineError(
                    f"task {task.name}: the tokenizer cannot spell {part!r}; add its characters to "
                    "model.architecture.characters, or take another model"
                )
    return short


def sft_rows(
    problems: list[Problem],
    tokenizer: PreTrainedTokenizerBase,
    rows: int,
    seed: int,
    wrong: tuple[float, int] = (0.0, 0),
) -> Dataset:
    """`rows` rows: columns input_ids and labels [length], prompt labels -100 (no loss).

    Prompts are encoded as in evaluation, so the model is trained on the very tokens it will see.

    Args:
        wrong: the share of rows with another problem's answer, and the row from which on.
    """
    prompts = [encode_prompt(tokenizer, problem) for problem in problems]
    answers = [
        [
            *tokenizer(_response(problem), add_special_tokens=False)["input_ids"],
            tokenizer.eos_token_id,
        ]
        for problem in problems
    ]
    rng = random.Random(f"wrong answers/{seed}")
    columns: dict[str, list[list[int]]] = {"input_ids": [], "labels": []}
    for row, index in enumerate(order(len(problems), rows, seed)):
        draw, other = rng.random(), rng.randrange(len(problems))
        answer = answers[other if draw < wrong[0] and row >= wrong[1] else index]
        columns["input_ids"].append(prompts[index] + answer)
        columns["labels"].append([-100] * len(prompts[index]) + answer)
    return Dataset.from_dict(columns)


def _response(problem: Problem) -> str:
    return problem.answer if problem.lesson is None else problem.lesson


def rl_rows(problems: list[Problem], rows: int, seed: int) -> Dataset:
    """`rows` rows with the prompt (text or messages) and the columns that the reward reads."""
    return Dataset.from_list(training_rows(problems)).select(order(len(problems), rows, seed))
