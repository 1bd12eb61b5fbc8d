"""A seccomp filter that makes a sandboxed program a single process without back doors.

It lists what is allowed: what the interpreter, numerical libraries and threads need. Whatever else
the kernel offers, now or in a later version, fails with ENOSYS: mounts, namespaces, keyrings,
io_uring, bpf, tracing, modules, memory outside the address-space limit (memfd, System V segments),
other users' rights. Three calls are looked at more closely: clone makes threads but no processes
(the limit RLIMIT_NPROC is not enforced for root, so it stops no fork bomb in a container), sockets
are local ones only (vsock and the kernel's crypto are not cut off by a network namespace), and
prlimit64 changes no other process.
"""

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Iterable, Iterator

from pipeline.errors import PipelineError

CLONE_THREAD = 0x00010000
AF_UNIX = 1
ALLOW, KILL, ERROR = 0x7FFF0000, 0x80000000, 0x00050000  # SECCOMP_RET_*; ERROR | errno
LOAD, EQUAL, ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06  # BPF opcodes
GREATER, GREATER_EQUAL = 0x25, 0x35
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data (little endian)
X32 = 0x40000000  # the second numbering of x86-64

AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# name, number on x86-64, number on aarch64 ("-": not there)
ALLOWED = """
read 0 63, write 1 64, pread64 17 67, pwrite64 18 68, readv 19 65, writev 20 66, preadv 295 69,
pwritev 296 70, preadv2 327 286, pwritev2 328 287, lseek 8 62, close 3 57, close_range 436 436,
open 2 -, openat 257 56, openat2 437 437, creat 85 -, stat 4 -, fstat 5 80, lstat 6 -, newfstatat
262 79, statx 332 291, statfs 137 43, fstatfs 138 44, access 21 -, faccessat 269 48, faccessat2
439 439, readlink 89 -, readlinkat 267 78, getdents 78 -, getdents64 217 61, getcwd 79 17, chdir
80 49, fchdir 81 50, mkdir 83 -, mkdirat 258 34, rmdir 84 -, rename 82 -, renameat 264 38,
renameat2 316 276, unlink 87 -, unlinkat 263 35, link 86 -, linkat 265 37, symlink 88 -, symlinkat
266 36, chmod 90 -, fchmod 91 52, fchmodat 268 53, chown 92 -, fchown 93 55, lchown 94 -, fchownat
260 54, umask 95 166, utime 132 -, utimes 235 -, utimensat 280 88, futimesat 261 -, truncate 76
45, ftruncate 77 46, fallocate 285 47, fadvise64 221 223, readahead 187 213, fsync 74 82,
fdatasync 75 83, sync_file_range 277 84, flock 73 32, fcntl 72 25, ioctl 16 29, dup 32 23, dup2 33
-, dup3 292 24, pipe 22 -, pipe2 293 59, sendfile 40 71, copy_file_range 326 285,
getxattr 191 8, lgetxattr 192 9, fgetxattr 193 10, listxattr 194 11, llistxattr 195 12, flistxattr
196 13,
poll 7 -, ppoll 271 73, select 23 -, pselect6 270 72, epoll_create 213 -, epoll_create1 291 20,
epoll_ctl 233 21, epoll_wait 232 -, epoll_pwait 281 22, epoll_pwait2 441 441, eventfd 284 -,
eventfd2 290 19,
mmap 9 222, munmap 11 215, mremap 25 216, mprotect 10 226, madvise 28 233, msync 26 227, brk 12
214, membarrier 324 283, get_mempolicy 239 236,
futex 202 98, futex_waitv 449 449, set_robust_list 273 99, get_robust_list 274 100,
set_tid_address 218 96, rseq 334 293, gettid 186 178, exit 60 93, exit_group 231 94, execve 59
221, wait4 61 260, waitid 247 95,
rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139, rt_sigpending 127 136,
rt_sigtimedwait 128 137, rt_sigsuspend 130 133, rt_sigqueueinfo 129 138, rt_tgsigqueueinfo 297
240, sigaltstack 131 132, restart_syscall 219 128, kill 62 129, tkill 200 130, tgkill 234 131,
pause 34 -, signalfd 282 -, signalfd4 289 74,
alarm 37 -, getitimer 36 102, setitimer 38 103, timer_create 222 107, timer_settime 223 110,
timer_gettime 224 108, timer_getoverrun 225 109, timer_delete 226 111, timerfd_create 283 85,
timerfd_settime 286 86, timerfd_gettime 287 87, nanosleep 35 101, clock_nanosleep 230 115,
clock_gettime 228 113, clock_getres 229 114, gettimeofday 96 169, time 201 -, times 100 153,
getpid 39 172, getppid 110 173, getpgid 121 155, getpgrp 111 -, getsid 124 156, setsid 112 157,
setpgid 109 154, getuid 102 174, geteuid 107 175, getgid 104 176, getegid 108 177, getresuid 118
148, getresgid 120 150, getgroups 115 158, setgroups 116 159, setresuid 117 147, setresgid 119
149, capget 125 90, getrlimit 97 163, setrlimit 160 164, getrusage 98 165, getpriority 140 141,
setpriority 141 140, sched_yield 24 124, sched_getaffinity 204 123, sched_getscheduler 145 120,
sched_getparam 143 121, sched_getattr 315 275, sched_get_priority_max 146 125,
sched_get_priority_min 147 126, sched_rr_get_interval 148 127, uname 63 160, sysinfo 99 179,
getrandom 318 278, getcpu 309 168, prctl 157 167, arch_prctl 158 -,
bind 49 200, listen 50 201, accept 43 202, accept4 288 242, connect 42 203, getsockname 51 204,
getpeername 52 205, sendto 44 206, recvfrom 45 207, sendmsg 46 211, recvmsg 47 212, sendmmsg 307
269, recvmmsg 299 243, shutdown 48 210, setsockopt 54 208, getsockopt 55 209
"""
# allowed with the first argument that single_process_filter says
EXAMINED = "clone 56 220, clone3 435 435, socket 41 198, socketpair 53 199, prlimit64 302 261"


