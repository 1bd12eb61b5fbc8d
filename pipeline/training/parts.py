"""Delta snapshots of which every rank writes the part that it owns, while training goes on.

To gather a model in one process takes four bytes a weight of its host memory (128 GB at 32 B), and
one disk writer for all. Here each rank copies its own fp32 masters to host memory and writes them
to a file of its own (`trajectory.layouts.delta_parts`). The files become a snapshot when all ranks
have said, between two steps or before a checkpoint, that theirs is written.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import nn

from pipeline.training.masters import placed
from pipeline.training.snapshots import DeltaWriter
from pipeline.trajectory.layouts.delta_parts import part_name

Shapes = dict[str, tuple[int, ...]]
Ranges = dict[str, tuple[int, int]]  # first element and number of elements, by tensor name


@dataclass
class Parts:
    """Which rank owns what, the same all through a run; `pending` is the step at work."""

    deltas: DeltaWriter
    shapes: Shapes
    ranges: list[Ranges]  # by rank
    pending: int | None = None

    def begin(self, folder: Path, step: int, model: nn.Module, copy: bool) -> Callable[[], None]:
        """What writes this rank's file of the snapshot of a step.

        Args:
            copy: take the weights now, so that the model may change; else the job reads them.

        Raises:
            PipelineError: the disk has no room for the files of all ranks.
        """
        state = PartialState()
        if state.is_main_process:
            self.deltas.check_room(folder, self.shapes)
        filename = part_name(state.process_index, state.num_processes)
        sizes = {n: size for n, (_, size) in self.ranges[state.process_index].items()}
        weights = (
            (name, start, part.to("cpu", torch.float32, copy=True))
            for name, start, part in placed(model)
        )
        source = list(weights) if copy else weights
        self.pending = step
        return lambda: self.deltas.write_part(folder, filename, sizes, source)

    def finish(self, folder: Path) -> None:
        """Make the files of all ranks a snapshot; for one process, once all files are there.

        Raises:
            PipelineError: one of them is not where this process looks for it.
        """
        assert self.pending is not None
        parts = {
            part_name(rank, len(self.ranges)): {n: start for n, (start, _) in mine.items()}
            for rank, mine in enumerate(self.ranges)
        }
        self.deltas.finish_parts(folder, self.pending, self.shapes, parts)


def parts_of(model: nn.Module, deltas: DeltaWriter, shapes: Shapes) -> Parts | None:
    """How the ranks share the writing (a collective); None where rank 0 has to gather.

    That is where the ranks hold the same weights, where some are not trained, and where the base's
    files have the tensors in another form than the model.

    Args:
        shapes: of the tensors as the base's files have them (`DeltaWriter.shapes`).
    """
    mine = None
    if _separable(model, shapes):
        mine = {name: (start, len(part)) for name, start, part in placed(model)}
    ranges: list[Ranges | None] = gather_object([mine])
    known = [one for one in ranges if one is not None]
    if len(known) < max(2, len(ranges)) or not _cover(shapes, known):
        return None
    return Parts(deltas, shapes, known)


def _separable(model: nn.Module, shapes: Shapes) -> bool:
    """Whether every tensor is sharded, and stored as the model has it."""
    found = {}
    for name, parameter in model.named_parameters():
        sharded = hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping")
        if not (sharded and parameter.requires_grad):
            return False
        found[name] = tuple(getattr(parameter, "ds_shape", parameter.shape))
    return found == shapes


def _cover(shapes: Shapes, ranges: list[Ranges]) -> bool:
    """Whether the ranks' parts are each tensor, once."""
    for name, shape in shapes.items():
        position = 0
        for start, size in sorted(one[name] for one in ranges if name in one):
            if start != position:
                return False
            position += size
        if position != math.prod(shape) or not position:
            return False
    return True
