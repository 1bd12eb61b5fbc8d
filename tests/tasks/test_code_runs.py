"""Programs on stdin, and the clock that ends them."""

from typing import cast

import pytest

from pipeline.tasks.child_process import Child
from pipeline.tasks.code_runs import Clock, Limits, run_program, run_tests

THREAD = (
    "import threading\nthreading.stack_size(2**27)\nt = threading.Thread(target=main)\nt.start()"
)
DEPTH = "def f(n):\n    return n and 1 + f(n - 1)\ndef main():\n    print(f(10**5))\n"
LIMIT = "import sys\nsys.setrecursionlimit(10**6)\n"
# (program, input, output)
PROGRAMS = {
    "lines": ("a = input()\nb = input()\nprint(len(a), len(b))", "ab\ncd", "2 2"),
    "lines of Windows": ("a = input()\nb = input()\nprint(len(a), len(b))", "ab\r\ncd\r\n", "2 2"),
    "bytes": ("import sys\nprint(sum(map(int, sys.stdin.buffer.read().split())))", "1 2\n 3 ", "6"),
    "the device": ("print(open('/dev/stdin').read(), file=open('/dev/stdout', 'w'))", "x", "x"),
    "descriptor 0": ("print(open(0).readline().rstrip()[::-1])", "aé中\n", "中éa"),
    "to the end": ("try:\n    while True: print(input())\nexcept EOFError: pass", "1\n2", "1\n2"),
    "exit()": ("print(1)\nexit()", "", "1"),
    "sys.exit()": ("import sys\nprint(1)\nsys.exit()", "", "1"),
    "main": ("def main():\n    print(1)\nif __name__ == '__main__':\n    main()", "", "1"),
    "depth": (LIMIT + DEPTH + "main()", "", "100000"),
    "depth through C": (
        LIMIT + "from functools import lru_cache\n@lru_cache(None)\n" + DEPTH + "main()",
        "",
        "100000",
    ),
    "depth in a thread": (LIMIT + DEPTH + THREAD, "", "100000"),
    "large integers": ("print(int(input()) + 1)", "9" * 9000, "1" + "0" * 9000),
    "floats": ("print(f'{1 / 3:.3f}', 2.0, 1e3)", "", "0.333 2 1000"),
    "asynchronous": ("import asyncio\nasync def f(): print(1)\nasyncio.run(f())", "", "1"),
    "a pool of threads": (
        "from concurrent.futures import ThreadPoolExecutor as Pool\n"
        "with Pool(4) as pool: print(sum(pool.map(int, '123')))",
        "",
        "6",
    ),
    "files of its own": ("open('a', 'w').write('1')\nprint(open('/tmp/a').read())", "", "1"),
    "annotations": ("def f(x: int): pass\nprint(f.__annotations__['x'] is int)", "", "True"),
}


@pytest.mark.parametrize(("program", "given", "expected"), PROGRAMS.values(), ids=PROGRAMS)
def test_contest_programs_run_as_on_a_judge(
    bwrap: str, program: str, given: str, expected: str
) -> None:
    """Catches limits, streams and descriptors that ordinary programs do not find here."""
    assert run_program(program, [given], [expected], Limits()) == "passed"
    assert run_program(program, [given], [expected + "0"], Limits()) == "failed"


class Scripted:
    """A child whose clocks are given: (processor seconds, seconds of waiting for a processor)."""

    def __init__(self, looks: list[tuple[float, float]]) -> None:
        self.looks = looks
        self.at = -1

    def outlasts(self, seconds: float) -> bool:
        self.at += 1
        return self.at < len(self.looks)

    def processor_seconds(self) -> float:
        return self.looks[self.at][0]

    def waiting_seconds(self) -> float:
        return self.looks[self.at][1]


def late(monkeypatch: pytest.MonkeyPatch, looks: list[tuple[float, float]], calls: int = 0) -> bool:
    """Whether a program is ended that is looked at every ten seconds; `calls` calls between two."""
    child = Scripted(looks)
    monkeypatch.setattr("pipeline.tasks.code_runs.time.monotonic", lambda: 10.0 * (child.at + 1))
    limits = Limits(seconds=6.0, total_seconds=60.0)
    scripted = cast(Child, child)
    return Clock(limits).outlasts(scripted, scripted, lambda: calls * child.at)


def test_processor_time_decides_and_waiting_for_it_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Catches a right program refused because the machine is busy, and time without a limit."""
    assert not late(monkeypatch, [(0.5 * n, 9.5 * n) for n in range(1, 11)])
    assert late(monkeypatch, [(0.7 * n, 9.3 * n) for n in range(1, 11)])
    assert not late(monkeypatch, [(5.0 * n, 5.0 * n) for n in range(1, 11)], calls=1)
    assert late(monkeypatch, [(5.0 * n, 5.0 * n) for n in range(1, 14)], calls=1)
    assert not late(monkeypatch, [(0.1, 0.0)])
    assert late(monkeypatch, [(0.1, 0.0)] * 3)
    assert late(monkeypatch, [(0.01 * n, 10.0 * n) for n in range(1, 40)])


def test_a_short_sleep_is_no_offence_and_a_long_one_is(bwrap: str) -> None:
    """Catches wall time taken for processor time, and a sleeper that is waited for."""
    nap = "import time\ndef f(x):\n    time.sleep(SECONDS)\n    return x"
    job = {"setup": "", "tests": "assert f(3) == 3"}
    limits = Limits(seconds=0.5, sandbox="none")
    assert run_tests(nap.replace("SECONDS", "0.6"), job, limits) == "passed"
    assert run_tests(nap.replace("SECONDS", "600"), job, limits) == "timeout"
    assert run_program("while True: pass", [""], [""], limits) == "timeout"


def test_the_clock_of_a_sandboxed_program_is_its_own(bwrap: str) -> None:
    """Catches the time of bubblewrap, which sleeps, read for that of the program."""
    assert run_program("while True: pass", [""], [""], Limits(seconds=0.3)) == "timeout"
