"""Limits that a process sets itself before it loads code that is not ours; its descriptors."""

from __future__ import annotations

import os
import resource
import site
import sys
import types
from typing import Any

RECURSION = 20_000  # calls of Python functions
STACK = 120 * 2**20  # bytes for recursion through C; Linux leaves room for 128 MB


def limit(memory: int, cpu: int, file: int) -> None:
    """Limits that this process and its successors cannot raise again. Bytes and seconds."""
    for what, amount in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_FSIZE, file),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 1024),  # threads of one user; not enforced for root
    ):
        resource.setrlimit(what, (amount, amount))
    most = resource.getrlimit(resource.RLIMIT_STACK)[1]
    stack = STACK if most == resource.RLIM_INFINITY else min(STACK, most)
    resource.setrlimit(resource.RLIMIT_STACK, (stack, most))
    sys.set_int_max_str_digits(0)
    sys.setrecursionlimit(RECURSION)
    if sys.flags.no_site:  # exit() and quit() all the same
        site.setquit()


def private_streams() -> tuple[int, int]:
    """Move stdin and stdout to other descriptors and put /dev/null in their place."""
    incoming, outgoing = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    return incoming, outgoing


def new_module(name: str) -> dict[str, Any]:
    """Namespace of a module that can be found by its name (dataclasses look it up)."""
    sys.modules[name] = types.ModuleType(name)
    return vars(sys.modules[name])
