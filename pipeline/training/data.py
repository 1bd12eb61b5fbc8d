"""Problems as the rows that TRL's trainers read, in an order fixed before the run starts.

The order is a chain of seeded permutations of the problems. A run is one pass over it, however
often each problem comes up, so resuming means skipping rows: no sampler state, and a longer run
starts with exactly the rows of a shorter one.
"""

from __future__ import annotations

import logging
import random

from accelerate import PartialState
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
        PipelineError: nothing is left; or, of a model made from scratch, the tokenizer has no
            token for a character of a prompt or answer, and would leave it out.
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
    if isinstance(spec, SftSpec):
        texts = [part for problem in short for part in (*_texts(problem), _response(problem))]
        if lost := _misspelt(tokenizer, texts):
            raise PipelineError(
                f"task {task.name}: the tokenizer cannot spell {lost[0]!r}; add its characters to "
                "model.architecture.characters, or take another model"
            )
    else:
        _warn_of_spelling(task.name, tokenizer, short)
    return short


def _warn_of_spelling(
    task: str, tokenizer: PreTrainedTokenizerBase, problems: list[Problem]
) -> None:
    """Say once how many problems the model does not see as they are written.

    That is no fault of a run: many tokenizers normalise (accents, spaces, line ends). Answers are
    not looked at: in RL they are compared with the decoded response, and never encoded.
    """
    changed = [problem for problem in problems if _misspelt(tokenizer, _texts(problem))]
    if changed and PartialState().is_main_process:
        [first, *_] = _misspelt(tokenizer, _texts(changed[0]))
        logging.getLogger(__name__).warning(
            "task %s: the tokenizer gives back other characters than those of %d of %d prompts, "
            "as of %r: the model is trained and evaluated on what it makes of them. That is "
            "harmless where it only normalises spaces or accents; where it drops symbols that the "
            "answer depends on, these problems cannot be solved",
            task,
            len(changed),
            len(problems),
            first if len(first) <= 60 else f"{first[:57]}...",
        )


def _misspelt(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[str]:
    """The texts that a tokenizer does not give back character by character."""
    if not texts:
        return []
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
    decoded = tokenizer.batch_decode(encoded, clean_up_tokenization_spaces=False)
    return [text for text, back in zip(texts, decoded, strict=True) if text != back]


def _texts(problem: Problem) -> list[str]:
    """What a problem's prompt says, message by message."""
    if isinstance(problem.prompt, str):
        return [problem.prompt]
    return [message["content"] for message in problem.prompt]


def sft_rows(problems: list[Problem], spec: Spec, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """All rows of supervised training: columns input_ids and labels [length], prompt labels -100
    (no loss).

    Prompts are encoded as in evaluation, so the model is trained on the very tokens it will see.
    """
    if isinstance(spec, SftSpec):
        sft = spec.sft_train
        batch, share, wrong_from = sft.batch_size, sft.wrong_answers, sft.wrong_from
    else:
        batch, share, wrong_from = spec.algorithm.prompts_per_step, 0.0, 0
    prompts = [encode_prompt(tokenizer, problem) for problem in problems]
    answers = [
        [
            *tokenizer(_response(problem), add_special_tokens=False)["input_ids"],
            tokenizer.eos_token_id,
        ]
        for problem in problems
    ]
    rng = random.Random(f"wrong answers/{spec.seed}")
    columns: dict[str, list[list[int]]] = {"input_ids": [], "labels": []}
    for row, index in enumerate(order(len(problems), spec.steps * batch, spec.seed)):
        draw, other = rng.random(), rng.randrange(len(problems))
        wrong = draw < share and row >= wrong_from * batch
        answer = answers[other if wrong else index]
        columns["input_ids"].append(prompts[index] + answer)
        columns["labels"].append([-100] * len(prompts[index]) + answer)
    return Dataset.from_dict(columns)


def _response(problem: Problem) -> str:
    return problem.answer if problem.lesson is None else problem.lesson


def rl_rows(problems: list[Problem], rows: int, seed: int) -> Dataset:
    """`rows` rows with the prompt (text or messages) and the columns that the reward reads."""
    return Dataset.from_list(training_rows(problems)).select(order(len(problems), rows, seed))
