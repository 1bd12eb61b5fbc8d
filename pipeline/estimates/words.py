"""Sizes, numbers and times in words, and the lines that a dry run prints below a stage."""

from __future__ import annotations

from collections.abc import Mapping

INDENT = "\n" + " " * 25  # under the words of the plan


def lines(*texts: str) -> str:
    """What follows the words of a plan: a line for each text that is not empty."""
    return "".join(f"{INDENT}{text}" for text in texts if text)


def size(amount: float) -> str:
    """Bytes."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if amount >= scale:
            return f"{_three(amount / scale)} {unit}"
    return f"{amount / 1e3:.3g} kB"


def number(amount: float) -> str:
    """A count: 52 900 000 000 is 52.9 G."""
    for unit, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if amount >= scale:
            return f"{_three(amount / scale)} {unit}"
    return f"{amount:.3g}"


def duration(seconds: float) -> str:
    """Seconds, in the unit that one would use."""
    for unit, scale in (("h", 3600.0), ("min", 60.0)):
        if seconds >= scale:
            return f"{_three(seconds / scale)} {unit}"
    return f"{seconds:.2g} s"


def _three(amount: float) -> str:
    """Three digits that count, without an exponent."""
    return f"{float(f'{amount:.3g}'):.10g}"


def out_of(amount: float, available: float | None) -> str:
    """Bytes, of how many, and whether there are as many."""
    if available is None:
        return size(amount)
    over = " (more than there is)" if amount > available else ""
    return f"{size(amount)} of {size(available)}{over}"


def memory(what: str, parts: Mapping[str, float], available: float | None) -> str:
    """Bytes a device by part, and whether the device has them."""
    listed = ", ".join(f"{name} {size(part)}" for name, part in parts.items() if part)
    return f"memory a device, {what}: {out_of(sum(parts.values()), available)}: {listed}"
