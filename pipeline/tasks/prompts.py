"""Prompts as token ids, the same in training and evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.errors import PipelineError
from pipeline.tasks.problem import Problem


def encode_prompt(tokenizer: Any, problem: Problem, **template: Any) -> list[int]:
    """Token ids of the prompt, as TRL encodes it in training.

    Messages go through the tokenizer's chat template, with the opening of the assistant's turn; a
    plain string is tokenised as it is.

    Args:
        template: passed to the chat template (enable_thinking and the like).

    Raises:
        PipelineError: messages, but the tokenizer has no chat template.
    """
    if isinstance(problem.prompt, str):
        return [int(token) for token in tokenizer(problem.prompt)["input_ids"]]
    if not tokenizer.chat_template:
        raise PipelineError(
            f"task {problem.task}: the tokenizer {tokenizer.name_or_path} has no chat template; "
            "use an instruct model, or plain prompts (task.options.chat=false)"
        )
    encoded = tokenizer.apply_chat_template(
        problem.prompt, add_generation_prompt=True, tokenize=True, return_dict=True, **template
    )
    return [int(token) for token in encoded["input_ids"]]


def keep_short(
    tokenizer: Any, problems: Sequence[Problem], max_prompt_tokens: int
) -> tuple[list[Problem], int]:
    """The problems whose prompt fits, and how many were dropped."""
    short = [p for p in problems if len(encode_prompt(tokenizer, p)) <= max_prompt_tokens]
    return short, len(problems) - len(short)
