"""A program that looks for holes in the sandbox it runs in; sandbox.check_bwrap starts it.

Prints the first hole that it finds and exits with status 1. Nothing is ever written: that a file
opens for writing is enough.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

STATUS = {"CapPrm": "0000000000000000", "CapEff": "0000000000000000", "NoNewPrivs": "1"}
STATUS["Seccomp"] = "2"  # a filter
TREES = ("/proc", "/sys", "/dev")
HARMLESS = {f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom")}
SYSCTLS = ("/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sysrq-trigger")


def opens_for_writing(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True


def files(folder: str) -> Iterator[str]:
    """Everything below a folder that is neither a folder nor a link."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        try:
            if entry.is_dir(follow_symlinks=False):
                yield from files(entry.path)
            elif not entry.is_symlink():
                yield entry.path
        except OSError:
            continue  # a process or thread that ended


def find_hole(needed: list[str]) -> str | None:
    """What is wrong with this sandbox, in words.

    Args:
        needed: folders whose files a program must be able to read, besides Python's own.
    """
    with open("/proc/self/status") as status:
        fields = dict(line.split(":\t", 1) for line in status.read().splitlines() if ":\t" in line)
    for name, safe in STATUS.items():
        if fields.get(name) != safe:
            return f"{name} is {fields.get(name)} inside, not {safe}"
    others = [name for name in os.listdir("/proc") if name.isdigit() and name != "1"]  # noqa: PTH208
    if others != [str(os.getpid())]:
        return f"process {others[0]} can be seen inside"
    with open("/proc/net/dev") as devices:
        if [line.split(":")[0].strip() for line in devices][2:] != ["lo"]:
            return "there is a network inside"
    for tree in TREES:
        for path in files(tree):
            if path not in HARMLESS and opens_for_writing(path):
                return f"{path} opens for writing inside"
    for folder in [os.path.dirname(os.__file__), *needed]:  # noqa: PTH120  (a small program)
        for entry in os.scandir(folder):
            there = os.path.exists(entry.path)  # noqa: PTH110  (not a link to a file of the system)
            if there and not os.access(entry.path, os.R_OK):
                return f"{entry.path} cannot be read inside; chmod -R a+rX {folder} lets it be"
    return None


def main() -> None:
    if sys.argv[1] == "user":  # before /proc is made read-only: what its user may do
        hole = next((f"{p} opens for writing" for p in SYSCTLS if opens_for_writing(p)), None)
    else:
        hole = find_hole(sys.argv[2:])
    if hole is not None:
        raise SystemExit(hole)


if __name__ == "__main__":
    main()
