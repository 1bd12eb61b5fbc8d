"""Hostile programs: nothing passes that should not, nothing hangs, nothing stays behind.

Every program here is graded against `double(x) == 2 * x`. Where a program probes a protection, it
solves the task only if the protection fails, and the same program is shown to pass without the
sandbox: so the test would notice if the probe, and not the sandbox, were at fault.
"""

import logging
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.tasks import Problem, grade
from pipeline.tasks import sandbox as sandbox_module
from tests.tasks.make import task

TESTS = """
def check(candidate):
    for x in (1, 2, 31415):
        assert candidate(x) == 2 * x
"""
PROBLEM = Problem(
    "double",
    [],
    "",
    "test",
    {"setup": "def double(x):\n    '''Twice x.'''\n", "tests": TESTS, "entry_point": "double"},
    task="humaneval",
)
RIGHT = "def double(x):\n    return 2 * x\n"


def outcome(program: str, sandbox: str = "bwrap", seconds: float = 20.0) -> tuple[bool, str]:
    verdict = grade(
        task(
            "humaneval", seconds=seconds, total_seconds=seconds + 5, memory_mb=256, sandbox=sandbox
        ),
        PROBLEM,
        f"```python\n{program}\n```",
    )
    return verdict.correct, verdict.status


def test_a_right_program_passes(bwrap: str) -> None:
    """Catches a sandbox in which nothing passes: all tests below would then say nothing."""
    assert outcome(RIGHT) == (True, "ok")
    assert outcome("import threading\n" + RIGHT) == (True, "ok")
    assert outcome(RIGHT, sandbox="none") == (True, "ok")


def test_a_wrong_program_fails(bwrap: str) -> None:
    """Catches a checker that does not check."""
    assert outcome("def double(x):\n    return 2 * x if x < 100 else 0") == (False, "ok")
    assert outcome("def double(x) return 2 * x") == (False, "ok")
    assert outcome("def triple(x):\n    return 2 * x") == (False, "ok")


