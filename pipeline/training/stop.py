"""A stop between two steps, with a checkpoint, where a signal asks for one.

A scheduler signals some or all processes of a job, in any order. Each rank notes what it hears;
at the end of every step they agree (one number is reduced), so that all stop at the same step. A
process that only waits for ranks passes the word on by a file in the run's folder, which reaches
ranks on any node and none of the launchers between.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pipeline.artifacts import write_text
from pipeline.stopping import AGAIN, Requeue
from pipeline.training.agreement import any_rank

ASKED = "stop.txt"  # written by who waits for the ranks, read by the first of them
STOPPED = "stopped.txt"  # written by the first rank: what it stopped with


class StopCallback(TrainerCallback):
    """Add it last: the checkpoint is of a step with all that belongs to it.

    Args:
        asked: the file of somebody who waits for the ranks, None if nobody does.
        updates: optimiser updates a step.

    Attributes:
        heard: the signal that this process got.
        step: the step it stopped after.
    """

    def __init__(self, asked: Path | None, updates: int) -> None:
        self.asked = asked
        self.updates = updates
        self.heard: str | None = None
        self.step: int | None = None

    def hear(self, name: str) -> None:
        """Called when a signal comes."""
        self.heard = name

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Asked while models were loaded: there is nothing to write."""
        if self._agreed():
            step = state.global_step // self.updates
            raise Requeue(f"stopped before step {step + 1}: {AGAIN}")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        step, rest = divmod(state.global_step, self.updates)
        if rest == 0 and self._agreed():
            self.step = step
            control.should_save = control.should_training_stop = True

    def leave(self) -> None:
        """After training: nothing if it was not asked to stop.

        Raises:
            Requeue: it was.
        """
        if self.step is not None:
            raise Requeue(f"stopped after step {self.step}, checkpoint written: {AGAIN}")

    def _agreed(self) -> bool:
        """Whether any rank was asked (a collective)."""
        asked = self.heard is not None
        if self.asked is not None and PartialState().is_main_process:
            asked = asked or self.asked.exists()
        return any_rank(asked)


def ask(output: Path, name: str) -> None:
    """Ask the ranks that train into `output` to stop."""
    write_text(output / ASKED, f"{name}\n")
