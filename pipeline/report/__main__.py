"""Makes a page from finished work: `python -m pipeline.report RUN...`

RUN is the folder of a run, whose own page is made again (RUN/report/index.html), or of a sweep, or
several folders of either: then one page is made over all their jobs, in the folder around them.
Nothing is computed again: all of it is read from files.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.ending import command
from pipeline.errors import PipelineError
from pipeline.status.reader import Run, read

USAGE = "usage: python -m pipeline.report RUN..."


def main(arguments: list[str]) -> None:
    """Make the page of these folders."""
    options = [argument for argument in arguments if argument.startswith("-")]
    if options:
        raise PipelineError(f"{options[0]}: no such option; {USAGE}")
    if not arguments:
        raise PipelineError(f"no folder given; {USAGE}")
    paths = [Path(argument).expanduser() for argument in arguments]
    found = [item for path in paths for item in read(path)]
    if len(found) == 1 and isinstance(found[0], Run) and Path(found[0].path) == paths[0]:
        from pipeline.report.page import write_page

        print(f"report: {write_page(paths[0])}")
        return
    from pipeline.report.sweep.page import write_sweep_page

    print(f"report: {write_sweep_page(paths)}")


if __name__ == "__main__":
    command(main, __doc__)
