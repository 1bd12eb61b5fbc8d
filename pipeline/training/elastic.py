"""torchrun without its own report of a failed rank, which has said what happened, and deaf to the
signals that ask for a stop: the ranks act on those between two steps.

`python -m pipeline.training.elastic` takes torchrun's arguments.
"""

from __future__ import annotations

import logging
import os
import sys

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
            return next((128 - code for code in codes if code < 0), 1)
        except SignalException:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
