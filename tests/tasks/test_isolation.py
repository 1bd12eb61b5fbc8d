"""What a sandboxed program can reach of the machine, as root and as an ordinary user."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import PipelineError
from pipeline.tasks import sandbox
from pipeline.tasks.seccomp import ALLOWED, EXAMINED, call_numbers, single_process_filter

REPOSITORY = Path(__file__).resolve().parents[2]
# A program that tries everything and prints what succeeded. It has no way to know where it runs.
EXPLORER = """
import ctypes, json, os, socket

def walk(folder):
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        try:
            if entry.is_dir(follow_symlinks=False):
                yield from walk(entry.path)
            elif not entry.is_symlink():
                yield entry.path
        except OSError:
            pass

def opens(path, flags):
    try:
        os.close(os.open(path, flags | os.O_NONBLOCK))
    except OSError:
        return False
    return True

libc = ctypes.CDLL(None, use_errno=True)
def syscall(*arguments):
    return libc.syscall(*map(ctypes.c_long, arguments)) != -1

def sockets():
    for family in range(1, 46):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
            try:
                socket.socket(family, kind).close()
            except OSError:
                continue
            yield family

files = [path for tree in ("/proc", "/sys", "/dev") for path in walk(tree)]
status = dict(l.split(":", 1) for l in open("/proc/self/status").read().splitlines() if ":" in l)
print(json.dumps({
    "seen": len(files),
    "writable": [p for p in files if opens(p, os.O_WRONLY) or opens(p, os.O_RDWR)],
    "made": [p for p in ("/x", "/usr/x", "/proc/x", "/dev/x", "/etc/x") if opens(p, os.O_CREAT)],
    "capabilities": {k: v.strip() for k, v in status.items() if k in ("CapEff", "CapPrm")},
    "users": status["Uid"].split() + [str(g) for g in os.getgroups()],
    "processes": [p for p in os.listdir("/proc") if p.isdigit() and int(p) not in (1, os.getpid())],
    "first": [n for n in ("environ", "mem", "root", "fd", "maps") if opens(f"/proc/1/{n}", 0)],
    "sockets": sorted(set(sockets())),
    "calls": [n for n in CALLS if syscall(CALLS[n], 0, 0, 0, 0, 0, 0)],
}))
"""
DEVICES = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"]
# x86-64 numbers of calls that reach past a process, or have a history of escapes.
X86_64 = """
fork 57, vfork 58, ptrace 101, personality 135, pivot_root 155, chroot 161, mount 165, umount2
166, reboot 169, init_module 175, add_key 248, request_key 249, keyctl 250, unshare 272,
perf_event_open 298, open_by_handle_at 304, setns 308, kcmp 312, process_vm_readv 310,
finit_module 313, memfd_create 319, kexec_file_load 320, bpf 321, execveat 322, shmget 29,
userfaultfd 323, io_uring_setup 425, open_tree 428, fsopen 430, fsmount 432, clone3 435,
pidfd_getfd 438, mount_setattr 442, not_yet_there 480, sched_setaffinity 203, sched_setscheduler
144, syslog 103, sync 162
"""
# Started by an interpreter that has what it needs; becomes an ordinary user first, if it is root.
AS_USER = """
import os, sys, sysconfig, tempfile
from pipeline.tasks import sandbox
sysconfig.get_path("purelib")  # read while it can be
if os.geteuid() == 0:
    os.setgroups([])
    os.setresgid(*[65533] * 3)
    os.setresuid(*[65533] * 3)
if not os.access(os.path.realpath(sys.executable), os.X_OK):  # it lies in the home of root
    sys.base_prefix = sys.base_exec_prefix = "/usr"
    sandbox.interpreter = lambda: SYSTEM
with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as printed:
    os.fchmod(source.fileno(), 0o644)
    source.write(sys.stdin.buffer.read())
    source.seek(0)
    arguments = ["program", str(2**31), "60", str(2**24), str(source.fileno())]
    child = sandbox.spawn_child("bwrap", arguments, source, printed, [source.fileno()])
    child.process.wait()
    printed.seek(0)
    print(printed.read().decode())
