"""Runs a child process where it can do no harm: bubblewrap, seccomp, limits, killed as a group.

What the child sees: /usr and the Python installation, read-only; an empty /tmp of 64 MB; five
harmless devices; no home folder, no network, no other process, no environment. It cannot start
processes (seccomp.py), and its memory, CPU time and file sizes are limited by itself before hostile
code is loaded (inside/confine.py); time is limited from here. When the parent dies, it is killed.

The kernel lets the user 0 of the machine write to /proc/sys and the like, whatever capabilities it
lacks, and in a container uid 0 is that user. So a pipeline that runs as root hands the child
to a user that owns nothing (a fresh number for each child, so that their counts of threads are
apart), and an ordinary user's child stays what it is. On top of that /proc is read-only. What
isolates here is tried out before the first program runs (inside/probe.py), and without it no
program does.
"""

from __future__ import annotations

import compileall
import functools
import itertools
import logging
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from pipeline.errors import PipelineError
from pipeline.tasks.child_process import Child
from pipeline.tasks.seccomp import single_process_filter

INSIDE = Path(__file__).with_name("inside")
SCRATCH = 64 * 2**20  # bytes of /tmp
MODES = ("bwrap", "none")
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}
THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # one core a child
UNPROTECTED = "or set task.options.sandbox=none, which runs model-written code unprotected"
NOBODY = 65534
FRESH_USERS = range(2_100_000_000, 2_147_000_000)  # above those that directories hand out
# The last act as root; the capabilities to do it are lost by it.
DROP = """
import os, sys
user = int(sys.argv[1])
try:
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
except OSError as error:
    sys.exit(f"root cannot become another user inside: {error.strerror}")
os.execv(sys.argv[2], sys.argv[2:])
"""
_started = itertools.count()


class Bwrap(NamedTuple):
    """A bubblewrap that isolates here. drop: it starts as root, and the child gives that up."""

    program: str
    drop: bool


@functools.lru_cache(maxsize=1)
def check_bwrap() -> Bwrap:
    """The bubblewrap that works here, and how.

    Raises:
        PipelineError: it is missing, the system forbids it, or it does not isolate.
    """
    program = shutil.which("bwrap")
    if program is None:
        raise PipelineError(
            f"grading code needs bubblewrap, and bwrap is not installed; install it {UNPROTECTED}"
        )
    compileall.compile_dir(INSIDE, quiet=2)  # for children, which cannot; they start faster
    # as root, where the child cannot become another user, a user namespace may isolate as well
    ways = [Bwrap(program, drop=True)] if os.geteuid() == 0 else []
    reasons = []
    for bwrap in [*ways, Bwrap(program, drop=False)]:
        reason = _hole(bwrap)
        if reason is None:
            return bwrap
        reasons.append(reason)
    raise PipelineError(f"bubblewrap does not work here ({reasons[0]}); fix that {UNPROTECTED}")


def _hole(bwrap: Bwrap) -> str | None:
    """Why this way of isolating is not good enough; None if it is."""
    visible = {str(INSIDE / "probe.py"): "/probe.py"}
    needed = []
    if sys.prefix != sys.base_prefix and not Path(sys.prefix).is_relative_to("/usr"):
        visible[sys.prefix] = sys.prefix
        needed.append(sysconfig.get_path("purelib"))
    for probe, proc in (("user", ()), ("all", ("--remount-ro", "/proc"))):
        with tempfile.TemporaryFile() as rules:
            options = [*_isolation(bwrap), *_binds(visible), *proc, *_seccomp(rules)]
            command = _as_nobody(bwrap, [interpreter(), "-I", "-S", "/probe.py", probe, *needed])
            tried = subprocess.run(
                [*options, "--", *command],
                capture_output=True,
                text=True,
                check=False,
                pass_fds=[rules.fileno()],
            )
        if tried.returncode != 0:
            return (tried.stderr.strip().splitlines() or ["no reason given"])[-1]
    return None


@functools.lru_cache(maxsize=1)
def warn_unprotected() -> None:
    """Say once that code runs without a sandbox."""
    logging.getLogger(__name__).warning(
        "sandbox=none: code written by a model runs with your rights, files and network"
    )


def check_mode(task: str, mode: str) -> None:
    """Raise unless `mode` is known and can be had; warn if it protects nothing."""
    if mode not in MODES:
        raise PipelineError(f"task {task}: options.sandbox {mode!r} is none of {', '.join(MODES)}")
    if mode == "bwrap":
        check_bwrap()
    else:
        warn_unprotected()


