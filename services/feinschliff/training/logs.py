"""What an attempt printed: from its machine while it runs, from the store afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from feinschliff.artifacts.store import Store
from feinschliff.kit import names
from feinschliff.kit.db import Database
from feinschliff.kit.errors import NotFound
from feinschliff.training import store
from feinschliff.training.endings import log_key_of
from feinschliff.training.jobs import JOB, existing
from feinschliff.training.life import FINAL
from feinschliff.training.store import Job
from feinschliff.workloads.runner import LOG_CHUNK_BYTES, Runner
from feinschliff.workloads.spec import workload_name

PIECE_BYTES = 64 * 1024


class Piece(NamedTuple):
    """Some of an attempt's log, and where in it that lies."""

    attempt: int
    start: int
    text: bytes

    @property
    def end(self) -> int:
        return self.start + len(self.text)


class Logs:
    """May be asked from any thread."""

    def __init__(self, database: Database, artifacts: Store, runner: Runner) -> None:
        self._database = database
        self._artifacts = artifacts
        self._runner = runner

    def tail(self, name: str, attempt: int) -> Tail:
        """One reader of a log.

        Args:
            attempt: from 1; 0 is the newest, and before there is one, the first.

        Raises:
            NotFound: JOB_NOT_FOUND, ATTEMPT_NOT_FOUND.
        """
        names.parse(JOB, name)
        job = self.job(name)
        if attempt < 0 or attempt > job.attempt:
            raise NotFound("ATTEMPT_NOT_FOUND", f"{name} has no attempt {attempt}.", job=name, attempt=attempt)
        return Tail(self, name, attempt or job.attempt)

    def job(self, name: str) -> Job:
        with self._database.reading() as session:
            return existing(session, name)

    def is_over(self, job: Job, attempt: int) -> bool:
        with self._database.reading() as session:
            known = store.get_attempt(session, f"{job.name}/attempts/{attempt}")
        return known is None or known.ended is not None

    def read(self, job: Job, attempt: int, offset: int) -> bytes:
        """At most 1 MiB from there on; empty where there is no more, or none yet."""
        if not self.is_over(job, attempt):
            said = self._runner.logs(workload_name("training", job.uid, attempt), offset, LOG_CHUNK_BYTES)
            if said:
                return said
        kept = self._artifacts.head(key := log_key_of(job.name, attempt))
        if kept is None or kept.size_bytes <= offset:
            return b""
        return next(iter(self._artifacts.open(key, offset=offset)), b"")


class Tail:
    """Reads the log of one attempt, one question at a time."""

    def __init__(self, logs: Logs, name: str, attempt: int) -> None:
        self._logs = logs
        self._name = name
        self._attempt = attempt

    def read(self, offset: int) -> Sequence[Piece]:
        job = self._logs.job(self._name)
        self._attempt = self._attempt or min(job.attempt, 1)
        if not self._attempt:
            return []
        said = self._logs.read(job, self._attempt, offset)
        starts = range(0, len(said), PIECE_BYTES)
        return [Piece(self._attempt, offset + start, said[start : start + PIECE_BYTES]) for start in starts]

    def is_final(self) -> bool:
        """Whether no more can come: the attempt is over, or the job is without ever having had one."""
        job = self._logs.job(self._name)
        attempt = self._attempt or min(job.attempt, 1)
        if attempt:
            return self._logs.is_over(job, attempt)
        return job.state in FINAL
