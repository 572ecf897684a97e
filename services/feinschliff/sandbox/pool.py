"""The sandbox that needs nothing of the machine: Python as WebAssembly, a fresh sealed copy for every call."""

from __future__ import annotations

import json
import logging
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from feinschliff.kit.errors import Refusal
from feinschliff.sandbox import compiled, frames
from feinschliff.sandbox.call import MEMORY_BYTES_MAX, Call, Fault, Outcome, failed, read_answer

ENVIRONMENT_DEFAULT = "python-3.15"
START_SECONDS_MAX = 60.0
SLACK_SECONDS = 10.0
"""What a process of the pool may take beyond a call's own time before it is taken for dead."""
STARTS_MAX = 2
"""For one call: a process that does not start, or dies, is replaced once."""
_LIBRARY = "python315.zip"
_log = logging.getLogger(__name__)
_CRASH = "The interpreter was ended from outside ({how}); it was out of memory, or met a fault of its own."


class Environments(NamedTuple):
    """What an installation offers: each environment is the interpreter and at most one zip of further modules.

    Args:
        folders: where compiled code is looked for; the first is where it is written.
        extras: a zip of plain Python packages by the environment's name, beside the default that has none.
    """

    folders: Sequence[Path]
    extras: Mapping[str, Path] = {}

    @property
    def names(self) -> Sequence[str]:
        return (ENVIRONMENT_DEFAULT, *self.extras)

    def libraries(self, environment: str) -> dict[str, str]:
        libraries = {_LIBRARY: str(compiled.artifact(compiled.LIBRARY))}
        if environment in self.extras:
            libraries["environment.zip"] = str(self.extras[environment].absolute())
        return libraries


class _Broken(Exception):
    """A process of the pool is of no use any more."""


class WasmSandbox:
    """A pool of `workers` processes; each runs one call at a time, so that is how many calls run at once.

    Processes start with the first call that needs one and then stay. Whatever dies is replaced by the next call. Code
    that nobody compiled yet is compiled in the background from the start on; a call that comes earlier waits for it.

    Args:
        memory_bytes: of one call; 2 GiB at most.
        on_start: told of every process that starts, for metrics.
    """

    def __init__(
        self,
        environments: Environments,
        *,
        workers: int,
        memory_bytes: int = MEMORY_BYTES_MAX,
        on_start: Callable[[], None] = lambda: None,
    ) -> None:
        self._environments = environments
        self._memory_bytes = memory_bytes
        self._on_start = on_start
        self._lock = threading.Lock()
        self._seats: queue.LifoQueue[None] = queue.LifoQueue()
        self._idle: list[_Mother] = []
        self._all: set[_Mother] = set()
        self._is_closed = False
        self._compiling: subprocess.Popen[bytes] | None = None
        try:
            self._compiling = compiled.begin(*environments.folders)
        except Refusal as refusal:  # the room has other graders too; every call says the same
            _log.warning("Python graders cannot run: %s", refusal.message)
        for _ in range(workers):
            self._seats.put(None)

    @property
    def environments(self) -> Sequence[str]:
        return self._environments.names

    def run(self, call: Call) -> Outcome:
        if call.environment and call.environment not in self.environments:
            return failed(Fault.SANDBOX, f"{call.environment!r} is no environment of this installation.")
        self._seats.get()
        try:
            return self._run(call)
        except (_Broken, Refusal) as error:
            return failed(Fault.SANDBOX, str(error))._replace(again=True)
        finally:
            self._seats.put(None)

    def warm(self) -> None:
        """Starts a process for the default environment, unless one is there; the next call need not wait for it."""
        self._seats.get()
        try:
            self._put(self._take(""))
        finally:
            self._seats.put(None)

    def close(self) -> None:
        with self._lock:
            idle, self._idle, self._is_closed = self._idle, [], True
            busy = self._all.difference(idle)
        for mother in busy:
            mother.kill()  # whoever waits for it closes it
        for mother in idle:
            self._end(mother)
        if self._compiling is not None:
            self._compiling.kill()
            self._compiling.wait()

    def _run(self, call: Call) -> Outcome:
        payload = json.dumps({"source": call.source, "sample": call.sample, "item": call.item}).encode()
        if len(payload) > frames.BYTES_MAX:
            return failed(Fault.SANDBOX, f"The row and the answer have {len(payload)} bytes; at most 64 MiB are run.")
        for _ in range(STARTS_MAX - 1):
            try:
                return self._try(call, payload)
            except _Broken as error:
                _log.warning("a process of the sandbox is replaced: %s", error)
        return self._try(call, payload)

    def _try(self, call: Call, payload: bytes) -> Outcome:
        mother = self._take(call.environment)
        try:
            outcome = mother.run(payload, call.timeout_seconds)
        except BaseException:
            self._end(mother)
            raise
        self._put(mother)
        return outcome

    def _take(self, environment: str) -> _Mother:
        name = environment or ENVIRONMENT_DEFAULT
        with self._lock:
            if self._is_closed:
                raise _Broken("The sandbox is closed.")
            mine = next((one for one in self._idle if one.environment == name), None)
            other = next(iter(self._idle), None)
            taken = mine or other
            if taken is not None:
                self._idle.remove(taken)
        if mine is not None:
            return mine
        if other is not None:  # there are never more processes than seats
            self._end(other)
        code = compiled.prepare_apart(self._environments.folders[0], self._environments.folders[1:])
        mother = _Mother(name, code, self._environments.libraries(name), self._memory_bytes)
        self._on_start()
        with self._lock:
            self._all.add(mother)
            if self._is_closed:
                mother.kill()
        return mother

    def _put(self, mother: _Mother) -> None:
        with self._lock:
            if not self._is_closed:
                self._idle.append(mother)
                return
        self._end(mother)

    def _end(self, mother: _Mother) -> None:
        mother.close()
        with self._lock:
            self._all.discard(mother)


