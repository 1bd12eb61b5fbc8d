"""`python -m pipeline` without its start: a fork of a process that has imported everything before.

Most of a short run's time is the import of torch, transformers and TRL. Here one process imports
them once; each run is a fork of it, which then is what `python -m pipeline` is: the same main
module, its own working directory, environment, standard output, error and exit code.

What a fork does not try is the start itself: imports that lack one another, and what another hash
seed changes. `start_pipeline` in conftest starts a process for that, and so does a run with
variables of its own, as libraries read them when they are imported.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

PACKAGES = ("stages", "training", "inference", "evaluation", "report", "tasks", "trajectory")
LEFT_OUT = ("__main__", "vllm", "grader_worker", "inside")
TIMEOUT = 500  # seconds
WRITTEN = os.O_WRONLY | os.O_CREAT | os.O_APPEND
GIVEN = frozenset(os.environ)


class Warm:
    """The process to fork from, started with the first run; it ends with this one."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._environment = {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"}
        self._process: subprocess.Popen[bytes] | None = None

    def suits(self, environment: Mapping[str, str]) -> bool:
        """Whether a fork would have imported everything under these variables."""
        return all(environment.get(key) == value for key, value in self._environment.items())

    def run(self, arguments: Sequence[str], cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run `python -m pipeline ARGUMENTS` in `cwd` and wait for its end."""
        process = self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder, name) for name in ("stdout", "stderr")]
            request = {
                "arguments": list(arguments),
                "cwd": str(cwd),
                "environment": dict(os.environ),
                "files": [str(path) for path in paths],
            }
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            pid = int(process.stdout.readline())
            if not select.select([process.stdout], [], [], TIMEOUT)[0]:
                os.kill(pid, signal.SIGKILL)
            code = int(process.stdout.readline())
            said = [path.read_text(encoding="utf-8") for path in paths]
        return subprocess.CompletedProcess(["pipeline", *arguments], code, *said)

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.warm"],
                cwd=self._root,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
            )
        return self._process


def import_all() -> None:
    """What a run on the CPU imports, in its order: training comes first, as in a run."""
    for name in ("pipeline.runner", "pipeline.training.launch", "matplotlib.figure"):
        importlib.import_module(name)
    for name in PACKAGES:
        package = importlib.import_module(f"pipeline.{name}")
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not set(LEFT_OUT).intersection(found.name.split(".")):
                importlib.import_module(found.name)


def serve(requests: IO[bytes], answers: int) -> None:
    """Fork for each request and tell the process and its exit code; returns in the forks alone."""
    while line := requests.readline():
        request: dict[str, Any] = json.loads(line)
        pid = os.fork()
        if pid == 0:
            become(request, answers)
            return
        os.write(answers, b"%d\n" % pid)
        _, status = os.waitpid(pid, 0)
        os.write(answers, b"%d\n" % os.waitstatus_to_exitcode(status))
    os._exit(0)


def become(request: Mapping[str, Any], answers: int) -> None:
    """Take the place that a new process would have been started in."""
    os.close(answers)
    os.chdir(request["cwd"])
    for name in set(os.environ) - set(request["environment"]):
        if name in GIVEN:  # what an import has set stays
            del os.environ[name]
    os.environ.update(request["environment"])
    for number, path in enumerate([os.devnull, *request["files"]]):
        opened = os.open(path, WRITTEN if number else os.O_RDONLY, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    sys.argv = ["pipeline", *request["arguments"]]


def run_main() -> int:
    """Be `python -m pipeline`; returns the exit code."""
    try:
        runpy.run_module("pipeline", run_name="__main__", alter_sys=True)
    except SystemExit as said:
        return said.code if isinstance(said.code, int) else int(said.code is not None)
    except BaseException:  # noqa: BLE001 (as the interpreter does)
        traceback.print_exc()
        return 1
    return 0


def end(code: int) -> NoReturn:
    """As the interpreter ends, but for the modules, which it would clear one by one."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    kept = os.dup(1)
    os.dup2(2, 1)  # what an import prints is no answer
    import_all()
    gc.collect()
    gc.freeze()  # or every fork's collector copies all of it
    serve(sys.stdin.buffer, kept)
    end(run_main())