def _isolation(bwrap: Bwrap) -> list[str]:
    """bwrap and its options, without the command."""
    options = [bwrap.program, "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
    options += ["--unshare-cgroup-try", "--die-with-parent", "--new-session", "--clearenv"]
    options += ["--cap-drop", "ALL"]
    if bwrap.drop:
        options += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        options.append("--unshare-user-try")  # not needed where bwrap is setuid
    options += ["--ro-bind", "/usr", "/usr"]
    for name in ("lib", "lib64", "bin"):
        path = Path("/") / name
        if path.is_symlink():
            options += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            options += ["--ro-bind", str(path), str(path)]
    for folder in sorted({sys.base_prefix, sys.base_exec_prefix}):
        if not Path(folder).is_relative_to("/usr"):
            options += _binds({folder: folder})
    options += ["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    options += ["--proc", "/proc", "--tmpfs", "/dev"]
    for name in ("null", "zero", "full", "random", "urandom"):
        options += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    for name, link in (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        options += ["--symlink", f"/proc/self/{link}", f"/dev/{name}"]
    scratch = ["--perms", "1777", "--size", str(SCRATCH), "--tmpfs"]
    options += [*scratch, "/dev/shm", "--remount-ro", "/dev", *scratch, "/tmp", "--chdir", "/tmp"]
    libraries = {k: v for k, v in os.environ.items() if k == "LD_LIBRARY_PATH"}
    for key, value in {**ENVIRONMENT, **THREADS, **libraries}.items():
        options += ["--setenv", key, value]
    return options


def _binds(visible: Mapping[str, str]) -> list[str]:
    """Options that show {path here: path there}; the folders on the way open for any user."""
    options = []
    for here, there in visible.items():
        for folder in reversed(Path(there).parents[:-1]):
            options += ["--perms", "0755", "--dir", str(folder)]
        options += ["--ro-bind", here, there]
    return options


def _seccomp(rules: IO[bytes]) -> list[str]:
    """Write the filter to a file that bwrap inherits."""
    rules.write(single_process_filter())
    rules.seek(0)
    return ["--seccomp", str(rules.fileno())]


def _as_nobody(bwrap: Bwrap, command: Sequence[str]) -> list[str]:
    """The command, as a user that owns nothing."""
    if not bwrap.drop:
        return list(command)
    user = FRESH_USERS[((os.getpid() << 10) + next(_started)) % len(FRESH_USERS)]
    if not any(user in mapped for mapped in _mapped_users()):
        user = NOBODY
    return [interpreter(), "-I", "-S", "-c", DROP, str(user), *command]


@functools.lru_cache(maxsize=1)
def _mapped_users() -> list[range]:
    """The user numbers that there are in this user namespace (user_namespaces(7))."""
    rows = [line.split() for line in Path("/proc/self/uid_map").read_text().splitlines()]
    return [range(int(first), int(first) + int(count)) for first, _, count in rows]


def interpreter() -> str:
    """The Python that the virtual environment was made from."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    candidate = Path(sys.base_exec_prefix) / "bin" / name
    return str(candidate) if candidate.exists() else os.path.realpath(sys.executable)


def spawn(
    mode: str,
    command: Sequence[str],
    stdin: int | IO[bytes],
    stdout: int | IO[bytes],
    pass_fds: Sequence[int] = (),
    visible: Mapping[str, str] | None = None,
) -> Child:
    """Start a program in a process group of its own.

    Args:
        mode: "bwrap", or "none" for a plain child process.
        pass_fds: further descriptors that the child keeps, under the same numbers.
        visible: {path here: path there} that it may read besides the system and Python.
    """
    common: dict[str, Any] = {"bufsize": 0, "stdin": stdin, "stdout": stdout}
    common |= {"stderr": subprocess.DEVNULL, "start_new_session": True}
    if mode == "none":
        # what Python needs to find its packages, and they their data; nothing secret
        kept = ("HOME", "PYTHONPATH", "LD_LIBRARY_PATH", "NLTK_DATA")
        inherited = {name: os.environ[name] for name in kept if name in os.environ}
        process = subprocess.Popen(
            command,
            pass_fds=pass_fds,
            env={**ENVIRONMENT, **THREADS, **inherited},
            cwd=tempfile.gettempdir(),
            **common,
        )
        return Child(process, None)
    bwrap = check_bwrap()
    info = tempfile.TemporaryFile()  # noqa: SIM115  (closed by Child.kill)
    options = [*_isolation(bwrap), *_binds(visible or {}), "--remount-ro", "/proc"]
    options += ["--remount-ro", "/", "--info-fd", str(info.fileno())]
    with tempfile.TemporaryFile() as rules:
        process = subprocess.Popen(
            [*options, *_seccomp(rules), "--", *_as_nobody(bwrap, command)],
            pass_fds=[*pass_fds, rules.fileno(), info.fileno()],
            env={},
            **common,
        )
    return Child(process, info)


def spawn_child(
    mode: str,
    arguments: Sequence[str],
    stdin: int | IO[bytes],
    stdout: int | IO[bytes],
    pass_fds: Sequence[int] = (),
    packages: bool = False,
) -> Child:
    """Start a program of inside/ (the first argument names it).

    Args:
        packages: show it this virtual environment, not only the standard library.
    """
    there = str(INSIDE) if mode == "none" else "/inside"  # its folder's name is not shown
    visible = {str(INSIDE): there}
    if packages and not Path(sys.prefix).is_relative_to("/usr"):
        visible[sys.prefix] = sys.prefix
    python = [sys.executable] if packages else [interpreter(), "-S"]
    # -P and -s: no module from the current or home folder; not -I, which ignores PYTHONHASHSEED
    command = [*python, "-P", "-s", "-B", f"{there}/__main__.py", *arguments]
    return spawn(mode, command, stdin, stdout, pass_fds, visible)
