"""Processes that stand ready, each to become one workload: what takes its time at every start is done already."""

from __future__ import annotations

import json
import logging
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal, NamedTuple

from feinschliff.workloads import wrapper
from feinschliff.workloads.environment import environment, lasting
from feinschliff.workloads.spec import PYTHON, WorkloadSpec

log = logging.getLogger(__name__)

ANSWER_SECONDS = 5.0
"""How long a watcher may take to say that it has the work; it has nothing else to do."""
PREPARE_SECONDS_MAX = 1800.0
QUIET_SECONDS = 5.0
"""After one was given away, before the next is prepared: that takes processor time from the work which just begins."""
CALM_SECONDS = 60.0
PAUSE_SECONDS_MAX = 60.0
CLOSE_SECONDS = 5.0
_LAST_WORDS_BYTES = 2000

Start = Literal["warm", "cold"]


@dataclass(frozen=True)
class Kind:
    """What stands ready.

    Args:
        command: of the workloads that it may become; their further arguments are given to it with the work.
        ready: program and arguments that prepare it; it gets the number of a socket as its last argument, says `READY`
            there, and is given one message as `wrapper.py` passes it on.
        env, secret_env: as a workload of that command has them, as far as they are known before.
    """

    command: tuple[str, ...]
    ready: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    secret_env: Mapping[str, str] = field(default_factory=dict, repr=False)


class Work(NamedTuple):
    """Where a workload lives, as its runner has made it: its folder, its log, and the two files that it holds open."""

    folder: Path
    log_path: Path
    log_bytes_max: int
    lock: int
    log: int


@dataclass
class _Worker:
    """A watcher and the process below it; both end when `link` does."""

    process: subprocess.Popen[bytes]
    link: socket.socket
    output: IO[bytes]
    env: Mapping[str, str] = field(repr=False)
    since: float
    is_ready: bool = False


