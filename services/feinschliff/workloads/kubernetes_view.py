"""How a workload looks, told from the objects that a cluster has of it; pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from signal import SIGTERM
from typing import Any

from feinschliff.workloads.manifests import CONTAINER, JOBSET_NAME, LABELS, STOP_REQUESTED, WORKLOAD
from feinschliff.workloads.status import Observation, State, Trouble
from feinschliff.workloads.troubles import ENDS, WAITS, Sign, Source, diagnose, vanished

Object = dict[str, Any]

SILENCE_SECONDS = 60.0  # a pod this long past its own end is on a node that does not answer
_FIRST_YEAR = 2000  # a container that could not be run "started" in 1970
_SIGNALLED = 128
_SIGNALS_MAX = 64
_EXIT_CODE = re.compile(r"failed with exit code (\d+)")
_OVER = frozenset({"Succeeded", "Failed"})


@dataclass(frozen=True)
class Snapshot:
    """What the cluster has of one workload at one moment.

    Args:
        root: the object that we made, a Job or a JobSet; None: gone, only pods are left.
        job: the Job that runs the pods; the root itself, or a JobSet's child, None while it has none.
        pods: those that exist, and last words of those that do not (`ghosts`).
        events: warnings about the Job and its pods.
    """

    name: str
    root: Object | None
    job: Object | None
    pods: Sequence[Object] = ()
    ghosts: Sequence[Object] = ()
    events: Sequence[Object] = field(default=())


def observe(seen: Snapshot, now: datetime) -> Observation:
    """State, exit and trouble of one workload.

    A pod whose node is silent for long counts as ended: whoever starts another attempt must not need the old one to
    be dead, for nobody can tell.
    """
    if seen.root is None and not _alive(seen, now):
        return Observation(seen.name, State.NOTHING)
    labels = workload_labels(seen.root or seen.pods[0])
    started = _started(seen)
    state = _state(seen, started, now)
    if state is State.EXITED:
        code, number = _ending(seen)
        trouble = _end_trouble(seen, now, how_is_known=code is not None or number is not None)
        return Observation(seen.name, state, code, number, labels, started, trouble)
    if state is State.PENDING:
        return Observation(seen.name, state, labels=labels, trouble=diagnose(WAITS, list(_waiting(seen))))
    trouble = None if is_stopped(seen.root) else diagnose(ENDS, list(_leaving(seen)))
    return Observation(seen.name, state, labels=labels, started=started, trouble=trouble)


def workload_of(made: Object) -> str:
    """The workload's name, from any object of it; empty for a stranger."""
    return str(_annotations(made).get(WORKLOAD, ""))


def workload_labels(made: Object) -> dict[str, str]:
    try:
        return dict(json.loads(_annotations(made).get(LABELS, "{}")))
    except ValueError:
        return {}


def is_child(job: Object) -> bool:
    return JOBSET_NAME in (job["metadata"].get("labels") or {})


def is_stopped(root: Object | None) -> bool:
    return root is not None and STOP_REQUESTED in _annotations(root)


def is_over(pod: Object) -> bool:
    return (pod.get("status") or {}).get("phase") in _OVER


def is_suspended(root: Object) -> bool:
    return bool(root["spec"].get("suspend"))


def conditions(made: Object) -> Mapping[str, Object]:
    """Those that hold, by type."""
    listed = (made.get("status") or {}).get("conditions") or ()
    return {one["type"]: one for one in listed if one.get("status") == "True"}


def parse_time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def has_begun(pod: Object) -> bool:
    return _begun(pod) is not None


def _state(seen: Snapshot, started: datetime | None, now: datetime) -> State:
    alive = _alive(seen, now)
    if seen.root is None:
        return State.RUNNING
    held = {**conditions(seen.root), **(conditions(seen.job) if seen.job else {})}
    if not alive and any(not is_over(pod) for pod in seen.pods):
        return State.EXITED
    if not alive and not held.keys().isdisjoint({"Complete", "Failed", "Completed"}):
        return State.EXITED
    if not alive and is_stopped(seen.root) and is_suspended(seen.root) and _is_drained(seen, held):
        return State.EXITED
    if any(_begun(pod) for pod in seen.pods):
        return State.RUNNING
    if started and (is_stopped(seen.root) or not is_suspended(seen.root)):
        return State.RUNNING
    return State.PENDING


def _alive(seen: Snapshot, now: datetime) -> list[Object]:
    return [pod for pod in seen.pods if not is_over(pod) and not _is_silent(pod, now)]


def _is_drained(seen: Snapshot, held: Mapping[str, Object]) -> bool:
    """Whether the cluster knows that it is suspended, and has nothing left of it."""
    status = ((seen.job or seen.root or {}).get("status")) or {}
    return "Suspended" in held and not status.get("active") and not status.get("terminating")


def _is_silent(pod: Object, now: datetime) -> bool:
    ends = parse_time(pod["metadata"].get("deletionTimestamp"))
    return ends is not None and now - ends > timedelta(seconds=SILENCE_SECONDS)


def _started(seen: Snapshot) -> datetime | None:
    return min((begun for pod in (*seen.pods, *seen.ghosts) if (begun := _begun(pod))), default=None)


