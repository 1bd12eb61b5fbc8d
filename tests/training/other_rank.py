"""A rank of a run that does one thing otherwise, by $OTHER_RANK: for `test_deltas`.

die          rank 1 is killed in the middle of its part of the snapshot of step 4
part         the disk of rank 1 is full when it writes that part
checkpoint   it is full when it writes its part of the checkpoint of step 4
everything   the same, with no room for the file in which it would say so
gather       the first rank gathers and writes all
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from pipeline.training import callbacks, worker
from pipeline.training.worker import main
from pipeline.trajectory.writer import ShardFile

write = ShardFile.write
save = callbacks.WholeCheckpoints._save_checkpoint


def die(self: Any, *piece: Any) -> None:
    if os.environ["RANK"] == "1" and "step_4" in str(self._folder):
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, *piece)


def full(self: Any, *piece: Any) -> None:
    if os.environ["RANK"] == "1" and "step_4" in str(self._folder):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # without a name, as of a write
    write(self, *piece)


def no_room(self: Any, *arguments: Any) -> None:
    """Files end where they are as large as a block: each library fails in its own words."""
    if os.environ["RANK"] == "1" and self.state.global_step == 8:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    save(self, *arguments)


def nothing(path: Path, text: str) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def nowhere(self: Any, *arguments: Any) -> None:
    if os.environ["RANK"] == "1" and self.state.global_step == 8:
        setattr(worker, "write_text", nothing)  # noqa: B010
        nothing(Path(self.args.output_dir, "checkpoint-8"), "")
    save(self, *arguments)


def gather(*arguments: Any) -> None:
    """No parts."""


if __name__ == "__main__":
    match os.environ["OTHER_RANK"]:
        case "die":
            setattr(ShardFile, "write", die)  # noqa: B010
        case "part":
            setattr(ShardFile, "write", full)  # noqa: B010
        case "gather":
            setattr(callbacks, "parts_of", gather)  # noqa: B010
        case "everything":
            setattr(callbacks.WholeCheckpoints, "_save_checkpoint", nowhere)  # noqa: B010
        case _:
            setattr(callbacks.WholeCheckpoints, "_save_checkpoint", no_room)  # noqa: B010
    sys.exit(main())
