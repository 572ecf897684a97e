"""Why a job or an attempt ended badly, in words that its owner can act on."""

from __future__ import annotations

from feinschliff.formats.report import Failure
from feinschliff.kit.errors import Invalid, Refusal, WrongState
from feinschliff.training.store import Job
from feinschliff.workloads.status import Trouble


def of_trouble(trouble: Trouble) -> Failure:
    """What the machine or the cluster did to the attempt."""
    return Failure(
        reason=trouble.reason,
        message=trouble.message[:4000],
        advice=list(trouble.advice)[:16],
        retryable=trouble.retryable,
    )


def of_refusal(refusal: Refusal) -> Failure:
    """Why the runner did not start it; what lies in the profile or the cluster's policy would come again."""
    return Failure(
        reason=refusal.reason,
        message=refusal.message[:4000],
        advice=list(refusal.advice)[:16],
        retryable=not isinstance(refusal, Invalid | WrongState),
    )


def out_of_time(job: Job) -> Failure:
    return Failure(
        reason="WALL_TIME_EXCEEDED",
        message=f"The job ran longer than its limit of {job.recipe.limits.wall_seconds:.0f} s.",
        advice=["Raise limits.wall_seconds, or train fewer epochs.", "Its checkpoints are kept."],
    )


def exhausted(job: Job, last: Failure) -> Failure:
    return Failure(
        reason="ATTEMPTS_EXHAUSTED",
        message=f"{job.attempt} attempts, the last ones without progress. The last one: {last.message}",
        advice=[*last.advice, "Mend the cause, then create the job again."],
    )


def unexplained(job: Job, log: bytes) -> Failure:
    """Args: log: the end of what the attempt wrote."""
    last = log.decode(errors="replace").strip().rsplit("\n", 1)[-1][:500]
    return Failure(
        reason="ATTEMPT_CRASHED",
        message=f"The attempt ended without saying why. Its last line: {last}",
        advice=[f"Read {log_key(job)} in the bucket."],
        retryable=True,
    )


def log_key(job: Job) -> str:
    """Where the log of the job's current attempt is kept."""
    return log_key_of(job.name, job.attempt)


def log_key_of(job: str, attempt: int) -> str:
    """Where the log of one of a job's attempts is kept once it is over."""
    return f"{job}/logs/attempt-{attempt}.log"