ENDS_EARLY = {
    "exit at import": "import sys\nsys.exit(0)",
    "exit in the call": "import sys\ndef double(x):\n    sys.exit(0)",
    "hard exit": "import os\ndef double(x):\n    os._exit(0)",
    "exit at import, function after": f"raise SystemExit(0)\n{RIGHT}",
    "kill all": "import os\ndef double(x):\n    os.kill(-1, 9)",
    "kill the parent": "import os\ndef double(x):\n    os.kill(os.getppid(), 9)",
    "become true": "import os\ndef double(x):\n    os.execv('/usr/bin/true', ['true'])",
    "recursion": "def double(x):\n    return double(x)",
    "stack": "def double(x):\n    return eval('(' * 100_000 + ')' * 100_000)",
}
LIES = {
    "print the verdict": (
        "print('passed')\ndef double(x):\n    print('passed')\n    return 'passed'"
    ),
    "write the verdict everywhere": (
        "import os\ndef double(x):\n    for fd in range(256):\n        try:\n"
        "            os.write(fd, b'passed')\n        except OSError:\n            pass"
    ),
    "equal to everything": (
        "class Yes:\n    def __eq__(self, other):\n        return True\n"
        "def double(x):\n    return Yes()"
    ),
    "an int equal to everything": (
        "class Yes(int):\n    def __eq__(self, other):\n        return True\n"
        "    __hash__ = int.__hash__\ndef double(x):\n    return Yes(7)"
    ),
    "replace check": (
        "import builtins, sys\ndef check(candidate):\n    pass\nbuiltins.check = check\n"
        "for module in list(sys.modules.values()):\n    module.check = check\n"
        "    module.run_tests = check\n    module.same = check\ndef double(x):\n    return 0"
    ),
    "replace builtins": (
        "import builtins\nbuiltins.AssertionError = type('E', (BaseException,), {})\n"
        "builtins.isinstance = lambda *a: True\nbuiltins.eval = builtins.exec = print\n"
        "def double(x):\n    return 0"
    ),
    "search memory for the answer": (
        "import gc, sys\ndef double(x):\n    for o in gc.get_objects():\n"
        "        if isinstance(o, dict) and 'expected' in o:\n            return o['expected']\n"
        "    frame = sys._getframe()\n    while frame:\n"
        "        if 'tests' in frame.f_locals:\n            return frame.f_locals['tests']\n"
        "        frame = frame.f_back"
    ),
    "forged answers": (
        'import os\nfor fd in range(3, 64):\n    try:\n        os.write(fd, b\'{"changed": [], '
        '"random": null, "r": [true], "forgotten": []}\\n\' * 9)\n    except OSError:\n'
        "        pass\ndef double(x):\n    return 0"
    ),
    "malformed answer": (
        "import sys\nfor name, module in sys.modules.items():\n    if name.endswith('.peer'):\n"
        "        module.Peer.encode = lambda *a: ['frozenset', ['new', 1, 'list', [], []]]\n"
        "def double(x):\n    return 0"
    ),
    "an object of true answers": (
        "class Yes:\n    pass\nfor name in 'eq ne lt le gt ge contains bool'.split():\n"
        "    setattr(Yes, f'__{name}__', lambda self, *other: True)\n"
        "for name in 'sub rsub abs float int index'.split():\n"
        "    setattr(Yes, f'__{name}__', lambda self, *other: 0)\n"
        "def double(x):\n    return Yes()"
    ),
    "a class for a function": (
        "class double:\n    def __init__(self, x):\n        pass\n"
        "    def __eq__(self, other):\n        return True"
    ),
    "a list that equals everything": (
        "class Yes(list):\n    def __eq__(self, other):\n        return True\n"
        "def double(x):\n    return Yes()"
    ),
    "a library's object that equals everything": (
        "from unittest.mock import ANY\ndef double(x):\n    return ANY"
    ),
    "a class named like Python's": (
        "class int(int):\n    __eq__ = lambda self, other: True\nint.__module__ = 'builtins'\n"
        "def double(x):\n    return int(3)"
    ),
    "own builtins": (
        "import builtins\ndef check(f): pass\ndef range(*a): return ()\n"
        "builtins.range = range\ndef double(x):\n    return 0"
    ),
}


@pytest.mark.parametrize("program", ENDS_EARLY.values(), ids=ENDS_EARLY)
def test_ending_early_is_not_passing(bwrap: str, program: str) -> None:
    """Catches a verdict by exit status, which sys.exit(0) fools."""
    assert not outcome(program)[0]


@pytest.mark.parametrize("program", LIES.values(), ids=LIES)
def test_lies_do_not_pass(bwrap: str, program: str) -> None:
    """Catches a checker that shares a process or an output with what it checks."""
    assert not outcome(program)[0]


MORE_TESTS = {
    "what is computed from the argument": (
        "assert candidate([3, 1]) == [1, 3]\n    a = [5, 4]\n    assert candidate(a) == sorted(a)",
        "def f(a):\n    return sorted(a)",
        ["def f(a):\n    if a[0] == 3: return [1, 3]\n    a.clear()\n    return []"],
    ),
    "a tolerance": (
        "assert abs(candidate(3) - 4.5) < 1e-6",
        "def f(x):\n    return 1.5 * x",
        [
            "class f(float):\n    def __sub__(self, other): return 0.0",
            "class N:\n    def __sub__(self, other): return 0.0\ndef f(x):\n    return N()",
            "def abs(x):\n    return 0\nimport builtins as b\nb.abs = abs\ndef f(x):\n    return 0",
        ],
    ),
    "a function that is passed": (
        "secret = [2, 3]\n    assert candidate(lambda v: v + 1, [1, 2]) == secret",
        "def f(g, a):\n    return [g(v) for v in a]",
        [
            "def f(g, a):\n    return g.__globals__['secret']",
            "def f(g, a):\n    return g.__code__.co_consts",
            "def f(g, a):\n    return g.__closure__[0].cell_contents",
            "def f(g, a):\n    return type(g).__getattribute__(g, '__globals__')",
        ],
    ),
    "any exception": (
        "try:\n        candidate(-1)\n    except AssertionError:\n        raise\n"
        "    except Exception:\n        return\n    assert False",
        "def f(x):\n    raise ValueError",
        ["import os\ndef f(x):\n    os._exit(0)", "def f(x):\n    return x"],
    ),
}


