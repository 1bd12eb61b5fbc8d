"""How straight the path is so far, while it is made: measured and logged at every snapshot.

The figures are linear_probe's, of fixed scalars: where a model has no more than `scalars`, of all
trained weights, and so exact; else of a random sample that is drawn once, from every tensor in
proportion. A rank reads its own part of the master weights; the sampled values, a few hundred
kilobytes, are gathered and kept as `linearity/step_N.safetensors`, so a run that resumes has them.
Of frozen tensors and buffers linear_probe knows and this does not; under ZeRO 3 the padding of a
rank's last shard may be among the scalars.
"""

from __future__ import annotations

import logging
import time
import zlib
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pipeline.faults import naming
from pipeline.training.masters import owned
from pipeline.training.metrics import MetricsCallback
from pipeline.trajectory.linearity import path_so_far
from pipeline.trajectory.segments import JUMPS, on_line

FOLDER = "linearity"


class LinearityCallback(TrainerCallback):
    """Adds linearity_* to the metrics of every step with a snapshot, behind that snapshot.

    Args:
        folder: of the run; values go to its linearity/.
        every: steps from snapshot to snapshot.
        scalars: how many are looked at, of all ranks together.
        sharded: whether each rank owns a part of the weights; else rank 0 measures alone.
    """

    def __init__(
        self,
        folder: Path,
        every: int,
        updates: int,
        scalars: int,
        sharded: bool,
        metrics: MetricsCallback,
    ) -> None:
        self.folder = folder / FOLDER
        self.every = every * updates
        self.updates = updates
        self.scalars = scalars
        self.sharded = sharded
        self.metrics = metrics
        self.rows: dict[int, torch.Tensor] = {}  # [n] fp32 by step, on rank 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step == 0:
            self._take(kwargs["model"], 0)
        elif PartialState().is_main_process:
            for step, path in sorted(_kept(self.folder).items()):
                self.rows[step] = load_file(path)["values"]
            if 0 not in self.rows:
                logging.getLogger(__name__).warning(
                    "%s has no values of step 0: linearity is not measured while training",
                    self.folder,
                )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step % self.every:
            return
        began = time.monotonic()
        self._take(kwargs["model"], state.global_step // self.updates)
        if 0 not in self.rows:
            return
        steps = sorted(self.rows)
        values = torch.stack([self.rows[step] for step in steps]).numpy()
        times = list(on_line(steps, self.folder.parent / JUMPS).values())
        found = {f"linearity_{k}": v for k, v in path_so_far(values, times).items()}
        seconds = time.monotonic() - began
        self.metrics.add({**found, "linearity_seconds": seconds}, seconds)

    def _take(self, model: torch.nn.Module, step: int) -> None:
        """Keep the scalars' values at `step`; a collective where weights are sharded."""
        state = PartialState()
        mine: torch.Tensor | None = None
        if self.sharded or state.is_main_process:
            ranks = state.num_processes if self.sharded else 1
            mine = sampled(model, -(-self.scalars // ranks), state.process_index)
        parts: list[Any] = gather_object([mine]) if self.sharded else [mine]
        if state.is_main_process:
            row = torch.cat(parts)
            self.rows[step] = row
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / f"step_{step}.safetensors"
            with naming(path):
                save_file({"values": row}, path.with_name(f".{path.name}.tmp"))
                path.with_name(f".{path.name}.tmp").replace(path)


def sampled(model: torch.nn.Module, count: int, rank: int) -> torch.Tensor:
    """About `count` of this rank's master weights [n] fp32, always the same; all if there are no
    more."""
    parts = list(owned(model))
    total = sum(len(part) for _, part in parts)
    chosen = []
    for name, part in parts:
        if total > count:
            rng = torch.Generator().manual_seed(zlib.crc32(f"{rank}/{name}".encode()))
            wanted = (max(1, round(count * len(part) / total)),)
            places = torch.randint(max(1, len(part)), wanted, generator=rng).unique()
            part = part[places.to(part.device)] if len(part) else part
        chosen.append(part.to("cpu", torch.float32, copy=True))
    return torch.cat(chosen)


def _kept(folder: Path) -> dict[int, Path]:
    return {int(p.stem.removeprefix("step_")): p for p in folder.glob("step_*.safetensors")}
