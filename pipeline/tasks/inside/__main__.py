"""Starts one of the programs beside it: the first argument names it, the rest is for it.

    program  a whole program: code from a descriptor; its input and output are this process's.
    serve    loads a candidate's code, then does with its functions and objects what it is asked to.
    check    runs trusted tests against a candidate that lives in another process (serve).

Candidate and tests never share a process. The candidate cannot see the expected values, cannot
replace what compares them, and cannot end the tests early; all it can do is answer. Only `check`
can report success, on a descriptor that the candidate does not have.
"""

from __future__ import annotations

import importlib
import os
import sys

if __name__ == "__main__":
    # At the end of the path, so that nothing beside this folder hides a standard module; and gone
    # again before any code that is not ours is loaded.
    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120  (starts faster)
    sys.path.append(os.path.dirname(here))  # noqa: PTH120
    role = importlib.import_module(f"{os.path.basename(here)}.{sys.argv[1]}")  # noqa: PTH119
    sys.path.pop()
    role.main(*map(int, sys.argv[2:]))
