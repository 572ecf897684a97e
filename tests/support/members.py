"""The processes of a job that its launcher starts, forked from it: they need not import torch, each of them anew.

That such a process starts by itself, as `launch.py` has it, is for `tests/e2e/test_crew.py` to prove.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from feinschliff.trainer.launch import MODULE
from tests.support.waiting import eventually

NAME = "member-"


class Member:
    """A forked process; used as a `subprocess.Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Raises: subprocess.TimeoutExpired."""
        try:
            eventually(lambda: self.poll() is not None, timeout)
        except AssertionError:
            raise subprocess.TimeoutExpired(MODULE, timeout) from None
        assert self.returncode is not None
        return self.returncode


def fork_them() -> None:
    """From now on, the launcher in this process starts them so."""
    from torch.distributed.elastic.multiprocessing.subprocess_handler.subprocess_handler import SubprocessHandler

    SubprocessHandler._popen = _popen  # type: ignore[method-assign,assignment]


def of(launcher: int) -> Mapping[int, psutil.Process]:
    """A launcher's living processes by their number."""
    found = {}
    for child in psutil.Process(launcher).children():
        try:
            name = child.name()
        except psutil.Error:
            continue
        if name.startswith(NAME):
            found[int(name.removeprefix(NAME))] = child
    return found


def _popen(_: object, command: Sequence[str], environment: Mapping[str, str]) -> Member:
    program, option, module, *arguments = command
    assert (program, option, module) == (sys.executable, "-m", MODULE)
    pid = os.fork()
    if pid == 0:
        _become(arguments, environment)
    return Member(pid)


def _become(arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """As `python -m feinschliff.trainer` would be; signals stay blocked, as a started program inherits them."""
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)
        os.environ.clear()
        os.environ.update(environment)
        Path("/proc/self/comm").write_text(f"{NAME}{environment['RANK']}", "utf-8")
        sys.argv = [MODULE, *arguments]
        from feinschliff.trainer.__main__ import main

        code = main(arguments)
    except BaseException:
        traceback.print_exc()
    os._exit(code)
