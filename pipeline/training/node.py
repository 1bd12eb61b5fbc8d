"""The ranks of one node under DeepSpeed's launcher, deaf to the signals that ask for a stop: the
ranks act on those between two steps, where the launcher would end them at once.

`python -m pipeline.training.node` takes the arguments of `deepspeed.launcher.launch`.
"""

from __future__ import annotations

import signal
from typing import Any

from deepspeed.launcher import launch

from pipeline.stopping import SIGNALS, stopped_by
from pipeline.training.processes import be_parent


class _Deaf:
    """The signal module as the launcher uses it, without handlers for the signals that are ours."""

    SIGINT, SIGTERM = signal.SIGINT, signal.SIGTERM

    @staticmethod
    def signal(number: int, handler: Any) -> None:
        if number not in SIGNALS:
            signal.signal(number, handler)


def main() -> None:
    """Start the ranks and wait for them; ends with the exit code of one that fails."""
    launch.signal = _Deaf
    be_parent()
    with stopped_by(lambda name: None):
        try:
            launch.main()
        except SystemExit as end:
            if isinstance(end.code, int) and end.code < 0:  # the signal that ended a rank
                raise SystemExit(128 - end.code) from None
            raise


if __name__ == "__main__":
    main()
