"""A sandbox of the kernel's own walls: the installation's Python under bubblewrap, for those who need its packages."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from feinschliff.kit.errors import Unavailable
from feinschliff.sandbox import confine
from feinschliff.sandbox.call import Call, Fault, Outcome, failed, read_answer
from feinschliff.sandbox.guest import fuzz, harness

PROGRAM = "bwrap"
ENVIRONMENT_DEFAULT = "system"
ANSWER_BYTES_MAX = 32 * 1024
KEPT_BYTES = 8 * 1024
FILE_BYTES_MAX = 1024 * 1024
"""Of what a run prints, to a file that only we read; the kernel ends it beyond."""
PROCESSES_MAX = 32
"""Threads count; each process may have all the memory of one call. The kernel counts them inside alone from 5.14 on."""
FOLDER_BYTES_MAX = 16 * 1024 * 1024
"""Of all files in the only folder that can be written to; they lie in memory."""
_RUN = """
import sys, json, types, resource
resource.setrlimit(resource.RLIMIT_NPROC, (int(sys.argv[3]), int(sys.argv[3])))
del resource
sys.path[:] = [path for path in sys.path if path]
payload = sys.stdin.read()
for name, source in json.loads(sys.argv[1]):
    module = types.ModuleType(name)
    sys.modules[name] = module
    exec(compile(source, f"<{name}>", "exec"), module.__dict__)
    if name == "_fuzz":
        module.install()
sys.modules["_harness"].ANSWER = int(sys.argv[2])
sys.modules["_harness"].run(payload)
"""
_SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache")


class BubblewrapSandbox:
    """A process per call in namespaces of its own: no network, no other process, a read-only system, no environment.

    Raises:
        Unavailable: SANDBOX_PROGRAM_MISSING, at the start, where there is no bubblewrap or the kernel forbids it.
    """

    def __init__(self, *, workers: int, memory_bytes: int, program: str = PROGRAM) -> None:
        found = shutil.which(program)
        if found is None:
            raise _unusable(f"there is no program {program!r} on the path")
        self._memory_bytes = memory_bytes
        self._seats = threading.Semaphore(workers)
        self._program = found
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._is_closed = False
        tried = self.run(Call("def grade(sample, item):\n    return 1.0", {}, {}))
        if tried.value != 1.0:
            raise _unusable(tried.why.strip().splitlines()[-1] if tried.why.strip() else "it ran nothing")

    @property
    def environments(self) -> Sequence[str]:
        return (ENVIRONMENT_DEFAULT,)

    def run(self, call: Call) -> Outcome:
        if call.environment not in ("", ENVIRONMENT_DEFAULT):
            return failed(Fault.SANDBOX, f"{call.environment!r} is no environment of this installation.")
        with self._seats, TemporaryFile() as answer, TemporaryFile() as printed:
            return self._run(call, answer, printed)

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            for process in self._running:
                process.kill()

    def _run(self, call: Call, answer: IO[bytes], printed: IO[bytes]) -> Outcome:
        sources = [(one.__name__.rpartition(".")[2], Path(str(one.__file__)).read_text()) for one in (harness, fuzz)]
        named = json.dumps([(f"_{name}", source) for name, source in sources])
        inside = [sys.executable, "-I", "-c", _RUN, named, str(answer.fileno()), str(PROCESSES_MAX)]
        process = subprocess.Popen(
            [*self._command(), *inside],
            stdin=subprocess.PIPE,
            stdout=printed,
            stderr=printed,
            pass_fds=[answer.fileno()],
            env={},
            start_new_session=True,
            preexec_fn=self._limit,  # system calls alone; the process is one program away
        )
        with self._lock:
            if self._is_closed:
                process.kill()
            self._running.add(process)
        payload = json.dumps({"source": call.source, "sample": call.sample, "item": call.item}).encode()
        try:
            process.communicate(payload, timeout=call.timeout_seconds)
        except subprocess.TimeoutExpired:
            return failed(Fault.TIME, f"The function did not end within {call.timeout_seconds:g} s.", _tail(printed))
        finally:
            process.kill()  # bubblewrap takes all of its namespace along
            process.wait()
            with self._lock:
                self._running.discard(process)
        answer.seek(0)
        told = answer.read(ANSWER_BYTES_MAX)
        if not told and process.returncode:
            why = f"The process ended with code {process.returncode} and no answer. {_tail(printed)}"
            return failed(Fault.CRASH, why, _tail(printed))
        return read_answer(told, _tail(printed))

    def _command(self) -> list[str]:
        return command(self._program, [*_SYSTEM, sys.prefix, sys.base_prefix])

    def _limit(self) -> None:
        resource.setrlimit(resource.RLIMIT_AS, (self._memory_bytes, self._memory_bytes))
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES_MAX, FILE_BYTES_MAX))
        confine.give_way()


def command(program: str, readable: Sequence[str]) -> list[str]:
    """Every namespace new, and of the system only what a Python needs, read-only."""
    binds = [part for path in dict.fromkeys(readable) for part in ("--ro-bind-try", path, path)]
    return [
        program,
        "--unshare-all",
        "--die-with-parent",
        "--new-session",
        "--cap-drop",
        "ALL",
        "--clearenv",
        "--setenv",
        "OPENBLAS_NUM_THREADS",
        "1",
        *binds,
        "--size",
        str(FOLDER_BYTES_MAX),
        "--tmpfs",
        "/tmp",
        "--remount-ro",
        "/",
        "--chdir",
        "/tmp",
        "--",
    ]


def _unusable(why: str) -> Unavailable:
    message = f"The sandbox bubblewrap cannot be used: {why}. Install it, or set FEINSCHLIFF_EVALUATION_SANDBOX=wasm."
    return Unavailable("SANDBOX_PROGRAM_MISSING", message, program=PROGRAM)


def _tail(file: IO[bytes]) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - KEPT_BYTES))
    return file.read(KEPT_BYTES).decode("utf-8", "replace")
