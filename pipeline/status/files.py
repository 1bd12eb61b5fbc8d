"""The files that tell how far a run is, read as strangers' files: a value of another type than this
version writes is left out, since whoever asks wants to know what can be known."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pipeline.fields import fits

TYPES = {
    # status.json
    "state": str,
    "stage": str,
    "stages": list[str],
    "given": list[str],
    "process": dict[str, Any],
    "progress": dict[str, Any],
    "waits_for": dict[str, str],
    "error": str,
    "log": str,
    "updated": float,
    "of": str,
    # done.json
    "seconds": float,
    # sweep.json
    "command": list[str],
    "jobs": list[list[str]],
}
PROGRESS = {
    "label": str,
    "done": float,
    "total": float | None,
    "unit": str,
    "seconds_left": float | None,
}


def read_object(path: Path) -> dict[str, Any]:
    """The fields of a file's JSON object that are of their types; none where there is no object, or
    not yet, or not any more."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(value, dict):
        return {}
    found = {k: v for k, v in value.items() if fits(v, TYPES.get(k, Any)) and _finite(v)}
    progress = found.get("progress")
    if progress is not None and not all(
        key in progress and fits(progress[key], hint) and _finite(progress[key])
        for key, hint in PROGRESS.items()
    ):
        del found["progress"]
    return found


def _finite(value: Any) -> bool:
    """Whether a value, if it is a number, is one that a float can hold."""
    return not isinstance(value, int | float) or abs(value) <= sys.float_info.max
