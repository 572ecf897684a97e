"""Faults on purpose, by name: a test kills, fails or delays a process at an exact place and turn."""

import os
import signal
import threading
import time
from collections.abc import Mapping
from typing import Literal, NamedTuple

from feinschliff.kit.errors import StartError

KNOWN: Mapping[str, str] = {
    "artifacts.before_manifest": "all files of an artifact are written, its manifest is not",
    "artifacts.after_manifest": "the manifest of an artifact is written, nobody was told",
    "attempt.before_start": "the reconciler decided to start a workload, nothing runs yet",
    "attempt.after_start": "a workload runs, the database does not know",
    "checkpoint.before_write": "the trainer is about to write a checkpoint",
    "checkpoint.before_commit": "a checkpoint's files are stored, its manifest is not",
    "checkpoint.after_commit": "a checkpoint is committed, the service was not told",
    "completion.before_store": "an answer was given, its exchange is not in the log",
    "deployment.before_load": "a deployment is wanted, its weights are not loaded",
    "evaluation.before_item": "an item is about to be sampled",
    "evaluation.after_item": "an item is graded, its result is not stored",
    "evaluation.after_probe": "a row of a bias test is stored, the next one is not",
    "evaluation.after_rule": "a rule of a gate is judged, the verdict is not stored",
    "evaluation.before_finish": "all items are stored, the run is not marked",
    "registration.before_call": "a job is done, its version is not registered",
    "registration.after_call": "the version is registered, the job is not marked",
    "report.before_send": "the trainer is about to report events",
    "report.after_send": "the service took events, the trainer does not know",
    "result.before_commit": "the adapter's files are stored, its manifest is not",
    "result.after_commit": "the result is committed, the trainer still runs",
    "rows.before_kept": "encoded rows are written for later jobs, their entry is not there",
    "step.after": "an optimiser step is done",
    "upload.before_store": "an upload begins, nothing is stored",
    "upload.before_commit": "an upload is stored, its version is not in the database",
    "upload.after_commit": "the version is in the database, the caller was not told",
    "test.here": "for tests of the failpoints themselves",
}


class InjectedFault(RuntimeError):
    """Raised by a failpoint that was told to raise."""


class Fault(NamedTuple):
    """What happens at a failpoint: at the `turn`-th hit (0: at each)."""

    act: Literal["kill", "raise", "delay"]
    turn: int
    delay_seconds: float


_lock = threading.Lock()
_armed: dict[str, Fault] = {}
_hits: dict[str, int] = {}


def configure(spec: str) -> None:
    """Arms the failpoints of `name=kill@3;name=raise;name=delay:0.5`; an empty text disarms all.

    kill without a turn is the first hit; raise and delay without a turn are every hit.

    Raises:
        StartError: an unknown name or a malformed fault, so that a typo never makes a test pass.
    """
    armed, problems = {}, []
    for part in filter(None, (piece.strip() for piece in spec.split(";"))):
        name, _, text = part.partition("=")
        fault = _parse(text)
        if name not in KNOWN:
            problems.append(f"FEINSCHLIFF_FAILPOINTS: no failpoint is named {name!r}")
        elif fault is None:
            problems.append(
                f"FEINSCHLIFF_FAILPOINTS: {part!r} is none of name=kill@n, name=raise@n, name=delay:seconds@n"
            )
        else:
            armed[name] = fault
    if problems:
        raise StartError(problems)
    with _lock:
        _armed.clear()
        _armed.update(armed)
        _hits.clear()


def fail(name: str) -> None:
    """A place where a fault may be wanted; costs a dictionary look-up where none is."""
    if name not in KNOWN:
        raise KeyError(f"failpoint {name!r} is not in feinschliff.kit.failpoints.KNOWN")
    fault = _armed.get(name)
    if fault is None:
        return
    with _lock:
        _hits[name] = hit = _hits.get(name, 0) + 1
    if fault.turn and hit != fault.turn:
        return
    if fault.act == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault.act == "raise":
        raise InjectedFault(name)
    time.sleep(fault.delay_seconds)


def is_armed(name: str) -> bool:
    """Whether a fault is wanted there: on an event loop a hop to a thread, for a delay, is worth it then alone."""
    return name in _armed


def _parse(text: str) -> Fault | None:
    act, _, turn = text.partition("@")
    act, _, delay = act.partition(":")
    try:
        number = int(turn) if turn else 0
        seconds = float(delay) if delay else 0.0
    except ValueError:
        return None
    if number < 0 or not 0 <= seconds < float("inf") or (act == "delay") != bool(delay):
        return None
    match act:
        case "kill":
            return Fault("kill", number or 1, 0)
        case "raise":
            return Fault("raise", number, 0)
        case "delay":
            return Fault("delay", number, seconds)
    return None