class _Mother:
    """Our end of a process that forks copies."""

    def __init__(self, environment: str, code: Path, libraries: Mapping[str, str], memory_bytes: int) -> None:
        self.environment = environment
        self._connection, theirs = socket.socketpair()
        with theirs:
            arguments = {
                "connection": theirs.fileno(),
                "code": str(code),
                "libraries": libraries,
                "memory_bytes": memory_bytes,
            }
            self._process = subprocess.Popen(
                [sys.executable, "-m", "feinschliff.sandbox.mother", json.dumps(arguments)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
                env={"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
                start_new_session=True,
            )
        try:
            kind, _, walls = frames.read(self._connection.fileno(), START_SECONDS_MAX)
        except (frames.Lost, frames.Late) as error:
            raise _Broken(f"A process of the sandbox did not start: {self._last_words() or error}.") from error
        if kind == frames.READY and walls != b"sealed":
            _log.warning("the kernel takes no list of allowed calls; WebAssembly alone confines Python graders here")

    def run(self, payload: bytes, seconds: float) -> Outcome:
        began = time.monotonic()
        try:
            frames.write(self._connection.fileno(), frames.pack(frames.CALL, payload, seconds))
            kind, _, content = frames.read(self._connection.fileno(), seconds + SLACK_SECONDS)
        except frames.Late:
            raise _Broken(f"A process of the sandbox did not answer in {time.monotonic() - began:.0f} s.") from None
        except frames.Lost as error:
            raise _Broken(f"A process of the sandbox died: {error}.") from error
        if kind == frames.LATE:
            return failed(Fault.TIME, f"The function did not end within {seconds:g} s.")
        if kind == frames.CRASHED:
            return failed(Fault.CRASH, _CRASH.format(how=f"exit code {content.decode('utf-8', 'replace')}"))
        return _outcome(content)

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        self._connection.close()
        self._process.kill()
        self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()

    def _last_words(self) -> str:
        """The last line that it wrote to stderr; the process is over afterwards."""
        self._connection.close()
        self._process.kill()
        _, errors = self._process.communicate()
        lines = errors.decode("utf-8", "replace").strip().splitlines()
        return lines[-1][:500] if lines else ""


def _outcome(content: bytes) -> Outcome:
    try:
        told = json.loads(content)
        fault, why, answer, printed = (str(told[name]) for name in ("fault", "why", "answer", "printed"))
        if fault:
            return failed(Fault(fault), why, printed)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _Broken(f"A process of the sandbox gave no readable answer: {error}.") from error
    return read_answer(answer.encode(), printed)
