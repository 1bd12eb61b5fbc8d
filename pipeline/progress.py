"""Progress bars with rate and time left: one look for every stage."""

from __future__ import annotations

import sys
from collections.abc import Callable

from tqdm import tqdm

Listener = Callable[[str, float, float | None, str], None]  # label, done, total, unit

_silent = False
_listener: Listener | None = None


def listen(listener: Listener | None) -> None:
    """Have every bar of this process tell `listener`, too, how far it is."""
    global _listener
    _listener = listener


class _Told(tqdm):
    """A bar that tells the listener of every step."""

    def update(self, n: float | None = 1) -> bool | None:
        shown = super().update(n)
        if _listener is not None and not self.disable:
            _listener(str(self.desc or "").removesuffix(": "), self.n, self.total, str(self.unit))
        return shown


def silence() -> None:
    """No bars from here on: this process only helps another one that shows them."""
    global _silent
    _silent = True


def close_all() -> None:
    """End every bar, the libraries' too, so that what is said next begins on a line of its own."""
    for shown in list(tqdm._instances):
        shown.close()


def bar(total: int | None, desc: str, unit: str = "it", scale: bool = False) -> tqdm[None]:
    """A progress bar on stderr.

    Args:
        total: number of units, or None if unknown.
        desc: what is being done, e.g. "linear_probe".
        unit: name of the unit, shown in the rate.
        scale: True for bytes and the like (k, M, G).

    On a terminal it redraws ten times a second; in a log file it prints a line every ten seconds,
    so that Slurm output stays readable.
    """
    tty = sys.stderr.isatty()
    return _Told(
        total=total,
        desc=desc,
        unit=unit,
        unit_scale=scale,
        unit_divisor=1024 if unit == "B" else 1000,
        mininterval=0.1 if tty else 10.0,
        dynamic_ncols=tty,
        ascii=not tty,
        leave=True,
        file=sys.stderr,
        disable=_silent,
    )
