"""Runs the GPU steps one after the other, each under its own time limit, into one JSON and a table.

python -m tests.gpu.check --out DIR [--tiny] [--only STEP ...] [--budget SECONDS]

A step that fails or runs out of time is a row with what it said last; the next one starts all the
same. What there is is written after every step, so that a machine taken away leaves the rest.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from tests.gpu.bench import Bench, Step, StepError
from tests.gpu.steps import STEPS

TINY_SLOWER = 4  # times as long may a step take on a CPU


def main() -> int:
    """Run the steps; exit code 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true", help="sizes for a CPU: only that it runs")
    parser.add_argument("--only", nargs="+", choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--budget", type=float, default=520, help="seconds for all steps")
    options = parser.parse_args()
    out: Path = options.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    (out / "steps.log").unlink(missing_ok=True)
    end = time.monotonic() + options.budget
    found: dict[str, Any] = {"machine": machine(), "tiny": options.tiny, "steps": {}}
    work = Path(tempfile.mkdtemp(prefix="gpu_check_"))
    try:
        for name in options.only:
            step, limit = STEPS[name]
            bench = Bench(work, options.tiny, out / "steps.log")
            allowed = limit * (TINY_SLOWER if options.tiny else 1)
            found["steps"][name] = attempt(bench, step, min(allowed, end - time.monotonic()))
            write(out, found)
            print(row(name, found["steps"][name]), flush=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return int(any(result["state"] != "ok" for result in found["steps"].values()))


def attempt(bench: Bench, step: Step, seconds: float) -> dict[str, Any]:
    """The figures of a step, with its state (ok, failed, no time) and seconds."""
    if seconds < 5:
        return {"state": "no time", "seconds": 0.0}
    start = time.monotonic()
    bench.deadline = start + seconds
    try:
        result = {"state": "ok", **step(bench)}
    except StepError as error:
        result = {"state": "failed", "why": str(error)}
    except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError) as error:
        # results of another form than the step expects; the steps behind it are worth as much
        result = {"state": "failed", "why": repr(error), "where": traceback.format_exc()[-800:]}
    finally:
        bench.end()
    return {**result, "seconds": round(time.monotonic() - start, 1)}


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import torch

    cuda = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name(0) if cuda else platform.processor() or "cpu",
        "cores": len(os.sched_getaffinity(0)),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


def write(out: Path, found: dict[str, Any]) -> None:
    """results.json and table.md, whole or as they were."""
    lines = [f"{found['machine']['device']}, {found['machine']['date']}", ""]
    lines += ["| step | state | seconds | figures |", "|---|---|---|---|"]
    lines += [row(name, result) for name, result in found["steps"].items()]
    for name, text in (
        ("results.json", json.dumps(found, indent=1)),
        ("table.md", "\n".join(lines) + "\n"),
    ):
        partial = out / f".{name}"
        partial.write_text(text, encoding="utf-8")
        partial.replace(out / name)


def row(name: str, result: dict[str, Any]) -> str:
    """A line of the table."""
    hidden = ("state", "seconds", "where", "curves")
    figures = ", ".join(f"{k} {_short(v)}" for k, v in result.items() if k not in hidden)
    return f"| {name} | {result['state']} | {result['seconds']:g} | {figures} |"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return "(" + ", ".join(f"{key} {_short(inner)}" for key, inner in value.items()) + ")"
    return str(value).replace("|", "/").replace("\n", " ")


if __name__ == "__main__":
    sys.exit(main())
