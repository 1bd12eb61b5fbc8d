"""A rank of a run that does one thing otherwise, by $OTHER_RANK: for `test_deltas`.

die      rank 1 is killed in the middle of its part of the snapshot of step 4
gather   the first rank gathers and writes all
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from pipeline.training import callbacks
from pipeline.training.worker import main
from pipeline.trajectory.writer import ShardFile

write = ShardFile.write


def die(self: Any, *piece: Any) -> None:
    if os.environ["RANK"] == "1" and "step_4" in str(self._folder):
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, *piece)


def gather(*arguments: Any) -> None:
    """No parts."""


if __name__ == "__main__":
    if os.environ["OTHER_RANK"] == "die":
        setattr(ShardFile, "write", die)  # noqa: B010
    else:
        setattr(callbacks, "parts_of", gather)  # noqa: B010
    sys.exit(main())
