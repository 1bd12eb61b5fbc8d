"""The ranks of one node under DeepSpeed's launcher, deaf to the signals that ask for a stop: the
ranks act on those between two steps, where the launcher would end them at once.

`python -m pipeline.training.node` takes the arguments of `deepspeed.launcher.launch`.
"""

from __future__ import annotations

import signal
import subprocess
from typing import Any

from deepspeed.launcher import launch

from pipeline.processes import be_parent
from pipeline.stopping import SIGNALS, stopped_by


class _Deaf:
    """The signal module as the launcher uses it, without handlers for the signals that are ours."""

    SIGINT, SIGTERM = signal.SIGINT, signal.SIGTERM

    @staticmethod
    def signal(number: int, handler: Any) -> None:
        if number not in SIGNALS:
            signal.signal(number, handler)


class _Ranks:
    """The subprocess module as the launcher uses it, and the exit codes that ranks had when the
    launcher began to end the others: where one is killed, those that wait for it fail as well,
    and the launcher names whichever it finds first."""

    def __init__(self) -> None:
        self._started: list[subprocess.Popen[bytes]] = []
        self.codes: list[int | None] = []

    def Popen(self, *arguments: Any, **options: Any) -> subprocess.Popen[bytes]:  # noqa: N802
        self._started.append(subprocess.Popen(*arguments, **options))
        return self._started[-1]

    def end(self, pid: int) -> None:
        """End a rank and all that it has started."""
        self.codes = self.codes or [rank.poll() for rank in self._started]
        _end_tree(pid)


_end_tree = launch.terminate_process_tree


def main() -> None:
    """Start the ranks and wait for them; ends with the exit code of one that failed, 128 and the
    signal's number if one was ended by a signal."""
    ranks = _Ranks()
    launch.signal, launch.subprocess, launch.terminate_process_tree = _Deaf, ranks, ranks.end
    be_parent()
    with stopped_by(lambda name: None):
        try:
            launch.main()
        except SystemExit:
            for code in ranks.codes:
                if code is not None and code < 0:
                    raise SystemExit(128 - code) from None
            raise


if __name__ == "__main__":
    main()
