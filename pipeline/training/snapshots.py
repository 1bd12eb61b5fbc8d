"""Write the weights of a model in training: as a Hugging Face folder, or as deltas from its base.

The weights are the fp32 master weights, gathered from wherever ZeRO keeps their shards: a bf16
copy would round away most of what one RL step changes.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.core_model_loading import revert_weight_conversion

from pipeline.artifacts import write_text
from pipeline.errors import PipelineError
from pipeline.faults import naming
from pipeline.trajectory.checkpoint import Checkpoint
from pipeline.trajectory.layouts import open_checkpoint
from pipeline.trajectory.layouts.delta import (
    finish_parts,
    stream_delta_part,
    stream_delta_snapshot,
)
from pipeline.trajectory.writer import check_space


def master_weights(model: nn.Module, keep: bool) -> dict[str, torch.Tensor]:
    """Full fp32 weights on the CPU, by parameter name; tied parameters appear once.

    A collective under ZeRO: every rank calls it, and those with `keep` False get {}.

    Args:
        model: the unwrapped model; under DeepSpeed its parameters know their shards.
    """
    weights = dict(each_master_weight(model, keep))
    if keep:
        sharded = any(hasattr(parameter, "ds_id") for parameter in model.parameters())
        persistent = set() if sharded else set(model.state_dict())
        for name, buffer in model.named_buffers():
            if name in persistent:
                weights[name] = buffer.detach().to("cpu", copy=True)
    return weights


def each_master_weight(
    model: nn.Module, keep: bool, trained_only: bool = False
) -> Iterator[tuple[str, torch.Tensor]]:
    """`master_weights` one parameter at a time: under ZeRO every rank must come to the end of it.

    Without `keep` it yields nothing.
    """
    for name, parameter in model.named_parameters():
        if trained_only and not parameter.requires_grad:
            continue
        full = _full_fp32(parameter)
        if keep:
            yield name, full.detach().to("cpu", torch.float32, copy=True)


def _full_fp32(parameter: nn.Parameter) -> torch.Tensor:
    # DeepSpeed puts these on every rank, also where a rank holds no part of the parameter
    if not hasattr(parameter, "ds_id") and not hasattr(parameter, "_hp_mapping"):
        return parameter
    from deepspeed.utils import safe_get_full_fp32_param

    full: torch.Tensor = safe_get_full_fp32_param(parameter)
    return full


def write_model(
    folder: Path,
    model: PreTrainedModel,
    weights: dict[str, torch.Tensor],
    tokenizer: PreTrainedTokenizerBase,
    dtype: str,
) -> None:
    """Write config, generation config, tokenizer and `weights` (cast to `dtype`) to `folder`.

    Atomic: written under another name beside it, then renamed; an older folder of the same name
    (a step run again after a kill) is replaced.
    """
    target = getattr(torch, dtype)
    cast = {k: v.to(target) if v.is_floating_point() else v for k, v in weights.items()}
    partial = _begin(folder)
    with naming(folder):
        model.save_pretrained(partial, state_dict=cast)
        tokenizer.save_pretrained(partial)
    path = partial / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config |= {"dtype": dtype, "use_cache": True}  # which the trainer switches off for its passes
    write_text(path, json.dumps(config, indent=2, sort_keys=True) + "\n")
    _give_name(partial, folder)


def write_adapter(folder: Path, model: Any, weights: dict[str, torch.Tensor], dtype: str) -> None:
    """Write a PEFT model's adapter: its config, and `weights` cast to `dtype`; as atomic."""
    target = getattr(torch, dtype)
    partial = _begin(folder)
    with naming(folder):
        model.save_pretrained(
            partial,
            state_dict={name: weight.to(target) for name, weight in weights.items()},
            save_embedding_layers=False,
        )
    (partial / "README.md").unlink(missing_ok=True)
    _give_name(partial, folder)


