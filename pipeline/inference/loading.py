"""Models of transformers with the weights of a folder or of a recipe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from pipeline.errors import PipelineError, first_line
from pipeline.inference.interface import Source
from pipeline.trajectory.conversions import Origin, Whole, origins
from pipeline.trajectory.recipe import Recipe
from pipeline.trajectory.recipe_weights import RecipeWeights


def load_model(path: Path, dtype: torch.dtype, device: torch.device, untied: bool = False) -> Any:
    """A causal language model in evaluation mode on `device`.

    Args:
        untied: its head is to be a parameter of its own, whatever the folder says.
    """
    transformers_logging.disable_progress_bar()  # a bar a load would break up our own
    try:
        config: Any = AutoConfig.from_pretrained(path, local_files_only=True)
        if untied:
            for part in (config, config.get_text_config(decoder=True)):
                part.tie_word_embeddings = False
        model: Any = AutoModelForCausalLM.from_pretrained(
            path, config=config, dtype=dtype, local_files_only=True
        )
    except (OSError, ValueError, KeyError) as error:
        reason = first_line(error)
        raise PipelineError(f"{path}: transformers cannot load this model: {reason}") from error
    return model.to(device).eval()


@torch.inference_mode()
def load_source(source: Source, dtype: torch.dtype, device: torch.device) -> Any:
    """A model of a folder, or of a recipe's model folder with the recipe's weights put in."""
    if not isinstance(source, Recipe):
        return load_model(source, dtype, device)
    with RecipeWeights(source) as weights:
        with _quiet():
            model = load_model(source.model, dtype, device, untied=weights.own_head)
        _fill(model, weights, source)
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """No report of what a folder lacks: all of its weights are about to be replaced."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def _fill(model: Any, weights: RecipeWeights, source: Recipe) -> None:
    """Put a recipe's tensors in place; transformers may hold some fused or under other names.

    Raises:
        PipelineError: a parameter of the model that no tensor is for, or two are.
    """
    places = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())
    try:
        found, _ = origins(model, {name: entry.shape for name, entry in weights.entries.items()})
    except PipelineError as error:
        raise PipelineError(f"{source.model}: {error}") from None
    filled: dict[int, Origin] = {}
    for name, origin in found.items():
        place = places[name]
        if filled.setdefault(id(place), origin) != origin:
            raise PipelineError(
                f"{source}: two tensors for {name}, which the config of {source.model} makes one; "
                "set tie_word_embeddings=false there"
            )
        if isinstance(origin, Whole):
            place.copy_(weights.read(origin.source))
            continue
        rows = place.view(-1, place.shape[-1] if place.ndim > 1 else 1)
        for stored, segments in groupby(origin, key=lambda segment: segment.source):
            tensor = weights.read(stored).view(-1, rows.shape[1])
            for part in segments:
                rows[part.start : part.start + part.count].copy_(
                    tensor[part.first : part.first + part.count]
                )
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is not None and id(head.weight) not in filled and id(embedding.weight) in filled:
        head.weight.copy_(embedding.weight)  # the folder's is of its own, the recipe's tied
        filled[id(head.weight)] = filled[id(embedding.weight)]
    for name, parameter in model.named_parameters():
        if id(parameter) not in filled:
            raise PipelineError(f"{source}: no tensor for the model's parameter {name}")
