"""One rank of a training run: `python -m pipeline.training.worker SPEC.json`.

Started once per process by the deepspeed launcher, torchrun or srun, or called as `run` in a
process that needs no others. The spec says everything; the environment says which rank this is.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

from accelerate import PartialState
from torch import distributed
from transformers import Trainer
from transformers.utils import logging as transformers_logging

from pipeline.artifacts import write_text
from pipeline.ending import one_line
from pipeline.globbing import plain_path
from pipeline.processes import die_with_parent
from pipeline.stopping import Requeue, stopped_by
from pipeline.training.callbacks import SnapshotCallback
from pipeline.training.check import check
from pipeline.training.checkpoints import check_output, finished, prepare_output, resumable
from pipeline.training.devices import join_processes
from pipeline.training.metrics import Log
from pipeline.training.scratch import make_model
from pipeline.training.snapshots import master_weights, write_model
from pipeline.training.spec import Architecture, RlSpec, SftSpec, Spec, build, read_spec
from pipeline.training.stop import ASKED, STOPPED, StopCallback
from pipeline.training.trainers import build_rl, build_sft, rl_arguments, sft_arguments

ERROR_FILE = "error.txt"
SUPERVISED = "PIPELINE_SUPERVISED"  # environment variable: `launch` waits for this rank


def run(spec: Spec, log: Log | None = None) -> None:
    """Train to the end, resuming from the last whole checkpoint below `spec.output`.

    Args:
        log: called on rank 0 with every row that goes to metrics.jsonl.

    Writes `output`/metrics.jsonl, `output`/checkpoints, and `output`/model (SFT) or
    `output`/snapshots/step_N (RL).

    Raises:
        PipelineError: a bad value, a missing model, or a loss that is not finite.
        Requeue: SIGTERM or SIGUSR1 came; the checkpoint of the step it stopped after is written.
    """
    check(spec)
    check_output(spec)
    if finished(spec):
        return
    transformers_logging.disable_progress_bar()
    # it warns that checkpoints are put in numerical order, which is what we want
    logging.getLogger("transformers.trainer_utils").setLevel(logging.ERROR)
    # accelerate has chosen the device of this rank; NCCL only says that it takes that one
    warnings.filterwarnings(
        "ignore", message=r"barrier\(\): using the device under current context"
    )
    join_processes(spec.compute)
    updates = 1 if isinstance(spec, SftSpec) else spec.algorithm.updates_per_step
    stop = StopCallback(Path(spec.output, ASKED) if SUPERVISED in os.environ else None, updates)
    with stopped_by(stop.hear):
        if isinstance(spec, SftSpec):
            _run_sft(spec, log, stop)
        else:
            _run_rl(spec, log, stop)


def _run_sft(spec: SftSpec, log: Log | None, stop: StopCallback) -> None:
    output = Path(spec.output)
    args = sft_arguments(spec)
    architecture = build(Architecture, spec.model.architecture, "model.architecture")
    with PartialState().main_process_first():
        if PartialState().is_main_process:
            prepare_output(spec)
            if not (output / "init").exists():
                make_model(architecture, output / ".init.partial", spec.seed)
                (output / ".init.partial").rename(output / "init")
    trainer = build_sft(spec, args, str(output / "init"), log)
    _train(trainer, spec, stop)
    model: Any = trainer.model
    tokenizer: Any = trainer.processing_class
    weights = master_weights(model, keep=PartialState().is_main_process)
    if PartialState().is_main_process:
        write_model(output / "model", model, weights, tokenizer, "float32")


def _run_rl(spec: RlSpec, log: Log | None, stop: StopCallback) -> None:
    args = rl_arguments(spec)
    with PartialState().main_process_first():
        if PartialState().is_main_process:
            prepare_output(spec)
    _train(build_rl(spec, args, log), spec, stop)


def _train(trainer: Trainer, spec: Spec, stop: StopCallback) -> None:
    resumed = resumable(spec)
    trainer.add_callback(stop)
    begun = None if resumed is None else str(plain_path(resumed[0]))
    try:
        trainer.train(resume_from_checkpoint=begun)
    finally:
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, SnapshotCallback):
                callback.writer.join()  # whoever starts the run again finds nothing at work
    stop.leave()


def main() -> int:
    """Run the spec named on the command line; a mistake is one line and exit code 1.

    Under `launch` the line goes to a file that it reads, and `launch` says it.
    """
    if len(sys.argv) != 2:
        print("usage: python -m pipeline.training.worker SPEC.json", file=sys.stderr)
        return 2
    die_with_parent(signal.SIGKILL)  # a launcher that was killed cannot end its ranks
    path = Path(sys.argv[1])
    said = path.with_name(ERROR_FILE)

    def tell(line: str) -> bool:
        with contextlib.suppress(OSError):  # the disk may be what the line is about
            if not said.exists():
                write_text(said, f"{line}\n")
            return SUPERVISED in os.environ
        return False

    def explain(error: BaseException) -> str | None:
        """Where another rank has failed, this one only loses touch with it."""
        lost = isinstance(error, RuntimeError) and SUPERVISED in os.environ and said.exists()
        return "this rank ends, since another one has failed" if lost else None

    with one_line(explain, tell=tell):
        try:
            run(read_spec(path))
        except Requeue as stop:
            if SUPERVISED not in os.environ:
                raise
            if PartialState().is_main_process:
                write_text(path.with_name(STOPPED), f"{stop}\n")
        if distributed.is_initialized():
            distributed.destroy_process_group()  # or NCCL warns at the end of every run
    return 0


if __name__ == "__main__":
    sys.exit(main())