class WarmWorkers:
    """Keeps `count` processes ready; each becomes one workload and is never used again.

    They end with this process, however it ends; one that has become a workload lives on as any other. May be used from
    any thread.

    Args:
        told: is told how each workload was started.
        shown: is told how many stand ready whenever that may have changed.
    """

    def __init__(
        self,
        kind: Kind,
        count: int,
        *,
        told: Callable[[Start], None] = lambda start: None,
        shown: Callable[[int], None] = lambda ready: None,
        quiet_seconds: float = QUIET_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kind = kind
        self._count = count
        self._told = told
        self._shown = shown
        self._quiet_seconds = quiet_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._workers: list[_Worker] = []
        self._deaths = 0
        self._not_before = clock()
        self._is_closed = False

    @property
    def ready(self) -> int:
        """How many stood ready when they were last looked after."""
        return sum(worker.is_ready for worker in self._workers)

    def turn(self) -> None:
        """Look after those that stand ready, and prepare another where one is missing: one at a time."""
        with self._lock:
            for worker in list(self._workers):
                self._look_at(worker)
            preparing = any(not worker.is_ready for worker in self._workers)
            due = not self._is_closed and not preparing and self._clock() >= self._not_before
            if due and len(self._workers) < self._count:
                self._prepare()
            self._show()

    def give(self, spec: WorkloadSpec, work: Work) -> bool:
        """Let one that stands ready become this workload; False where none can, and it is to be started cold."""
        with self._lock:
            why = self._given(spec, work)
            self._show()
        self._told("warm" if why is None else "cold")
        if why is None:
            log.info("given to a process that stood ready", extra={"workload": spec.name})
        else:
            log.info("no process stood ready; a cold start", extra={"workload": spec.name, "why": why})
        return why is None

    def close(self) -> None:
        """End those that stand ready."""
        with self._lock:
            self._is_closed = True
            workers, self._workers = self._workers, []
            for worker in workers:
                worker.link.close()
            for worker in workers:
                with suppress(subprocess.TimeoutExpired):
                    worker.process.wait(CLOSE_SECONDS)
                _end(worker)
            self._show()

    def _given(self, spec: WorkloadSpec, work: Work) -> str | None:
        """None where it was; else why not."""
        known = self._kind.command
        if not spec.may_be_warm or spec.command[: len(known)] != known:
            return "it is none that they could become"
        variables = environment(spec.env, spec.secret_env)
        message = _message(spec, work, spec.command[len(known) :], variables)
        if len(message) > wrapper.MESSAGE_BYTES_MAX:
            return "its environment is too large"
        why = "none is ready"
        for worker in list(self._workers):
            self._look_at(worker)
            if worker not in self._workers or not worker.is_ready:
                continue
            if lasting(worker.env) != lasting(variables):
                why = "they have another environment: " + ", ".join(_differing(worker.env, variables))
                continue
            self._workers.remove(worker)
            if _hand_over(worker, message, work):
                self._deaths = 0
                self._not_before = self._clock() + self._quiet_seconds
                return None
            self._lose(worker)
        return why

    def _look_at(self, worker: _Worker) -> None:
        """Hear whether it is ready or gone."""
        word = _heard(worker.link)
        if word == wrapper.READY:
            worker.is_ready, worker.since = True, self._clock()
        seconds = self._clock() - worker.since
        if word == b"" or (not worker.is_ready and seconds > PREPARE_SECONDS_MAX):
            self._workers.remove(worker)
            self._lose(worker)
        elif worker.is_ready and seconds > CALM_SECONDS:
            self._deaths = 0

    def _prepare(self) -> None:
        variables = environment(self._kind.env, self._kind.secret_env)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        output = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the worker
        program = sys.executable if self._kind.ready[0] == PYTHON else self._kind.ready[0]
        command = [wrapper.STAND_READY, str(theirs.fileno()), program, *self._kind.ready[1:]]
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", wrapper.__file__, *command],
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                pass_fds=[theirs.fileno()],
            )
        except OSError as failure:
            ours.close()
            output.close()
            self._put_off({"why": str(failure)})
            return
        finally:
            theirs.close()
        threading.Thread(target=process.wait, name="reap-warm", daemon=True).start()
        self._workers.append(_Worker(process, ours, output, variables, self._clock()))

    def _lose(self, worker: _Worker) -> None:
        said = _end(worker)
        self._put_off({"ready": worker.is_ready, "said": said})

    def _put_off(self, about: Mapping[str, object]) -> None:
        """One died: the next is prepared after a pause that grows while they die one after the other."""
        self._deaths += 1
        pause = min(2.0 ** min(self._deaths - 1, 10), PAUSE_SECONDS_MAX)
        self._not_before = self._clock() + pause
        log.warning("a process that was to stand ready is gone", extra={"pause_seconds": pause, **about})

    def _show(self) -> None:
        self._shown(self.ready)


def _hand_over(worker: _Worker, message: bytes, work: Work) -> bool:
    """Whether its watcher took the work; where not, it never will, for it does nothing without our last word."""
    try:
        worker.link.settimeout(ANSWER_SECONDS)
        socket.send_fds(worker.link, [message], [work.lock, work.log])
        if worker.link.recv(wrapper.MESSAGE_BYTES_MAX) != wrapper.TAKEN:
            return False
        worker.link.send(wrapper.GO)
    except OSError:
        return False
    worker.link.close()
    worker.output.close()
    return True


def _end(worker: _Worker) -> str:
    """Kill it where it still lives, and what it said last."""
    worker.link.close()
    worker.process.kill()
    worker.process.wait()
    with worker.output as output:
        output.seek(max(0, output.seek(0, 2) - _LAST_WORDS_BYTES))
        return output.read().decode("utf-8", "replace")


def _heard(link: socket.socket) -> bytes | None:
    """What the watcher said; nothing where it is gone, None where it has nothing to say."""
    try:
        return link.recv(wrapper.MESSAGE_BYTES_MAX, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def _message(spec: WorkloadSpec, work: Work, arguments: tuple[str, ...], variables: Mapping[str, str]) -> bytes:
    about = {
        "folder": str(work.folder),
        "log_path": str(work.log_path),
        "log_bytes_max": work.log_bytes_max,
        "grace_seconds": spec.grace_seconds,
        "arguments": arguments,
        "env": variables,
    }
    return json.dumps(about).encode()


def _differing(have: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    """Names alone: values may be secret."""
    one, other = lasting(have), lasting(wanted)
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