class DeltaWriter:
    """Writes snapshots as θ_t - θ_0, θ_0 being the base model's values as its files hold them.

    That holds whatever the trainer made of the base on loading it: DeepSpeed's master weights, for
    one, start from its bf16 copy.
    """

    def __init__(self, base: Path, dtype: str) -> None:
        self.base: Checkpoint = open_checkpoint(0, base)
        self.dtype: torch.dtype = getattr(torch, dtype)

    def shapes(self, model: PreTrainedModel) -> dict[str, tuple[int, ...]]:
        """The model's tensors as the base's files name them (transformers fuses some on loading).

        Raises:
            PipelineError: the base lacks one of them or has it in another shape.
        """
        shapes: dict[str, tuple[int, ...]] = {}
        for name, parameter in model.named_parameters():
            whole = torch.empty(getattr(parameter, "ds_shape", parameter.shape), device="meta")
            stored = revert_weight_conversion(model, {name: whole})
            shapes |= {key: tuple(value.shape) for key, value in stored.items()}
        for name, shape in shapes.items():
            entry = self.base.entries.get(name)
            if entry is None or entry.shape != shape:
                found = "is missing" if entry is None else f"has shape {list(entry.shape)}"
                raise PipelineError(
                    f"{self.base.folder}: tensor {name} {found}, the model trains it as "
                    f"{list(shape)}; set rl_train.snapshot_dtype=float32"
                )
        return shapes

    def write(
        self,
        folder: Path,
        step: int,
        shapes: dict[str, tuple[int, ...]],
        weights: Iterable[tuple[str, torch.Tensor]],
    ) -> None:
        """Write `weights` (from `stored`) to `folder`, as atomic as `write_model`.

        Args:
            shapes: of all of them, by `shapes`.
        """
        partial = _begin(folder)
        stream_delta_snapshot(partial, self.base, step, shapes, weights, self.dtype)
        _give_name(partial, folder)

    def check_room(self, folder: Path, shapes: dict[str, tuple[int, ...]]) -> None:
        """Raises PipelineError where the disk has less than a snapshot takes."""
        check_space(folder, sum(map(math.prod, shapes.values())) * self.dtype.itemsize)

    def write_part(
        self,
        folder: Path,
        filename: str,
        sizes: dict[str, int],
        weights: Iterable[tuple[str, int, torch.Tensor]],
    ) -> None:
        """Write one rank's file of `folder`, which gets its name by `finish_parts`.

        Args:
            sizes: elements of this rank's part of each tensor.
            weights: (name, first element, values [n] fp32 on the CPU) of each part.
        """
        partial = _unfinished(folder)
        partial.mkdir(parents=True, exist_ok=True)  # what a killed run left there is gone
        with naming(partial / filename):
            stream_delta_part(partial, filename, self.base, sizes, weights, self.dtype)

    def finish_parts(
        self,
        folder: Path,
        step: int,
        shapes: dict[str, tuple[int, ...]],
        parts: dict[str, dict[str, int]],
    ) -> None:
        """Give the snapshot its name; by one process, when all ranks have written their files.

        Args:
            parts: first element of each tensor's part, by file.

        Raises:
            PipelineError: files are missing, or do not make up the tensors.
        """
        partial = _unfinished(folder)
        finish_parts(partial, self.base, step, shapes, parts)
        _give_name(partial, folder)


def stored(
    model: PreTrainedModel, weights: Iterable[tuple[str, torch.Tensor]]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Weights (from `each_master_weight`) under the names and in the form of the base's files."""
    for name, weight in weights:
        yield from revert_weight_conversion(model, {name: weight}).items()


def _unfinished(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.partial")


def _begin(folder: Path) -> Path:
    """An empty folder beside `folder`, to fill before it gets its name."""
    partial = _unfinished(folder)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def _give_name(partial: Path, folder: Path) -> None:
    if folder.exists():
        replaced = folder.with_name(f".{folder.name}.old.partial")
        folder.rename(replaced)
        partial.rename(folder)
        shutil.rmtree(replaced)
    else:
        partial.rename(folder)