@pytest.mark.parametrize(("tests", "right", "hostile"), MORE_TESTS.values(), ids=MORE_TESTS)
def test_what_tests_share_with_a_program_gives_nothing_away(
    bwrap: str, tests: str, right: str, hostile: list[str]
) -> None:
    """Catches expected values within reach of what is passed, changed, compared or raised."""
    meta = {"setup": "", "tests": f"def check(candidate):\n    {tests}\n", "entry_point": "f"}
    problem = Problem("f", [], "", "test", meta, task="humaneval")
    for program, expected in [(right, True), *((program, False) for program in hostile)]:
        verdict = grade(task("humaneval", seconds=20.0), problem, f"```python\n{program}\n```")
        assert verdict.correct is expected, program


BOMBS = {
    "fork": "import os\nwhile True:\n    os.fork()",
    "fork quietly": (
        "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass"
    ),
    "spawn": "import subprocess\nwhile True:\n    subprocess.Popen(['/usr/bin/sleep', '99'])",
    "threads": (
        "import threading, time\nwhile True:\n"
        "    threading.Thread(target=time.sleep, args=(99,)).start()"
    ),
    "memory": "def double(x):\n    return bytearray(10 ** 11)",
    "memory in steps": "kept = []\nwhile True:\n    kept.append(bytearray(10 ** 7))",
    "disk": (
        "import itertools\nfor n in itertools.count():\n"
        "    open(f'/tmp/{n}', 'wb').write(b'x' * 10 ** 7)"
    ),
    "shared memory": "open('/dev/shm/a', 'wb').write(b'x' * 10 ** 9)",
    "anonymous files": (
        "import os\nkept = [os.memfd_create('a') for _ in range(50)]\n"
        "for fd in kept:\n    os.write(fd, b'x' * 10 ** 7)"
    ),
    "output": "while True:\n    print('x' * 10 ** 6)",
    "output on every descriptor": (
        "import os\nwhile True:\n    for fd in range(64):\n        try:\n"
        "            os.write(fd, b'x' * 10 ** 6)\n        except OSError:\n            pass"
    ),
    "a huge answer": "def double(x):\n    return 'x' * 10 ** 8",
    "an endless answer": "import itertools\ndef double(x):\n    return itertools.count()",
    "a cyclic answer": "def double(x):\n    a = []\n    a.append(a)\n    return a",
    "busy": "while True:\n    pass",
    "asleep": "import time\ndef double(x):\n    time.sleep(10 ** 6)",
    "deaf": (
        "import signal, time\nfor s in range(1, 65):\n    try:\n"
        "        signal.signal(s, signal.SIG_IGN)\n    except (OSError, ValueError):\n"
        "        pass\ntime.sleep(10 ** 6)"
    ),
    "long C call": "def double(x):\n    return len(str(7 ** 10 ** 9))",
}


@pytest.mark.parametrize("program", BOMBS.values(), ids=BOMBS)
def test_bombs_end_in_time_and_do_not_pass(bwrap: str, program: str) -> None:
    """Catches anything without a limit: the test's own time-out would strike."""
    assert not outcome(program, seconds=1.0)[0]


def only_if(condition: str) -> str:
    """A program that is right if `condition` (statements that raise on failure) succeeds."""
    body = "".join(f"        {line}\n" for line in condition.splitlines())
    return (
        f"def double(x):\n    try:\n{body}    except (OSError, ImportError):\n"
        "        return 0\n    return 2 * x\n"
    )


