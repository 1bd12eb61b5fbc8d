"""Shows what is done, runs, waits or has failed: `python -m pipeline.status RUN...`

RUN is the folder of a run, of a sweep, or one that holds several of them.
  --watch  show it anew every two seconds, until nothing runs any more
  --json   a list of objects, for other programs
Exit code 0 unless a folder is not there or holds no run.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from pipeline.ending import command
from pipeline.errors import PipelineError
from pipeline.status.reader import active, read, to_json
from pipeline.status.show import show

USAGE = "usage: python -m pipeline.status RUN... [--watch] [--json]"
_EVERY = 2.0  # seconds
_CLEAR = "\033[H\033[J"


def main(arguments: list[str]) -> None:
    """Show these folders' runs once, or until nothing runs any more."""
    flags = {argument for argument in arguments if argument.startswith("-")}
    paths = [Path(argument).expanduser() for argument in arguments if argument not in flags]
    unknown = sorted(flags - {"--watch", "--json"})
    if unknown:
        raise PipelineError(f"{unknown[0]}: no such option; {USAGE}")
    if not paths:
        raise PipelineError(f"no folder given; {USAGE}")
    shown = ""
    while True:
        found = [item for path in paths for item in read(path)]
        text = (
            json.dumps([to_json(item) for item in found], indent=1, ensure_ascii=False)
            if "--json" in flags
            else show(found)
        )
        if text != shown:
            print(_CLEAR + text if "--watch" in flags and sys.stdout.isatty() else text, flush=True)
        shown = text
        if "--watch" not in flags or not any(map(active, found)):
            return
        time.sleep(_EVERY)


if __name__ == "__main__":
    command(main, __doc__)
