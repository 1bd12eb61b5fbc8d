"""torchrun without its own report of a failed rank, which has said what happened, and deaf to the
signals that ask for a stop: the ranks act on those between two steps.

`python -m pipeline.training.elastic` takes torchrun's arguments.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

from pipeline.processes import be_parent
from pipeline.stopping import stopped_by


def main() -> int:
    """Start the ranks and wait for them; the exit code of one that fails."""
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGINT,SIGHUP,SIGQUIT"
    be_parent()
    with stopped_by(lambda name: None):
        try:
            run(parse_args(sys.argv[1:]))
        except ChildFailedError as error:
            codes = [failure.exitcode for failure in error.failures.values()]
            return _exit_code(codes)
        except SignalException:
            return 1
    return 0


def _exit_code(codes: Sequence[int]) -> int:
    """Of ranks that ended badly: a signal's where one was ended by it, but SIGTERM, by which the
    launcher ends the others once one has failed, only where there is nothing else."""
    ended = sorted((-code for code in codes if code < 0), key=lambda sign: sign == signal.SIGTERM)
    failed = any(code > 0 for code in codes)
    return 1 if not ended or (failed and ended[0] == signal.SIGTERM) else 128 + ended[0]


if __name__ == "__main__":
    sys.exit(main())
