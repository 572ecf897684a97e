"""Programs of ours as processes without the second that their imports take: forked from one that has done them.

For tests that start many; what a program imports, and how it starts, is for others to test.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from tests.support import forking


@dataclass
class Forked:
    """A process that runs a module; used as a `subprocess.Popen`."""

    module: str
    pid: int
    _ended: int = field(repr=False)
    returncode: int | None = field(default=None, init=False)

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """The exit code; below 0, the signal that ended it.

        Raises:
            subprocess.TimeoutExpired: it has not ended.
        """
        if self.returncode is None:
            if not select.select([self._ended], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.module, timeout or 0)
            said = os.read(self._ended, 100)
            os.close(self._ended)
            assert said, f"what had forked {self.module} is gone"
            self.returncode = int(said)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class _Fork:
    """A process that has imported a module and nothing else."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._lock = threading.Lock()
        self._link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            # -P: the script's neighbours are no modules of the program's
            command = [sys.executable, "-P", forking.__file__, module, str(theirs.fileno())]
            clean = {name: value for name, value in os.environ.items() if not name.startswith("FEINSCHLIFF_")}
            self._process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=clean, start_new_session=True
            )
        atexit.register(self.close)

    def start(self, arguments: Sequence[str], environment: Mapping[str, str], output: int, errors: int) -> Forked:
        message = json.dumps({"arguments": arguments, "environment": dict(environment)}).encode()
        assert len(message) < forking.MESSAGE_BYTES_MAX
        ended, end = os.pipe()
        with self._lock:
            socket.send_fds(self._link, [message], [output, errors, end])
            os.close(end)
            number = self._link.recv(100)
        assert number, f"{self._module} cannot be imported"
        return Forked(self._module, int(number), ended)

    def close(self) -> None:
        self._link.close()
        self._process.wait()


_fork_of = cache(_Fork)


def start(module: str, *arguments: str, environment: Mapping[str, str], output: int, errors: int) -> Forked:
    """`python -m module` with this environment and no other, in a session of its own; the outputs are open files."""
    return _fork_of(module).start(arguments, environment, output, errors)


def run(
    module: str, *arguments: str, environment: Mapping[str, str], timeout_seconds: float
) -> subprocess.CompletedProcess[str]:
    """The same, to its end; killed, and the test fails, when it does not come in time."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        program = start(module, *arguments, environment=environment, output=output.fileno(), errors=errors.fileno())
        try:
            code = program.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            program.kill()
            program.wait()
            raise
        output.seek(0), errors.seek(0)
        said, complained = output.read().decode(), errors.read().decode()
    return subprocess.CompletedProcess([module, *arguments], code, said, complained)