"""


def explore(as_user: bool) -> dict[str, Any]:
    """What the explorer says, started by a pipeline of this user or of an ordinary one."""
    calls = call_numbers(X86_64, "x86_64") if os.uname().machine == "x86_64" else {}
    script = AS_USER.replace("SYSTEM", repr(shutil.which("python3", path="/usr/bin")))
    if not as_user:
        script = script.replace("if os.geteuid() == 0:", "if False:")
    run = subprocess.run(
        [sys.executable, "-c", script],
        input=EXPLORER.replace("CALLS", repr(calls)).encode(),
        capture_output=True,
        cwd=REPOSITORY,
    )
    error = run.stderr.decode().strip()
    if as_user and error:
        pytest.skip(error.splitlines()[-1])  # no user namespaces, or nothing here may be read
    assert not error, error
    return dict(json.loads(run.stdout))


@pytest.mark.parametrize("as_user", [False, True], ids=["this user", "ordinary user"])
def test_nothing_of_the_machine_opens_for_writing(bwrap: str, as_user: bool) -> None:
    """Catches what the kernel lets user 0 write whatever it may not (/proc/sys), other processes'
    files, devices, capabilities, and calls and sockets that leave the sandbox.
    """
    found = explore(as_user)
    assert found["seen"] > 100
    assert set(found["writable"]) <= set(DEVICES)
    assert found["made"] == []
    assert set(found["capabilities"].values()) == {"0000000000000000"}
    assert "0" not in found["users"] or os.geteuid() != 0
    assert found["processes"] == []
    assert found["sockets"] in ([], [1])
    assert found["calls"] == []
    if os.geteuid() == 0:
        assert found["first"] == [] or as_user


def test_a_root_pipeline_gives_each_program_a_user_of_its_own(bwrap: str) -> None:
    """Catches programs that share a user: its limit on threads would be one for all of them."""
    if os.geteuid() != 0:
        pytest.skip("not root")
    users = [tuple(explore(as_user=False)["users"]) for _ in range(2)]
    assert users[0] != users[1]
    assert "65534" not in users[0]


# A bwrap that leaves out one of its protections.
WEAK = """#!/bin/bash
kept=()
while (($#)); do
    if [[ "$1 $2" == {left_out} ]]; then shift {count}; continue; fi
    kept+=("$1"); shift
done
exec {bwrap} "${{kept[@]}}"
"""


@pytest.fixture
def weaken(bwrap: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Puts a weak bwrap in the place of the real one."""

    def put(left_out: str, count: int) -> None:
        program = tmp_path / "bwrap"
        pattern = left_out.replace(" ", "\\ ")
        program.write_text(WEAK.format(left_out=pattern, count=count, bwrap=bwrap))
        program.chmod(0o755)
        monkeypatch.setattr(shutil, "which", lambda name: str(program))
        sandbox.check_bwrap.cache_clear()

    yield put
    sandbox.check_bwrap.cache_clear()


@pytest.mark.parametrize(
    ("left_out", "count", "reason"),
    [
        ("--remount-ro /proc", 2, "opens for writing inside"),
        ("--seccomp *", 2, "Seccomp is 0 inside"),
        ("--unshare-pid *", 1, "process .* can be seen inside"),
        ("--unshare-net *", 1, "network inside"),
    ],
)
def test_a_sandbox_with_a_hole_is_refused(
    weaken: Any, left_out: str, count: int, reason: str
) -> None:
    """Catches a check that bubblewrap starts, and not that it isolates."""
    weaken(left_out, count)
    with pytest.raises(PipelineError, match=reason) as caught:
        sandbox.check_bwrap()
    assert "\n" not in str(caught.value)
    assert "sandbox=none" in str(caught.value)


def test_a_root_that_stays_root_inside_is_refused(
    weaken: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a read-only /proc taken for enough: the machine's user 0 owns more than that."""
    if os.geteuid() != 0:
        pytest.skip("not root")
    weaken("nothing", 1)
    monkeypatch.setattr(sandbox, "_as_nobody", lambda bwrap, command: list(command))
    with pytest.raises(PipelineError, match="opens for writing"):
        sandbox.check_bwrap()


def test_a_system_without_user_namespaces_is_refused_in_one_line(bwrap: str) -> None:
    """Catches a traceback, or programs run all the same, where a container allows no namespaces."""
    limit = "echo 0 > /proc/sys/user/max_user_namespaces && exec "  # of the new namespace only
    check = "from pipeline.tasks.sandbox import check_mode; check_mode('mbpp', 'bwrap')"
    command = ["unshare", "--user", "--map-root-user", "sh", "-c", limit + '"$@"', "sh"]
    if shutil.which("unshare") is None or subprocess.run([*command, "true"]).returncode != 0:
        pytest.skip("no user namespace can be made that forbids them")
    run = subprocess.run(
        [*command, sys.executable, "-c", check], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert run.returncode == 1
    error = run.stderr.strip().splitlines()[-1]
    assert re.search(r"PipelineError: bubblewrap does not work here \(.+\); .*sandbox=none", error)


HEADERS = {
    "x86_64": [Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")],
    "aarch64": [Path("/usr/include/asm-generic/unistd.h")],
}


@pytest.mark.parametrize("machine", HEADERS)
def test_call_numbers_are_the_kernels(machine: str) -> None:
    """Catches a number of another call, which the filter would allow by mistake."""
    header = next((path for path in HEADERS[machine] if path.is_file()), None)
    if header is None:
        pytest.skip("no kernel headers")
    defined = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)\b", header.read_text()))
    defined.setdefault("newfstatat", defined.get("fstatat", ""))
    ours = {**call_numbers(ALLOWED, machine), **call_numbers(EXAMINED, machine)}
    assert len(ours) > 150
    assert {name: int(defined[name]) for name in ours if name in defined} == {
        name: number for name, number in ours.items() if name in defined
    }
    assert len(set(ours) - set(defined)) <= 2  # newer than the headers


def test_the_filter_is_for_known_processors_only() -> None:
    """Catches x86 call numbers applied to another processor."""
    assert single_process_filter("x86_64") != single_process_filter("aarch64")
    assert len(single_process_filter("x86_64")) % 8 == 0
    with pytest.raises(PipelineError, match="riscv64"):
        single_process_filter("riscv64")
