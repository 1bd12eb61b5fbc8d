"""A row in metrics.jsonl for every step of a TRL trainer, under our names, and a progress bar."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pipeline.artifacts import append_jsonl
from pipeline.errors import PipelineError
from pipeline.progress import bar
from pipeline.training.batches import MISMATCH

Log = Callable[[dict[str, Any]], None]

# our name for a metric -> TRL's
_RL_METRICS = {
    "reward": "reward",
    "reward_std": "reward_std",
    "loss": "loss",
    "grad_norm": "grad_norm",
    "completion_length": "completions/mean_length",
    "truncated_share": "completions/clipped_ratio",
    "groups_without_signal": "frac_reward_zero_std",
    "sampling_rounds": "dynamic/rounds",
    "groups_left_out": "dynamic/left_out",
    "entropy": "entropy",
    "clip_share": "clip_ratio/region_mean",
    "kl": "kl",
    **{name: name for name in MISMATCH},
    "learning_rate": "learning_rate",
}
_SFT_METRICS = {
    "loss": "loss",
    "grad_norm": "grad_norm",
    "token_accuracy": "mean_token_accuracy",
    "entropy": "entropy",
    "learning_rate": "learning_rate",
}


class MetricsCallback(TrainerCallback):
    """A progress bar, a row in metrics.jsonl and a call of `log` for every step, on rank 0.

    Raises:
        PipelineError: the loss or the gradient is not finite; nothing after that step is worth
            its time.
    """

    def __init__(
        self, desc: str, supervised: bool, path: Path, steps: int, updates: int, log: Log | None
    ) -> None:
        self.names = _SFT_METRICS if supervised else _RL_METRICS
        self.shown = "loss" if supervised else "reward"
        self.desc = desc
        self.path = path
        self.steps = steps
        self.updates = updates
        self.log = log
        self.rows: list[dict[str, Any]] = []
        self.more: dict[str, Any] = {}  # of the step that is not logged yet
        self.apart = 0.0  # seconds of it that are not training's
        self.written = self.last = 0.0

    def add(self, values: dict[str, Any], seconds: float) -> None:
        """Put `values`, which took `seconds` that training did not need, into the step's row."""
        self.more |= values
        self.apart += seconds

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            self.bar = bar(self.steps, self.desc, "step")
            self.bar.update(state.global_step // self.updates)
        self.last = self.written = time.monotonic()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not state.is_world_process_zero or logs is None or "loss" not in logs:
            return  # the summary after the last step has no loss
        now = time.monotonic()
        row: dict[str, Any] = {"step": state.global_step // self.updates}
        row |= {ours: logs[theirs] for ours, theirs in self.names.items() if theirs in logs}
        row |= self.more
        row["seconds"], self.last = now - self.last - self.apart, now
        self.more, self.apart = {}, 0.0
        for key in ("loss", "grad_norm"):
            if key in row and not math.isfinite(row[key]):
                raise PipelineError(
                    f"{self.desc}: {key} is {row[key]} at step {row['step']}; "
                    "lower learning_rate or max_grad_norm"
                )
        self.rows.append(row)
        self.bar.set_postfix({self.shown: f"{row[self.shown]:.3f}"}, refresh=False)
        self.bar.update(1)
        if now - self.written > 1.0:
            self._flush()
        if self.log is not None:
            self.log(row)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._flush()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._flush()
        if state.is_world_process_zero:
            self.bar.close()

    def _flush(self) -> None:
        """Rows are flushed to disk about once a second: a step may take milliseconds."""
        if self.rows:
            append_jsonl(self.path, self.rows)
            self.rows = []
            self.written = time.monotonic()
