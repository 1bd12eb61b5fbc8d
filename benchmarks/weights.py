"""Speed and memory of the trajectory core against the floor, and against other ways.

    python benchmarks/weights.py --scale small           # 0.63 B parameters, 8 GB of disk
    python benchmarks/weights.py --scale 1.5b            # 1.78 B parameters, 25 GB of disk
    python benchmarks/weights.py --scale 1.5b --peers    # other ways as well: minutes, 23 GB of RAM

It makes four bf16 checkpoints of a real model's shapes. The floor of a job is to read the same
inputs and to copy one of them for each output, in one thread. Floor and job take turns, each in a
process of its own with nothing left to write back from the one before; the page cache is used as
it comes. Printed: the median of the turns, the ratio of the medians, cores kept busy, and the
peaks of memory: RssAnon (mapped file pages are not in it) and VmHWM (they are). mergekit takes part
where `mergekit-yaml` is on the PATH.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from weights_jobs import CASES, SCALES, Case, floor, make_checkpoints, shapes

FLOOR, OURS = "floor", "ours"


@dataclass
class Peak:
    """Most memory that this process and its children held at once, in bytes."""

    anonymous: int = 0
    resident: int = 0

    def look(self) -> None:
        processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
        anonymous = resident = 0
        for process in processes:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            except OSError:  # it has ended
                continue
            fields = dict(line.split(":", 1) for line in status)
            anonymous += int(fields.get("RssAnon", "0 kB").split()[0]) * 1024
            resident += int(fields.get("VmRSS", "0 kB").split()[0]) * 1024
        self.anonymous = max(self.anonymous, anonymous)
        self.resident = max(self.resident, resident)


@contextmanager
def watched(peak: Peak) -> Iterator[None]:
    """Look at the memory 20 times a second."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            peak.look()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
        peak.look()


def run_job(case: Case, who: str, root: Path, out: Path) -> dict[str, float]:
    """In this process: seconds, cores kept busy and peaks of memory."""
    peak = Peak()
    with watched(peak):
        before, begin = os.times(), time.perf_counter()
        if who == FLOOR:
            floor(root, out, case.reads, case.writes)
        elif who == OURS:
            case.ours(root, out)
        else:
            case.peers[who](root, out)
        seconds, after = time.perf_counter() - begin, os.times()
    busy = sum(after[:4]) - sum(before[:4])
    return {
        "seconds": seconds,
        "cores": busy / seconds,
        "anonymous": peak.anonymous,
        "resident": peak.resident,
    }


def timed(key: str, who: str, folder: Path) -> dict[str, float]:
    """`run_job` in a process of its own, with empty write queues."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    os.sync()
    command = [sys.executable, __file__, "--dir", str(folder), "--job", key, "--who", who]
    output = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
    ).stdout
    shutil.rmtree(folder / "out", ignore_errors=True)
    found: dict[str, float] = json.loads(output.splitlines()[-1])
    return found


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def show(name: str, found: dict[str, float], least: dict[str, float]) -> None:
    print(
        f"| {name} | {found['seconds']:.1f} | {found['seconds'] / least['seconds']:.2f} "
        f"| {found['cores']:.2f} | {found['anonymous'] / 1e6:.0f} "
        f"| {found['resident'] / 1e6:.0f} |",
        flush=True,
    )


def benchmark(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run the chosen cases; prints a table and returns all figures."""
    count = sum(torch.Size(shape).numel() for _, shape in shapes(arguments.scale))
    if not (folder / "run").exists():
        make_checkpoints(folder / "run", arguments.scale)
    cores = len(os.sched_getaffinity(0))
    print(f"{count / 1e9:.2f} B parameters, {cores} cores, {platform.machine()}")
    print("| job | seconds | of the floor | cores busy | anonymous MB | resident MB |")
    print("|---|--:|--:|--:|--:|--:|")
    results: dict[str, Any] = {}
    for key in arguments.cases:
        case, runs = CASES[key], {FLOOR: [], OURS: []}  # type: ignore[var-annotated]
        for turn in range(arguments.turns):
            for who in (FLOOR, OURS) if turn % 2 == 0 else (OURS, FLOOR):
                runs[who].append(timed(key, who, folder))
        least = medians(runs[FLOOR])
        show(f"floor: read {case.reads}, write {case.writes}", least, least)
        show(f"**{case.name}**", medians(runs[OURS]), least)
        if arguments.peers:
            for peer in case.peers:
                if peer == "mergekit" and shutil.which("mergekit-yaml") is None:
                    continue
                runs[peer] = [timed(key, peer, folder)]
                show(peer, runs[peer][0], least)
        results[case.name] = runs
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", choices=list(SCALES), default="small")
    parser.add_argument("--dir", type=Path, help="for the checkpoints (default: a temp folder)")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--turns", type=int, default=3, help="of floor and job each")
    parser.add_argument("--peers", action="store_true", help="time other ways as well, once each")
    parser.add_argument("--json", type=Path, help="write every turn's figures here")
    parser.add_argument("--job", choices=list(CASES), help=argparse.SUPPRESS)
    parser.add_argument("--who", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        folder = arguments.dir
        found = run_job(CASES[arguments.job], arguments.who, folder / "run", folder / "out")
        print(json.dumps(found))
        return
    folder = arguments.dir or Path(tempfile.mkdtemp(prefix="weights-"))
    try:
        results = benchmark(arguments, folder)
    finally:
        if not arguments.dir:
            shutil.rmtree(folder)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
