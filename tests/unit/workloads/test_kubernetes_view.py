"""States and ends follow from the objects that a cluster shows, whatever is missing from them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from feinschliff.workloads.kubernetes_view import SILENCE_SECONDS, Snapshot, observe
from feinschliff.workloads.status import State

Object = dict[str, Any]

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
EARLIER = "2026-01-01T11:00:00Z"


def job(*held: tuple[str, str, str], stopped: bool = False, suspend: bool = False, **status: object) -> Object:
    annotations = {"feinschliff.dev/workload": "one", "feinschliff.dev/labels": '{"room": "training"}'}
    if stopped:
        annotations["feinschliff.dev/stop-requested"] = EARLIER
    listed = [
        {"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": EARLIER}
        for kind, reason, message in held
    ]
    return {
        "kind": "Job",
        "metadata": {"name": "one", "uid": "j", "annotations": annotations, "creationTimestamp": EARLIER},
        "spec": {"suspend": suspend},
        "status": {"conditions": listed, **status},
    }


def pod(phase: str, state: Object | None = None, *, deleted_seconds_ago: float | None = None) -> Object:
    meta: Object = {"name": "one-x", "uid": "p", "annotations": {"feinschliff.dev/workload": "one"}}
    if deleted_seconds_ago is not None:
        meta["deletionTimestamp"] = (NOW - timedelta(seconds=deleted_seconds_ago)).isoformat()
    statuses = [{"name": "istio-proxy", "state": {"running": {"startedAt": EARLIER}}}]
    statuses += [{"name": "trainer", "state": state}] if state else []
    return {"metadata": meta, "spec": {"nodeName": "n"}, "status": {"phase": phase, "containerStatuses": statuses}}


def ended(code: int, reason: str = "Error") -> Object:
    return {"terminated": {"exitCode": code, "reason": reason, "startedAt": EARLIER, "finishedAt": EARLIER}}


RUNS: Object = {"running": {"startedAt": EARLIER}}
FAILED = ("Failed", "PodFailurePolicy", "")
SUSPENDED = ("Suspended", "JobSuspended", "Job suspended")

STATES: list[tuple[str, Object | None, list[Object], State]] = [
    ("nothing", None, [], State.NOTHING),
    ("a job that is new", job(), [], State.PENDING),
    ("a pod without a container", job(active=1), [pod("Pending")], State.PENDING),
    ("a container that runs", job(active=1), [pod("Running", RUNS)], State.RUNNING),
    ("a pod that ended before its job", job(active=1), [pod("Failed", ended(1))], State.RUNNING),
    ("a job that failed", job(FAILED), [pod("Failed", ended(1))], State.EXITED),
    ("a job that failed with a pod that leaves", job(FAILED), [pod("Running", RUNS)], State.RUNNING),
    ("a job that waits in a queue", job(SUSPENDED, suspend=True), [], State.PENDING),
    ("a stop that nobody has seen", job(stopped=True, suspend=True), [], State.PENDING),
    ("a stop that is over", job(SUSPENDED, stopped=True, suspend=True, active=0), [], State.EXITED),
    (
        "a stop with a pod that leaves",
        job(SUSPENDED, stopped=True, suspend=True),
        [pod("Running", RUNS)],
        State.RUNNING,
    ),
    ("a stop with pods unseen", job(SUSPENDED, stopped=True, suspend=True, terminating=1), [], State.PENDING),
    ("a stop that was undone", job(SUSPENDED, stopped=True, suspend=False), [], State.PENDING),
    ("a pod whose job is gone", None, [pod("Running", RUNS)], State.RUNNING),
    ("an ended pod whose job is gone", None, [pod("Failed", ended(1))], State.NOTHING),
    ("a pod that leaves", job(active=1), [pod("Running", RUNS, deleted_seconds_ago=1)], State.RUNNING),
    (
        "a pod on a silent node",
        job(active=1),
        [pod("Running", RUNS, deleted_seconds_ago=SILENCE_SECONDS + 1)],
        State.EXITED,
    ),
]


@pytest.mark.parametrize(("what", "root", "pods", "state"), STATES, ids=[row[0] for row in STATES])
def test_a_state_follows_from_what_is_there(what: str, root: Object | None, pods: list[Object], state: State) -> None:
    assert observe(Snapshot("one", root, root, pods), NOW).state is state


@pytest.mark.parametrize(
    ("root", "pods", "exit_code", "number"),
    [
        (job(("Complete", "", "")), [], 0, None),
        (job(FAILED), [pod("Failed", ended(65))], 65, None),
        (job(FAILED), [pod("Failed", ended(137))], None, 9),
        (job(FAILED), [pod("Failed", ended(255))], 255, None),
        (job(("Failed", "PodFailurePolicy", "Container trainer for pod a/b failed with exit code 75 m")), [], 75, None),
        (job(("Failed", "PodFailurePolicy", "Container trainer for pod a/b failed with exit code 137 m")), [], None, 9),
        (job(("Failed", "BackoffLimitExceeded", "Job has reached the limit")), [], None, None),
        (job(SUSPENDED, stopped=True, suspend=True), [], None, 15),
        (job(SUSPENDED, stopped=True, suspend=True), [pod("Failed", ended(75))], 75, None),
    ],
)
def test_an_end_is_told_by_whatever_knows_it(
    root: Object, pods: list[Object], exit_code: int | None, number: int | None
) -> None:
    seen = observe(Snapshot("one", root, root, pods), NOW)

    assert (seen.state, seen.exit_code, seen.signal) == (State.EXITED, exit_code, number)
    assert seen.labels == {"room": "training"}
    assert (seen.trouble is not None) == seen.vanished


def test_the_last_words_of_a_pod_that_is_gone_count() -> None:
    root = job(SUSPENDED, stopped=True, suspend=True)

    seen = observe(Snapshot("one", root, root, [], [pod("Failed", ended(75))]), NOW)

    assert (seen.exit_code, seen.started) == (75, datetime(2026, 1, 1, 11, tzinfo=UTC))


def test_between_the_end_of_its_pod_and_the_word_of_the_cluster_a_stopped_one_still_runs() -> None:
    root = job(stopped=True, suspend=True)

    assert observe(Snapshot("one", root, root, [], [pod("Failed", ended(75))]), NOW).state is State.RUNNING


def test_the_node_that_failed_first_says_how_it_ended() -> None:
    late = pod("Failed", ended(143))
    late["status"]["containerStatuses"][1]["state"]["terminated"]["finishedAt"] = "2026-01-01T11:30:00Z"
    fine = pod("Succeeded", ended(0))
    root = job(FAILED)

    assert observe(Snapshot("one", root, root, [late, fine, pod("Failed", ended(65))]), NOW).exit_code == 65


def test_a_container_that_could_not_be_run_never_started() -> None:
    root = job(FAILED)
    unable = pod("Failed", ended(128, "StartError"))
    unable["status"]["containerStatuses"][1]["state"]["terminated"]["startedAt"] = "1970-01-01T00:00:00Z"

    seen = observe(Snapshot("one", root, root, [unable]), NOW)

    assert seen.started is None
    assert seen.trouble is not None
    assert seen.trouble.reason == "WORKLOAD_COMMAND_UNUSABLE"


def test_an_old_warning_about_a_pod_that_is_gone_is_no_trouble() -> None:
    root = job(active=1)
    event = {
        "metadata": {"creationTimestamp": EARLIER},
        "involvedObject": {"kind": "Job", "name": "one"},
        "reason": "FailedCreate",
        "message": "exceeded quota",
        "firstTimestamp": EARLIER,
    }

    waits = observe(Snapshot("one", root, root, [], [], [event]), NOW)
    goes = observe(Snapshot("one", root, root, [pod("Pending")], [], [event]), NOW)

    assert waits.trouble is not None
    assert waits.trouble.since == datetime(2026, 1, 1, 11, tzinfo=UTC)
    assert goes.trouble is None