def call_numbers(table: str, machine: str) -> dict[str, int]:
    """{name: number} of a table above."""
    column = 1 if machine == "x86_64" else 2
    rows = [entry.split() for entry in table.replace("\n", " ").split(",")]
    return {row[0]: int(row[column]) for row in rows if row[column] != "-"}


def _ranges(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Runs (first, last) of numbers without a gap."""
    first = last = -1
    for number in sorted(numbers):
        if number != last + 1 and last >= 0:
            yield first, last
            first = number
        elif last < 0:
            first = number
        last = number
    yield first, last


def single_process_filter(machine: str | None = None) -> bytes:
    """The filter as an array of struct sock_filter, for `bwrap --seccomp`.

    Raises:
        PipelineError: a processor whose system calls are not listed here.
    """
    machine = machine or platform.machine()
    if machine not in AUDIT:
        raise PipelineError(
            f"the code sandbox knows x86_64 and aarch64, not {machine}; "
            "set task.options.sandbox=none to run model-written code unprotected"
        )
    examined = call_numbers(EXAMINED, machine)
    program = [
        (LOAD, 0, 0, ARCHITECTURE),
        (EQUAL, 1, 0, AUDIT[machine]),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER),
        (GREATER_EQUAL, 0, 1, X32),
        (RETURN, 0, 0, KILL),
        (EQUAL, 0, 1, examined["clone3"]),  # its flags lie in memory: libc falls back to clone
        (RETURN, 0, 0, ERROR | errno.ENOSYS),
        (EQUAL, 0, 4, examined["clone"]),
        (LOAD, 0, 0, FIRST_ARGUMENT),
        (ANY_BIT, 0, 1, CLONE_THREAD),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, ERROR | errno.EPERM),
    ]
    for name, argument, otherwise in (
        ("socket", AF_UNIX, errno.EAFNOSUPPORT),
        ("socketpair", AF_UNIX, errno.EAFNOSUPPORT),
        ("prlimit64", 0, errno.EPERM),  # process 0: the caller
    ):
        program += [
            (EQUAL, 0, 4, examined[name]),
            (LOAD, 0, 0, FIRST_ARGUMENT),
            (EQUAL, 0, 1, argument),
            (RETURN, 0, 0, ALLOW),
            (RETURN, 0, 0, ERROR | otherwise),
        ]
    for first, last in _ranges(call_numbers(ALLOWED, machine).values()):
        program += [
            (GREATER_EQUAL, 0, 2, first),
            (GREATER, 1, 0, last),
            (RETURN, 0, 0, ALLOW),
        ]
    program.append((RETURN, 0, 0, ERROR | errno.ENOSYS))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
