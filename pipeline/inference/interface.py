"""What an engine is: sample from a model, score text with it, change what the model is.

Two engines serve one interface: HF transformers (always there, and the check on the other one)
and vLLM. Everything that samples in this project (evaluation, log-prob probes, logit
extrapolation) calls this interface and never learns which engine answers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from pipeline.artifacts import hash_json
from pipeline.errors import PipelineError
from pipeline.trajectory.recipe import Recipe

FinishReason = Literal["stop", "length"]
Source = Path | Recipe  # where weights come from


@dataclass(frozen=True)
class Sampling:
    """How to draw responses.

    Attributes:
        temperature: 0 is greedy.
        top_p: smallest set of tokens whose probability reaches `top_p`; 1 keeps all. Applied
            after `top_k` and after the temperature.
        top_k: keep the `top_k` most probable tokens; 0 keeps all.
        max_tokens: longest response in tokens, the end-of-text token included.
        n: responses for each prompt.
        seed: of the draws.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 256
    n: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        checks = {
            "temperature": self.temperature >= 0,
            "top_p": 0 < self.top_p <= 1,
            "top_k": self.top_k >= 0,
            "max_tokens": self.max_tokens >= 1,
            "n": self.n >= 1,
        }
        for name, right in checks.items():
            if not right:
                raise PipelineError(
                    f"sampling.{name}={getattr(self, name)} is out of range: temperature >= 0, "
                    "0 < top_p <= 1, top_k >= 0, max_tokens >= 1, n >= 1"
                )


def sampling_hash(sampling: Sampling) -> str:
    """Identity of a sampling set-up (12 hex digits).

    `n` is left out: raising it adds samples to those that are there. The seed is in it.
    """
    values = asdict(sampling)
    del values["n"]
    return hash_json(values)[:12]


@dataclass(frozen=True)
class Generation:
    """One response.

    Attributes:
        prompt_index: place of its prompt in the list given to `generate`.
        sample: its number among the prompt's responses, from 0.
        token_ids: the response's tokens; the end-of-text token that stopped it is the last one.
        text: the tokens decoded, without special ones and without the one that stopped it.
        finish_reason: "stop" at an end-of-text token, "length" at `max_tokens`.
        logprob: Σ log q(token | text before it) over the response's tokens, in nats, q being what
            they were drawn from, after temperature, top-k and top-p (greedy: 0). The mean of -log q
            over many tokens estimates the entropy per token of q without bias.
    """

    prompt_index: int
    sample: int
    token_ids: tuple[int, ...]
    text: str
    finish_reason: FinishReason
    logprob: float = field(compare=False)  # its last bits depend on the batch


class Engine(Protocol):
    """A model, or a mixture of models, that samples and scores."""

    tokenizer: Any

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        keys: Sequence[int] | None = None,
        samples: Sequence[Sequence[int]] | None = None,
    ) -> Iterator[Generation]:
        """Sample responses and yield each as it finishes (in no particular order).

        Args:
            prompts: token ids of each prompt, none empty.
            sampling: how to draw; `sampling.n` responses a prompt.
            keys: a number for each prompt that its draws depend on instead of its place in the
                list, so that a part of the prompts gives the same responses as all of them.
            samples: for each prompt the sample numbers to make; default `range(sampling.n)`.
        """
        ...

    def score(
        self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """log p(token | prompt, earlier tokens) in nats of each response token (temperature 1)."""
        ...

    def load_weights(self, *sources: Source) -> None:
        """Put other weights of the same architecture in place.

        Args:
            sources: for each of the models a checkpoint folder, or the recipe of an extrapolated
                one.
        """
        ...

    def set_coefficients(self, coefficients: Sequence[float]) -> None:
        """Set the coefficients of a mixture Σ c_i l_i, one for each of its models."""
        ...

    def close(self) -> None:
        """Free the model's memory. The engine cannot be used afterwards."""
        ...


def check_coefficients(coefficients: Sequence[float], models: int) -> list[float]:
    """The coefficients, if there is a finite one for each of the models that an engine holds; of
    one model alone, 1."""
    found = [float(coefficient) for coefficient in coefficients]
    if models == 1 and found != [1.0]:
        raise PipelineError(f"coefficients {found}: the engine holds one model, whose is 1")
    if len(found) != models or not all(map(math.isfinite, found)):
        raise PipelineError(
            f"coefficients {found}: a finite one for each of the engine's {models} models is wanted"
        )
    return found


def check_prompts(prompts: Sequence[Sequence[int]]) -> None:
    """Refuse empty prompts: there is nothing to condition on."""
    for index, prompt in enumerate(prompts):
        if len(prompt) == 0:
            raise PipelineError(f"prompt {index} has no tokens; give it a begin-of-text token")


def check_model_folder(path: Path) -> Path:
    """`path`, if it is a checkpoint folder; else an error that says what is missing."""
    if not (path / "config.json").is_file():
        raise PipelineError(f"{path}: not a model folder (no config.json); give a saved checkpoint")
    return path


def check_finite(what: object, logprobs: Sequence[float]) -> None:
    """Refuse a model whose logits are NaN or infinite: any token would pass for its answer.

    Args:
        what: the model, for the message.
        logprobs: of tokens that it drew or scored.

    Raises:
        PipelineError: one of them is not finite.
    """
    if not all(map(math.isfinite, logprobs)):
        raise PipelineError(
            f"{what}: its logits are NaN or infinite; in model.dtype=float16 they may overflow: "
            "give bfloat16 or float32, else leave this model out"
        )


def check_source(source: Source) -> Source:
    """`source`, if it is a checkpoint folder, or a recipe of one."""
    check_model_folder(source.model if isinstance(source, Recipe) else source)
    return source
