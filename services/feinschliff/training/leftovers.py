"""Workloads of attempts that are over: what a process that was killed, or an outage, left on the machine."""

from __future__ import annotations

import logging

from feinschliff.kit.context import log_context
from feinschliff.kit.db import Database
from feinschliff.kit.errors import Refusal
from feinschliff.training import store
from feinschliff.training.acts import workload_of
from feinschliff.training.life import UNDER_WAY
from feinschliff.training.store import Job
from feinschliff.workloads import status
from feinschliff.workloads.runner import Runner
from feinschliff.workloads.spec import workload_name

log = logging.getLogger(__name__)


def clear(database: Database, runner: Runner) -> None:
    """Forgets those that ended and stops those that go on.

    One whose job is not in these tables stays: it may be another installation's.
    """
    try:
        for observed in runner.list({"room": "training"}):
            with database.reading() as session:
                job = store.get_job(session, observed.labels.get("job", ""))
            if job is None or not is_over(job, observed.name):
                continue
            with log_context(job=job.name):
                log.info("clearing away", extra={"workload": observed.name, "seen": observed.state.value})
                if observed.state is status.State.EXITED:
                    runner.forget(observed.name)
                else:
                    runner.stop(observed.name)
    except Refusal as refusal:
        log.warning("leftovers stay for now: %s", refusal.message, extra={"reason": refusal.reason})


def is_over(job: Job, workload: str) -> bool:
    """Whether the workload is an attempt of this job, and not the one under way."""
    if job.state in UNDER_WAY and workload == workload_of(job):
        return False
    return workload in {workload_name("training", job.uid, number) for number in range(1, job.attempt + 1)}