def _begun(pod: Object) -> datetime | None:
    state = _container(pod).get("state") or {}
    for phase in ("running", "terminated"):
        begun = parse_time((state.get(phase) or {}).get("startedAt"))
        if begun is not None and begun.year >= _FIRST_YEAR:
            return begun
    return None


def _ending(seen: Snapshot) -> tuple[int | None, int | None]:
    """Exit code and signal; None and None where nothing tells."""
    held = conditions(seen.job) if seen.job else {}
    if "Complete" in held:
        return 0, None
    code = _first_exit(seen)
    if code is None and (told := _EXIT_CODE.search((held.get("Failed") or {}).get("message") or "")):
        code = int(told[1])
    if code is None:
        return None, (int(SIGTERM) if is_stopped(seen.root) else None)
    if _SIGNALLED < code <= _SIGNALLED + _SIGNALS_MAX:
        return None, code - _SIGNALLED
    return code, None


def _first_exit(seen: Snapshot) -> int | None:
    """The exit code of the pod that failed first; of one that did not fail where none did."""
    exits = [
        (int(ended["exitCode"]) == 0, ended.get("finishedAt") or "", int(ended["exitCode"]))
        for pod in (*seen.pods, *seen.ghosts)
        if (ended := (_container(pod).get("state") or {}).get("terminated"))
    ]
    return min(exits)[2] if exits else None


def _end_trouble(seen: Snapshot, now: datetime, *, how_is_known: bool) -> Trouble | None:
    if is_stopped(seen.root):
        return None
    signs = [*_job_signs(seen), *_leaving(seen)]
    signs += [_silent_sign(pod) for pod in seen.pods if not is_over(pod) and _is_silent(pod, now)]
    trouble = diagnose(ENDS, signs)
    if trouble is None and not how_is_known:
        return vanished(_failure_message(seen))
    return trouble


def _failure_message(seen: Snapshot) -> str:
    held = conditions(seen.job) if seen.job else {}
    return str((held.get("Failed") or {}).get("message") or "")


def _job_signs(seen: Snapshot) -> Iterator[Sign]:
    for made in (seen.job, seen.root):
        for kind, one in (conditions(made) if made else {}).items():
            if kind in ("Failed", "FailureTarget"):
                yield Sign(Source.JOB, one.get("reason") or "", one.get("message") or "", _since(one))


def _leaving(seen: Snapshot) -> Iterator[Sign]:
    for pod in (*seen.pods, *seen.ghosts):
        status = pod.get("status") or {}
        if status.get("reason"):
            yield Sign(Source.POD, status["reason"], status.get("message") or "")
        if disrupted := conditions(pod).get("DisruptionTarget"):
            message = disrupted.get("message") or ""
            yield Sign(Source.DISRUPTION, disrupted.get("reason") or "", message, _since(disrupted))
        if ended := (_container(pod).get("state") or {}).get("terminated"):
            message = ended.get("message") or f"exit code {ended.get('exitCode')}"
            yield Sign(Source.ENDED, ended.get("reason") or "", message, parse_time(ended.get("finishedAt")))


def _silent_sign(pod: Object) -> Sign:
    node = (pod.get("spec") or {}).get("nodeName") or "unknown"
    return Sign(Source.SILENT, "NodeSilent", f"node {node}", parse_time(pod["metadata"]["deletionTimestamp"]))


def _waiting(seen: Snapshot) -> Iterator[Sign]:
    if seen.root and is_suspended(seen.root) and not is_stopped(seen.root):
        held = conditions(seen.root).get("Suspended") or {}
        yield Sign(Source.QUEUE, "Suspended", held.get("message") or "", _since(held) or _made(seen.root))
    for pod in seen.pods:
        yield from _waiting_pod(pod)
    names = {pod["metadata"]["name"] for pod in seen.pods}
    for event in seen.events:
        about = event["involvedObject"]
        if (about.get("kind") == "Pod" and about.get("name") in names) or not names:
            yield Sign(Source.EVENT, event.get("reason") or "", event.get("message") or "", _first_seen(event))


def _waiting_pod(pod: Object) -> Iterator[Sign]:
    placed: datetime | None = None
    for one in (pod.get("status") or {}).get("conditions") or ():
        if one["type"] == "PodScheduled":
            placed = _since(one)
            if one.get("status") != "True":
                yield Sign(Source.PLACING, one.get("reason") or "", one.get("message") or "", placed)
    if waiting := (_container(pod).get("state") or {}).get("waiting"):
        since = placed or _made(pod)
        yield Sign(Source.WAITING, waiting.get("reason") or "", waiting.get("message") or "", since)


def _container(pod: Object) -> Object:
    """The status of the trainer's container; others, put in by the cluster, do not count."""
    listed = (pod.get("status") or {}).get("containerStatuses") or ()
    return next((dict(one) for one in listed if one.get("name") == CONTAINER), {})


def _annotations(made: Object) -> Mapping[str, str]:
    return made["metadata"].get("annotations") or {}


def _since(condition: Object) -> datetime | None:
    return parse_time(condition.get("lastTransitionTime"))


def _made(made: Object) -> datetime | None:
    return parse_time(made["metadata"].get("creationTimestamp"))


def _first_seen(event: Object) -> datetime | None:
    stamps = (event.get("firstTimestamp"), event.get("eventTime"), event["metadata"].get("creationTimestamp"))
    return next((parse_time(stamp) for stamp in stamps if stamp), None)
