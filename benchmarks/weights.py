"""Speed and memory of the trajectory core against the floor, and against other ways.

    python benchmarks/weights.py --scale small           # 0.63 B parameters, 8 GB of disk
    python benchmarks/weights.py --scale 1.5b            # 1.78 B parameters, 25 GB of disk
    python benchmarks/weights.py --scale 1.5b --peers    # other ways as well: minutes, 23 GB of RAM
    python benchmarks/weights.py --against benchmarks/weights.json    # exit code 1 if it got worse

It makes four bf16 checkpoints of a real model's shapes. The floor of a job is to read the same
inputs and to copy one of them for each output, in one thread. Floor and job take turns, each in a
process of its own with nothing left to write back from the one before; once with the inputs in the
page cache, once from disk (the system is told to forget them, and outputs are written through).
Printed: the median of the turns, the floor's bytes a second, the ratio of job and floor in the same
turn (median, least and most), processor time a scalar, and the peak of RssAnon (mapped file pages
are not in it). mergekit takes part where `mergekit-yaml` is on the PATH.
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
from regressions import compare, ratios
from weights_jobs import CASES, SCALES, Case, floor, make_checkpoints, shapes

from pipeline.processes import die_with_parent

FLOOR, OURS = "floor", "ours"
CACHED, DISK = "page cache", "disk"


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


def moved() -> tuple[int, int]:
    """Bytes that this process has read and written by system calls."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"]), int(fields["wchar"])


def run_job(case: Case, who: str, folder: Path, where: str) -> dict[str, float]:
    """In this process: seconds, processor seconds, bytes by system calls and peaks of memory."""
    peak, root, out = Peak(), folder / "run", folder / "out"
    with watched(peak):
        before, begin = os.times(), time.perf_counter()
        read, written = moved()
        if who == FLOOR:
            floor(root, out, case.reads, case.writes)
        elif who == OURS:
            case.ours(root, out)
        else:
            case.peers[who](root, out)
        if where == DISK:
            os.sync()
        seconds, after = time.perf_counter() - begin, os.times()
        now_read, now_written = moved()
    return {
        "seconds": seconds,
        "processor": sum(after[:4]) - sum(before[:4]),
        "read": now_read - read,
        "written": now_written - written,
        "anonymous": peak.anonymous,
        "resident": peak.resident,
    }


def forget(root: Path) -> None:
    """Have the system drop the inputs from its page cache."""
    for path in root.rglob("*.safetensors"):
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def timed(key: str, who: str, folder: Path, where: str) -> dict[str, float]:
    """`run_job` in a process of its own, with empty write queues."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    os.sync()
    if where == DISK:
        forget(folder / "run")
    command = [sys.executable, __file__, "--dir", str(folder), "--job", key, "--who", who]
    output = subprocess.run(
        [*command, "--where", where],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
        preexec_fn=die_with_parent,
    ).stdout
    shutil.rmtree(folder / "out", ignore_errors=True)
    found: dict[str, float] = json.loads(output.splitlines()[-1])
    return found


def show(name: str, turns: list[dict[str, float]], least: list[dict[str, float]], n: int) -> None:
    """A row of the table; n scalars."""

    def median(key: str, of: list[dict[str, float]] = turns) -> float:
        return statistics.median(turn[key] for turn in of)

    ratio, moves = (
        ratios(least[: len(turns)], turns),
        median("read", least) + median("written", least),
    )
    print(
        f"| {name} | {median('seconds'):.2f} | {moves / median('seconds') / 1e9:.2f} "
        f"| {ratio['ratio']:.2f} ({ratio['least']:.2f} to {ratio['most']:.2f}) "
        f"| {median('processor') / n * 1e9:.1f} | {median('anonymous') / 1e6:.0f} |",
        flush=True,
    )


def benchmark(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run the chosen cases; prints a table and returns every turn's figures by case and place."""
    count = sum(torch.Size(shape).numel() for _, shape in shapes(arguments.scale))
    if not (folder / "run").exists():
        make_checkpoints(folder / "run", arguments.scale)
    print(f"{count / 1e9:.2f} B parameters, {machine()}")
    print("| job | seconds | GB/s | of the floor | ns a scalar, all cores | anonymous MB |")
    print("|---|--:|--:|--:|--:|--:|")
    results: dict[str, Any] = {}
    for key in arguments.cases:
        case = CASES[key]
        for where in arguments.where:
            runs: dict[str, list[dict[str, float]]] = {FLOOR: [], OURS: []}
            for turn in range(arguments.turns):
                if where == CACHED and not turn:
                    timed(key, FLOOR, folder, where)  # fills the cache
                for who in (FLOOR, OURS) if turn % 2 == 0 else (OURS, FLOOR):
                    runs[who].append(timed(key, who, folder, where))
            least = runs[FLOOR]
            show(f"{where}: floor: read {case.reads}, write {case.writes}", least, least, count)
            show(f"{where}: **{case.name}**", runs[OURS], least, count)
            for peer in case.peers if arguments.peers else ():
                if peer == "mergekit" and shutil.which("mergekit-yaml") is None:
                    continue
                runs[peer] = [timed(key, peer, folder, where)]
                show(f"{where}: {peer}", runs[peer], least, count)
            results.setdefault(key, {})[where] = runs
    return results


def machine() -> str:
    """Processor and cores, as a reader would name the machine."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores of {names[0] if names else platform.machine()}"


def summary(scale: str, results: dict[str, Any]) -> dict[str, Any]:
    """What is committed: ratios to the floor, and what they were measured on."""
    return {
        "machine": machine(),
        "date": time.strftime("%Y-%m-%d"),
        "scale": scale,
        "cases": {
            key: {where: ratios(runs[FLOOR], runs[OURS]) for where, runs in places.items()}
            for key, places in results.items()
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", choices=list(SCALES), default="small")
    parser.add_argument("--dir", type=Path, help="for the checkpoints (default: a temp folder)")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--where", nargs="+", choices=[CACHED, DISK], default=[CACHED, DISK])
    parser.add_argument("--turns", type=int, default=3, help="of floor and job each")
    parser.add_argument("--peers", action="store_true", help="time other ways as well, once each")
    parser.add_argument("--json", type=Path, help="write every turn's figures here")
    parser.add_argument("--against", type=Path, help="committed ratios: exit code 1 if worse")
    parser.add_argument("--save", type=Path, help="write the ratios here, to be committed")
    parser.add_argument("--job", choices=list(CASES), help=argparse.SUPPRESS)
    parser.add_argument("--who", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        [where] = arguments.where
        print(json.dumps(run_job(CASES[arguments.job], arguments.who, arguments.dir, where)))
        return 0
    folder = arguments.dir or Path(tempfile.mkdtemp(prefix="weights-"))
    try:
        results = benchmark(arguments, folder)
    finally:
        if not arguments.dir:
            shutil.rmtree(folder)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))
    measured = summary(arguments.scale, results)
    if arguments.save:
        arguments.save.write_text(json.dumps(measured, indent=1) + "\n")
    return compare(arguments.against, measured) if arguments.against else 0


if __name__ == "__main__":
    sys.exit(main())
