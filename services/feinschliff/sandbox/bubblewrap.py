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

from feinschliff.kit.errors import FieldViolation, Invalid, Unavailable
from feinschliff.sandbox.call import Call, Fault, Outcome, failed, read_answer
from feinschliff.sandbox.guest import fuzz, harness

PROGRAM = "bwrap"
ENVIRONMENT_DEFAULT = "system"
ANSWER_BYTES_MAX = 32 * 1024
KEPT_BYTES = 8 * 1024
FILE_BYTES_MAX = 1024 * 1024
"""Of what a run prints, to a file that only we read; the kernel ends it beyond."""
PROCESSES_MAX = 64
_RUN = """
import sys, json, types
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
        tried = self.run(Call("def grade(sample, item):\n    return 1.0", {}, {}))
        if tried.value != 1.0:
            raise _unusable(tried.why.strip().splitlines()[-1] if tried.why.strip() else "it ran nothing")

    def check(self, environment: str) -> None:
        if environment not in ("", ENVIRONMENT_DEFAULT):
            message = f"{environment!r} is no environment of this installation; it has {ENVIRONMENT_DEFAULT}."
            violation = FieldViolation("image_tag", message, "SANDBOX_ENVIRONMENT_UNKNOWN")
            raise Invalid("SANDBOX_ENVIRONMENT_UNKNOWN", message, fields=[violation], environment=environment)

    def run(self, call: Call) -> Outcome:
        with self._seats, TemporaryFile() as answer, TemporaryFile() as printed:
            return self._run(call, answer, printed)

    def close(self) -> None:
        """Nothing lives between two calls."""

    def _run(self, call: Call, answer: IO[bytes], printed: IO[bytes]) -> Outcome:
        sources = [(one.__name__.rpartition(".")[2], Path(str(one.__file__)).read_text()) for one in (harness, fuzz)]
        named = json.dumps([(f"_{name}", source) for name, source in sources])
        inside = [sys.executable, "-I", "-c", _RUN, named, str(answer.fileno())]
        process = subprocess.Popen(
            [*self._command(), *inside],
            stdin=subprocess.PIPE,
            stdout=printed,
            stderr=printed,
            pass_fds=[answer.fileno()],
            env={},
            start_new_session=True,
            preexec_fn=self._limit,  # plain system calls; the process is one program away
        )
        payload = json.dumps({"source": call.source, "sample": call.sample, "item": call.item}).encode()
        try:
            process.communicate(payload, timeout=call.timeout_seconds)
        except subprocess.TimeoutExpired:
            return failed(Fault.TIME, f"The function did not end within {call.timeout_seconds:g} s.", _tail(printed))
        finally:
            process.kill()  # bubblewrap takes all of its namespace along
            process.wait()
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
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.nice(10)


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
        *binds,
        "--tmpfs",
        "/tmp",
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
