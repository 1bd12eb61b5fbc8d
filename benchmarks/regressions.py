"""Compare a benchmark's figures with the committed ones, as ratios to the floor of their own turn.

Seconds of two machines say little of each other, ratios to what the same machine needs for reading
and copying the same bytes more. A ratio may still be another machine's: the file says which.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ALLOWED = 0.15  # a ratio may be larger by this share before it counts as worse

Turn = Mapping[str, float]


def ratios(floor: Sequence[Turn], ours: Sequence[Turn]) -> dict[str, float]:
    """Seconds of a job in units of its floor's in the same turn: median, least and most."""
    each = [mine["seconds"] / least["seconds"] for least, mine in zip(floor, ours, strict=True)]
    return {"ratio": statistics.median(each), "least": min(each), "most": max(each)}


def worse(committed: Mapping[str, Any], measured: Mapping[str, Any]) -> list[str]:
    """A line for each figure that got worse by more than `ALLOWED`; [] if none did.

    Args:
        committed: {"scale": ..., "cases": {case: {where: {"ratio": ...}}}}.
        measured: the same; what only one of the two has is not compared.

    Raises:
        ValueError: figures of another scale, whose ratios are others.
    """
    if committed["scale"] != measured["scale"]:
        raise ValueError(
            f"committed figures are of --scale {committed['scale']}, not {measured['scale']}"
        )
    lines = []
    for case, places in committed["cases"].items():
        for where, before in places.items():
            now = measured["cases"].get(case, {}).get(where)
            if now is not None and now["ratio"] > before["ratio"] * (1 + ALLOWED):
                more = now["ratio"] / before["ratio"] - 1
                lines.append(
                    f"{case}, {where}: {now['ratio']:.2f} of the floor, {before['ratio']:.2f} "
                    f"committed ({more:+.0%})"
                )
    return lines


def compare(path: Path, measured: Mapping[str, Any]) -> int:
    """Print what got worse than in the committed file; the exit code: 1 if something did."""
    committed = json.loads(path.read_text())
    lines = worse(committed, measured)
    print(
        f"committed: {committed['machine']}, {committed['date']}; measured: {measured['machine']}"
    )
    print("\n".join(f"worse: {line}" for line in lines) or "nothing is worse by more than 15 %")
    return 1 if lines else 0
