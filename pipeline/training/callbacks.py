"""What happens between the steps of a TRL trainer: snapshots, and checkpoints that are whole.

transformers counts optimiser updates (`state.global_step`); everything written to disk counts
steps as the paper does, one batch of rollouts each. `updates` converts one into the other.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import (
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from pipeline.artifacts import write_json
from pipeline.faults import naming
from pipeline.training.agreement import every_rank
from pipeline.training.background import Background
from pipeline.training.checkpoints import mark_whole
from pipeline.training.metrics import MetricsCallback
from pipeline.training.parts import Parts, parts_of
from pipeline.training.reground import RegroundCallback
from pipeline.training.snapshots import (
    DeltaWriter,
    each_master_weight,
    master_weights,
    stored,
    write_adapter,
    write_model,
)
from pipeline.training.spec import DELTA
from pipeline.trajectory.steps import find_steps


class SnapshotCallback(TrainerCallback):
    """Writes `folder`/step_N after every `every`-th step, N counted in steps, and notes in
    trajectory.json beside `folder` which ones are there.

    Deltas are copied to host memory, all that training waits for, and written by a thread while it
    goes on: under ZeRO by each rank its own part (see `parts`), else all by rank 0. A checkpoint of
    the same step or a later one counts only once they are whole.

    `dtype` is one of `check.SNAPSHOT_DTYPES`; `base` is the folder that training started from;
    `metrics` are told how long training stood still and how long a thread wrote. Not `background`:
    deltas are written at once, one tensor in memory at a time.
    """

    def __init__(
        self,
        folder: Path,
        every: int,
        updates: int,
        dtype: str,
        tokenizer: PreTrainedTokenizerBase,
        base: Path,
        metrics: MetricsCallback | None = None,
        background: bool = True,
    ) -> None:
        self.folder = folder
        self.every = every * updates
        self.updates = updates
        self.dtype = dtype
        self.tokenizer = tokenizer
        self.base = base
        self.metrics = metrics
        self.background = background
        self.writer = Background()
        delta = dtype.startswith(DELTA)
        self.deltas = DeltaWriter(base, dtype.removeprefix(DELTA)) if delta else None
        self.parts: Parts | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.deltas is not None:
            model = kwargs["model"]
            shapes = self.deltas.shapes(model)  # refused now rather than after hours
            self.parts = parts_of(model, self.deltas, shapes)
        if state.is_world_process_zero:
            self._record()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._tell(self.writer.finished())
        if self._pending and every_rank(self._written()):
            self._finish()
        if state.global_step % self.every:
            return
        began = time.monotonic()
        self._take(kwargs["model"], state.global_step // self.updates, state.is_world_process_zero)
        if self.metrics is not None:
            self.metrics.add({"snapshot_stall_seconds": time.monotonic() - began}, 0.0)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.settle()

    def settle(self) -> None:
        """Return once all snapshots are whole; under ZeRO a collective."""
        self.writer.wait()
        self._tell(self.writer.finished())
        if self._pending:
            every_rank(True)  # all are here, so all have written
            self._finish()

    @property
    def _pending(self) -> bool:
        return self.parts is not None and self.parts.pending is not None

    def _written(self) -> bool:
        """Whether this rank's part is on the disk; raises what kept it from getting there."""
        if self.writer.busy:
            return False
        self.writer.wait()
        return True

    def _finish(self) -> None:
        """Make a snapshot of the parts that all ranks have written."""
        assert self.parts is not None
        if PartialState().is_main_process:
            folder = self.folder / f"step_{self.parts.pending}"
            with naming(folder):
                self.parts.finish(folder)
            self._record()
        self.parts.pending = None

    def _tell(self, written: float | None) -> None:
        if written is not None and self.metrics is not None:
            self.metrics.add({"snapshot_write_seconds": written}, 0.0)

    def _take(self, model: Any, step: int, keep: bool) -> None:
        """The snapshot of a step, of which only the ranks with `keep` write something."""
        folder = self.folder / f"step_{step}"
        if self.parts is not None:
            self.settle()
            job = self.parts.begin(folder, step, model, self.background)
            if self.background:
                self.writer.start(job)
            else:
                job()
                self.settle()
            return
        if self.deltas is not None:
            weights = stored(model, each_master_weight(model, keep))
            if not keep:
                for _ in weights:
                    """Only its part in the gathering: it yields nothing."""
                return
            self.settle()
            shapes = self.deltas.shapes(model)
            if self.background:
                copies = list(weights)
                self.writer.start(lambda: self._write(folder, step, shapes, copies))
            else:
                self._write(folder, step, shapes, weights)
            return
        if hasattr(model, "peft_config"):
            adapter = dict(each_master_weight(model, keep, trained_only=True))
            if keep:
                write_adapter(folder, model, adapter, self.dtype)
        else:
            whole = master_weights(model, keep)
            if keep:
                write_model(folder, model, whole, self.tokenizer, self.dtype)
        if keep:
            self._record()

    def _write(
        self,
        folder: Path,
        step: int,
        shapes: dict[str, tuple[int, ...]],
        weights: Iterable[tuple[str, torch.Tensor]],
    ) -> None:
        assert self.deltas is not None
        with naming(folder):
            self.deltas.write(folder, step, shapes, weights)
        self._record()

    def _record(self) -> None:
        begun = self.folder.is_dir() and any(self.folder.glob("step_*"))
        steps = find_steps(self.folder) if begun else {}
        there = [{"step": step, "folder": str(steps[step])} for step in sorted(steps)]
        record = {"base": str(self.base), "dtype": self.dtype, "snapshots": there}
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.folder.parent / "trajectory.json", record)


class WholeCheckpoints(Trainer):
    """Mixin for TRL's trainers: a checkpoint is marked once all ranks have written their part.

    Class attribute `updates` is set on the instance by whoever builds the trainer.
    """

    updates: int = 1

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """No README beside the checkpoints."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        # Rows first: a checkpoint without its rows would leave a hole in metrics.jsonl.
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, MetricsCallback):
                callback._flush()
        step = self.state.global_step
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{step}"
        with naming(folder):
            super()._save_checkpoint(model, trial)
            for callback in self.callback_handler.callbacks:
                if isinstance(callback, RegroundCallback):
                    callback.save(folder, self.args.process_index)
                if isinstance(callback, SnapshotCallback):
                    callback.settle()  # a run that resumes here has all snapshots before
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            mark_whole(folder, step // self.updates)
        # All wait for that here: the groups of ranks that DeepSpeed and TRL make give up after ten
        # minutes on NCCL (`new_group` without a timeout), whatever `devices.PATIENCE` says.
        self.accelerator.wait_for_everyone()
