"""Runs a whole program as a script; its exit status is this process's."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from .confine import limit, new_module


def main(memory: int, cpu: int, file: int, code_fd: int) -> NoReturn:
    with os.fdopen(code_fd, encoding="utf-8") as source:
        text = source.read()
    limit(memory, cpu, file)
    code = compile(text, "solution.py", "exec", dont_inherit=True)
    sys.argv = ["solution.py"]
    exec(code, new_module("__main__"))
    raise SystemExit(0)