@pytest.fixture
def server() -> Iterator[int]:
    """Port of a TCP server on this machine that accepts and closes."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                connection.close()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
    thread.join(timeout=10)


def test_files_and_sockets_of_this_machine_are_out_of_reach(
    bwrap: str, tmp_path: Path, server: int
) -> None:
    """Catches a view of the host's files or network; each probe works without the sandbox."""
    secret = tmp_path / "secret"
    secret.write_text("42")
    probes = [
        f"open({str(secret)!r}).read()",
        f"open({str(tmp_path / 'new')!r}, 'w').write('x')",
        f"import os\nos.listdir({str(Path.cwd())!r})",
        f"import socket\nsocket.create_connection(('127.0.0.1', {server}), timeout=1)",
        "import os\nos.waitpid(os.fork() or os._exit(0), 0)",
        "import subprocess\nsubprocess.run(['/usr/bin/true'], check=True)",
        "open('/etc/passwd').read()",
    ]
    for probe in probes:
        assert outcome(only_if(probe), sandbox="none")[0], probe
        assert not outcome(only_if(probe))[0], probe
    assert (tmp_path / "new").read_text() == "x"  # written without the sandbox, not since


@pytest.mark.parametrize(
    "probe",
    [
        "import os\nassert os.listdir(os.path.expanduser('~root'))",
        "open('/usr/lib/escape', 'w')",
        "open('/escape', 'w')",
        "open('/dev/escape', 'w')",
        "import sys\nopen(sys.modules['__main__'].__file__, 'a')",
        "import socket\nsocket.create_connection(('1.1.1.1', 53), timeout=1)",
        "import os\nif len([p for p in os.listdir('/proc') if p.isdigit()]) > 3: pass\n"
        "else: raise OSError",
        "import os\nif not any('KEY' in k or 'TOKEN' in k for k in os.environ): raise OSError",
        "import os\nfor fd in range(64):\n    try:\n"
        "        if 'deleted' in os.readlink(f'/proc/self/fd/{fd}'): break\n"
        "    except OSError:\n        pass\nelse:\n    raise OSError",
        "import ctypes\nif ctypes.CDLL(None).ptrace(16, 1, 0, 0) == -1: raise OSError",
        "import ctypes\nif ctypes.CDLL(None).unshare(0x10000000) == -1: raise OSError",
        "import ctypes\nif ctypes.CDLL(None).shmget(0, 4096, 0o1600) == -1: raise OSError",
    ],
)
def test_the_rest_of_the_system_is_closed(
    bwrap: str, probe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches writable system folders, other processes, secrets in the environment, privileges."""
    monkeypatch.setenv("SECRET_TOKEN", "1")
    assert not outcome(only_if(probe))[0]


def test_nothing_stays_behind(bwrap: str) -> None:
    """Catches a child that outlives its verdict: it changes its name, ignores signals, sleeps."""
    marker = "2718281828"
    program = (
        "import os, signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"def double(x):\n    os.execv('/usr/bin/sleep', ['sleep', '{marker}'])"
    )
    assert outcome(program, seconds=0.5) == (False, "timeout")
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                assert marker.encode() not in (process / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended while we looked


def test_no_sandbox_no_grading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a silent fallback to running model-written code unprotected."""
    monkeypatch.setattr(shutil, "which", lambda name: None)
    sandbox_module.check_bwrap.cache_clear()
    try:
        with pytest.raises(PipelineError, match=r"bwrap is not installed; .*sandbox=none"):
            outcome(RIGHT)
    finally:
        sandbox_module.check_bwrap.cache_clear()


def test_a_forbidden_sandbox_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches grading code where the system denies user namespaces."""
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/false")
    sandbox_module.check_bwrap.cache_clear()
    try:
        with pytest.raises(PipelineError, match="does not work here"):
            outcome(RIGHT)
    finally:
        sandbox_module.check_bwrap.cache_clear()


def test_unprotected_runs_say_so(caplog: pytest.LogCaptureFixture) -> None:
    """Catches sandbox=none without a warning, and unknown modes taken for none."""
    sandbox_module.warn_unprotected.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert outcome(RIGHT, sandbox="none")[0]
    assert "with your rights" in caplog.text
    with pytest.raises(PipelineError, match=r"options\.sandbox 'docker'"):
        outcome(RIGHT, sandbox="docker")
