"""What runs in a home: written by the supervisor, read by every command."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from enum import StrEnum
from pathlib import Path

import psutil
from pydantic import ValidationError

from feinschliff.formats.base import Stored

_SAME_START_SECONDS = 1.0  # two readings of a process's start may differ by a clock tick
_LOOKERS_SECONDS = 0.5  # who only looks holds the lock for a moment


class Phase(StrEnum):
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    FAILED = "failed"


class ProcessRef(Stored):
    """A process by its id and its start, so that a reused id is never taken for it."""

    pid: int
    started: float

    @classmethod
    def of(cls, pid: int) -> ProcessRef | None:
        """None where it is gone already."""
        try:
            return cls(pid=pid, started=psutil.Process(pid).create_time())
        except psutil.NoSuchProcess:
            return None

    def find(self) -> psutil.Process | None:
        """The process, if it still runs."""
        try:
            process = psutil.Process(self.pid)
            if abs(process.create_time() - self.started) > _SAME_START_SECONDS:
                return None
            return None if process.status() == psutil.STATUS_ZOMBIE else process
        except psutil.NoSuchProcess:
            return None


class Child(Stored):
    """One part of the platform: its process, and how often it had to be started again."""

    process: ProcessRef | None = None
    restarts: int = 0


class PlatformState(Stored):
    """The platform of one home.

    Args:
        ports: by the name of the setting, `gateway_port`.
        problem: why it could not start; only in FAILED.
    """

    phase: Phase
    supervisor: ProcessRef
    since: datetime
    ports: Mapping[str, int]
    s3_endpoint: str
    children: Mapping[str, Child] = {}
    problem: str = ""

    @property
    def is_running(self) -> bool:
        return self.phase is not Phase.FAILED and self.supervisor.find() is not None


def read_state(home: Path) -> PlatformState | None:
    """What was last written; it may be about processes that are gone."""
    try:
        return PlatformState.model_validate_json(_file(home).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def running_state(home: Path) -> PlatformState | None:
    """The state of a platform that runs now."""
    state = read_state(home)
    return state if state is not None and state.is_running else None


def write_state(home: Path, state: PlatformState) -> None:
    folder = _file(home).parent
    with tempfile.NamedTemporaryFile("w", dir=folder, prefix=".", delete=False, encoding="utf-8") as aside:
        aside.write(state.model_dump_json(indent=2))
    Path(aside.name).replace(_file(home))


def forget_state(home: Path) -> None:
    _file(home).unlink(missing_ok=True)


@contextmanager
def owning(home: Path) -> Iterator[bool]:
    """Holds the home for one supervisor; False where another one has it."""
    folder = _file(home).parent
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.mkdir(exist_ok=True, mode=0o700)
    with (folder / "lock").open("ab") as lock:
        deadline = time.monotonic() + _LOOKERS_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    yield False
                    return
                time.sleep(_LOOKERS_SECONDS / 10)
            else:
                break
        yield True


def is_owned(home: Path) -> bool:
    """Whether a supervisor holds the home now."""
    try:
        lock = os.open(_file(home).parent / "lock", os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _file(home: Path) -> Path:
    return home / "run" / "platform.json"
