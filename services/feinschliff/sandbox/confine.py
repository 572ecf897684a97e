"""The second wall: what a process that runs a guest may still ask of the kernel, should the guest ever get out."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import struct
import sys

CPU_SECONDS_MAX = 150
_STACK_BYTES = 64 * 1024 * 1024
_FILES_MAX = 4096
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 1, 38, 22, 2
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050001  # the call goes through; it fails with EPERM
_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06
_NUMBER_AT, _MACHINE_AT = 0, 4
# Per machine: its audit number, and the calls for memory, signals, clocks, pipes that are open already, and leaving.
# read write close fstat mmap mprotect munmap brk rt_sigaction rt_sigprocmask rt_sigreturn sched_yield mremap madvise
# nanosleep setitimer getpid gettid exit exit_group sigaltstack futex clock_gettime clock_nanosleep getrandom rseq
_CALLS = {
    "x86_64": (
        0xC000003E,
        (0, 1, 3, 5, 9, 10, 11, 12, 13, 14, 15, 24, 25, 28, 35, 38, 39, 186, 60, 231, 131, 202, 228, 230, 318, 334),
    ),
    "aarch64": (
        0xC00000B7,
        (
            *(63, 64, 57, 80, 222, 226, 215, 214, 134, 135, 139, 124, 216, 233),
            *(101, 103, 172, 178, 93, 94, 132, 98, 113, 115, 278, 293),
        ),
    ),
}  # fmt: skip


def become_background() -> None:
    """As `give_way`, with the stack that the interpreter needs."""
    give_way()
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    stack = _STACK_BYTES if hard == resource.RLIM_INFINITY else min(_STACK_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_STACK, (stack, hard))


def give_way() -> None:
    """Last in line for processors, and first to go where memory runs out: a service comes before what it grades."""
    os.nice(10)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    except OSError:
        return  # no such file outside of Linux, or not ours to write


def die_with(parent: int) -> None:
    """Ends this process when its parent does."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def seal(keep: tuple[int, ...]) -> bool:
    """Closes every file but `keep` for good; says whether the kernel took the list of calls as well."""
    start = 0
    for fd in sorted(keep):
        os.closerange(start, fd)
        start = fd + 1
    os.closerange(start, _FILES_MAX)
    for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE):
        resource.setrlimit(limit, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS_MAX, CPU_SECONDS_MAX))
    return _filter_calls()


def _filter_calls() -> bool:
    if sys.platform != "linux" or platform.machine() not in _CALLS:
        return False
    machine, allowed = _CALLS[platform.machine()]
    rules = [
        _rule(_LOAD, _MACHINE_AT),
        _rule(_JUMP_EQUAL, machine, 1, 0),
        _rule(_RETURN, _REFUSE),
        _rule(_LOAD, _NUMBER_AT),
        *(_rule(_JUMP_EQUAL, number, len(allowed) - index, 0) for index, number in enumerate(allowed)),
        _rule(_RETURN, _REFUSE),
        _rule(_RETURN, _ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(rules))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(rules), ctypes.addressof(code)))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return False
    return not prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program, 0, 0)


def _rule(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)
