"""How every process of this package ends: mistakes in one line, bugs with their traceback, a stop
that a scheduler asked for with a code of its own."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from types import TracebackType

from pipeline.faults import STDOUT, describe, naming
from pipeline.stopping import AGAIN, REQUEUE, Requeue

TRACEBACK = "PIPELINE_TRACEBACK"  # environment variable: tracebacks, in child processes as well


class one_line:  # noqa: N801  (used like a function)
    """A context that ends the process as users should see it: mistakes in one line and exit code
    1, an interrupt in one and 130, a stop by a signal in one and 75 (`pipeline.stopping`). Bugs
    keep their traceback, and everything does where `TRACEBACK` is set.

    Args:
        explain: the line for further kinds of errors, None for the rest; asked first.
        tell: given the line; True if it has been said so, and need not be again.
        quiet: no word if the reader of the output has had enough (`--help | head`).
    """

    def __init__(
        self,
        explain: Callable[[BaseException], str | None] | None = None,
        *,
        tell: Callable[[str], bool] | None = None,
        quiet: bool = False,
    ) -> None:
        self._explain, self._tell = explain, tell
        self._verbose = bool(os.environ.get(TRACEBACK))
        self._quiet = quiet

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, SystemExit):
            error = _flush() or error
        if isinstance(error, KeyboardInterrupt):
            _end(f"interrupted: {AGAIN}", 130)
        if isinstance(error, Requeue):
            _end(str(error), REQUEUE)
        if error is None or isinstance(error, SystemExit):
            return
        if self._quiet and isinstance(error, BrokenPipeError):
            _end("", 1)
        line = (self._explain and self._explain(error)) or describe(error)
        if line is None:
            return
        told = self._tell is not None and self._tell(line)
        if not self._verbose:
            _end("" if told else f"error: {line}", 1)


def command(main: Callable[[list[str]], None], doc: str | None) -> None:
    """Run a module from the command line: `doc` where help is asked for, else `main` on the
    arguments. Mistakes end in one line and exit code 1."""
    print_anything()
    with one_line(quiet=True):
        if {"-h", "--help"} & set(sys.argv[1:]):
            print((doc or "").strip())
        else:
            main(sys.argv[1:])


def print_anything() -> None:
    """A path of any letters can be said on any terminal: what it cannot spell is escaped."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def _flush() -> OSError | None:
    """Write out what was printed; the error if that cannot be done."""
    try:
        with naming(STDOUT):
            sys.stdout.flush()
    except OSError as error:
        return error
    return None


def _end(line: str, code: int) -> None:
    """Say `line` and leave, also where nobody can hear it any more."""
    if "tqdm" in sys.modules:
        from pipeline.progress import close_all

        with contextlib.suppress(OSError):
            close_all()
    for stream, text in ((sys.stdout, ""), (sys.stderr, f"{line}\n" if line else "")):
        try:
            stream.write(text)
            stream.flush()
        except OSError:  # else the interpreter would try again at its end, and complain
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    raise SystemExit(code) from None
