"""A cluster that answers late, wrongly, twice or not at all; and a service that is replaced in the middle."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from feinschliff.kit.errors import Conflict, Refusal, Unavailable
from feinschliff.workloads.kubernetes import KubernetesRunner
from feinschliff.workloads.kubernetes_api import Api
from feinschliff.workloads.spec import WorkloadSpec
from feinschliff.workloads.status import State
from tests.support.cluster.cluster import NAMESPACE, Cluster
from tests.support.cluster.faults import Fault, Kind
from tests.support.grounds import PROFILE, OnCluster
from tests.support.programs import POLITE, ended, python, says
from tests.support.waiting import eventually


def calls(cluster: Cluster, method: str, *words: str) -> int:
    return sum(call.startswith(method) and all(word in call for word in words) for call in [*cluster.calls])


def lists(cluster: Cluster) -> int:
    return calls(cluster, "GET", "limit=500")


def test_many_are_observed_without_asking_for_each(jobs: KubernetesRunner, cluster: Cluster) -> None:
    for number in range(20):
        jobs.start(WorkloadSpec(f"job-{number}", ("sleep", "600")))
    for number in range(20):
        eventually(lambda name=f"job-{number}": jobs.observe(name).state is State.RUNNING)  # type: ignore[misc]
    before = len(cluster.calls)

    for _ in range(10):
        assert {jobs.observe(f"job-{number}").state for number in range(20)} == {State.RUNNING}
        assert len(jobs.list()) == 20

    assert len(cluster.calls) == before


def test_what_was_started_is_there_even_while_nothing_can_be_watched(on_cluster: OnCluster, cluster: Cluster) -> None:
    cluster.faults.plan(Fault(Kind.STATUS, "GET", "watch=true", times=10_000))
    cluster.faults.plan(Fault(Kind.STATUS, "GET", "limit=500", times=12))
    runner = on_cluster.open()

    runner.start(WorkloadSpec("one", ("sh", "-c", "exit 65")))

    assert runner.observe("one").state is not State.NOTHING
    assert ended(runner, "one").exit_code == 65


@pytest.mark.parametrize("times", [1, 3])
def test_a_watch_that_is_too_old_lists_again(jobs: KubernetesRunner, cluster: Cluster, times: int) -> None:
    for number in range(times):
        before = lists(cluster)
        cluster.controls = False
        cluster.store.create("secrets", {"metadata": {"name": f"noise-{number}"}}, NAMESPACE)
        cluster.store.compact()
        cluster.cut_lines()
        jobs.start(WorkloadSpec(f"job-{number}", ("true",)))
        cluster.controls = True

        assert ended(jobs, f"job-{number}").exit_code == 0
        assert lists(cluster) > before


def test_bookmarks_keep_a_quiet_watch_young(jobs: KubernetesRunner, cluster: Cluster) -> None:
    cluster.bookmark_seconds = 0.05
    for number in range(5):
        cluster.store.create("secrets", {"metadata": {"name": f"noise-{number}"}}, NAMESPACE)
    reached = cluster.store.version
    sent = cluster.bookmarks
    eventually(lambda: cluster.bookmarks > sent + 9, 30, "bookmarks for all watches")
    before = lists(cluster)

    cluster.store.compact()
    cluster.cut_lines()
    jobs.start(WorkloadSpec("one", ("true",)))

    assert ended(jobs, "one").exit_code == 0
    assert cluster.store.oldest >= reached
    assert lists(cluster) == before


def test_an_expired_continuation_of_a_list_begins_anew(on_cluster: OnCluster, cluster: Cluster) -> None:
    first = on_cluster.open()
    for number in range(5):
        first.start(WorkloadSpec(f"job-{number}", ("true",)))
    cluster.page_items = 2
    cluster.faults.plan(Fault(Kind.STATUS, "GET", "continue=2", status=410))

    second = on_cluster.open()

    assert len(eventually(second.list)) == 5


@pytest.mark.parametrize("method", ["POST", "PATCH", "DELETE"])
def test_an_answer_that_is_lost_changes_nothing(jobs: KubernetesRunner, cluster: Cluster, method: str) -> None:
    cluster.faults.plan(Fault(Kind.LOST, method, "/jobs"))
    cluster.faults.plan(Fault(Kind.LOST, method, "/secrets"))
    jobs.start(WorkloadSpec("one", python(POLITE), secret_env={"A": "1"}))
    says(jobs, "one", b"ready")
    jobs.stop("one")

    assert ended(jobs, "one").exit_code == 75
    jobs.forget("one")
    assert jobs.observe("one").state is State.NOTHING
    assert cluster.faults.happened


@pytest.mark.parametrize(("status", "retry_after"), [(429, 1), (503, 1), (500, None)])
def test_a_busy_cluster_is_asked_again_when_it_wants_to_be(
    jobs: KubernetesRunner, cluster: Cluster, status: int, retry_after: int | None
) -> None:
    cluster.faults.plan(Fault(Kind.STATUS, "POST", "/jobs", status=status, retry_after=retry_after))
    begun = time.monotonic()

    jobs.start(WorkloadSpec("one", ("true",)))

    assert time.monotonic() - begun >= (retry_after or 0)
    assert ended(jobs, "one").exit_code == 0


def test_a_cluster_that_stays_busy_is_left_to_the_caller(jobs: KubernetesRunner, cluster: Cluster) -> None:
    cluster.faults.plan(Fault(Kind.STATUS, "POST", "/jobs", status=429, retry_after=30, times=99))

    with pytest.raises(Unavailable) as refused:
        jobs.start(WorkloadSpec("one", ("true",)))

    assert (refused.value.reason, refused.value.retry_after_seconds) == ("WORKLOAD_START_FAILED", 30)
    assert calls(cluster, "POST", "/jobs") == 1


def test_a_cluster_that_is_away_is_no_reason_to_lose_what_is_known(jobs: KubernetesRunner, cluster: Cluster) -> None:
    jobs.start(WorkloadSpec("one", python(POLITE)))
    says(jobs, "one", b"ready")
    cluster.faults.plan(Fault(Kind.CUT, times=10_000))
    cluster.cut_lines()

    assert jobs.observe("one").state is State.RUNNING
    with pytest.raises(Unavailable) as refused:
        jobs.observe("unknown")
    assert refused.value.reason == "WORKLOAD_CLUSTER_UNAVAILABLE"
    with pytest.raises(Unavailable):
        jobs.stop("one")

    cluster.faults.clear()
    jobs.stop("one")
    assert ended(jobs, "one").exit_code == 75


def test_writers_that_meet_read_again(jobs: KubernetesRunner, cluster: Cluster) -> None:
    jobs.start(WorkloadSpec("one", python(POLITE)))
    says(jobs, "one", b"ready")
    cluster.faults.plan(Fault(Kind.STATUS, "PATCH", "/jobs", status=409, times=2))

    jobs.stop("one")

    assert ended(jobs, "one").exit_code == 75


def test_writers_that_never_stop_meeting_are_told(jobs: KubernetesRunner, cluster: Cluster) -> None:
    jobs.start(WorkloadSpec("one", ("sleep", "600")))
    cluster.faults.plan(Fault(Kind.STATUS, "PATCH", "/jobs", status=409, times=99))

    with pytest.raises(Conflict) as refused:
        jobs.stop("one")

    assert refused.value.reason == "WORKLOAD_CONTESTED"


def test_a_stop_meets_only_the_object_that_was_seen(
    jobs: KubernetesRunner, on_cluster: OnCluster, cluster: Cluster
) -> None:
    jobs.start(WorkloadSpec("one", ("false",)))
    ended(jobs, "one")
    blind = on_cluster.open()
    cluster.faults.plan(Fault(Kind.STATUS, "GET", "watch=true", times=10_000))
    cluster.cut_lines()
    jobs.forget("one")

    blind.stop("one")
    blind.forget("one")

    assert cluster.store.find("jobs", "one") is None


def test_a_storm_of_refusals_loses_and_doubles_nothing(on_cluster: OnCluster, cluster: Cluster, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    runner = on_cluster.open()
    cluster.faults.plan(Fault(Kind.STATUS, chance=0.2, status=429, times=60))
    cluster.faults.plan(Fault(Kind.STATUS, chance=0.2, status=500, times=60))
    cluster.faults.plan(Fault(Kind.LOST, chance=0.1, times=30))
    cluster.faults.plan(Fault(Kind.CUT, chance=0.1, times=30))

    for number in range(8):
        code = f"echo {number} >> {marks}; exit $CODE"
        spec = WorkloadSpec(f"job-{number}", ("sh", "-c", code), secret_env={"CODE": str(60 + number)})
        eventually(lambda spec=spec: insist(runner, spec), 60, "the start")  # type: ignore[misc]

    for number in range(8):
        assert eventually(lambda name=f"job-{number}": code_of(runner, name), 60, "its end") == 60 + number  # type: ignore[misc]
    assert Counter(marks.read_text().split()) == {str(number): 1 for number in range(8)}
    assert len(cluster.faults.happened) > 10


def insist(runner: KubernetesRunner, spec: WorkloadSpec) -> bool:
    try:
        runner.start(spec)
    except Unavailable:
        return False
    return True


def code_of(runner: KubernetesRunner, name: str) -> int | None:
    try:
        return runner.observe(name).exit_code
    except Refusal:
        return None


def test_a_service_that_is_replaced_among_20_jobs_loses_and_doubles_none(
    on_cluster: OnCluster, cluster: Cluster, tmp_path: Path
) -> None:
    """Each service works off the same list; the first is cut off in the middle of a start, the next goes on."""
    marks = tmp_path / "marks"
    gate = tmp_path / "gate"
    work = [
        WorkloadSpec(
            f"training-{number}",
            ("sh", "-c", f"echo {number} >> {marks}; while [ ! -e {gate} ]; do sleep 0.1; done; exit $CODE"),
            secret_env={"CODE": str(number % 3)},
            labels={"room": "training", "job": f"projects/default/trainingJobs/{number}"},
        )
        for number in range(20)
    ]

    def serve(runner: KubernetesRunner, until: threading.Event) -> None:
        for spec in work:
            if until.is_set():
                return
            if runner.observe(spec.name).state is State.NOTHING:
                runner.start(spec)
            if spec.name == "training-9":
                until.set()

    first, replaced = on_cluster.open(), threading.Event()
    serve(first, replaced)
    first.close()
    assert len(cluster.store.all("jobs")) == 10

    second = on_cluster.open()
    assert len(second.list({"room": "training"})) == 10
    third = KubernetesRunner(Api.at(cluster.url, NAMESPACE), default_profile=PROFILE)
    on_cluster.opened.append(third)
    both = [threading.Thread(target=serve, args=(runner, threading.Event())) for runner in (second, third)]
    for thread in both:
        thread.start()
    serve(second, threading.Event())
    for thread in both:
        thread.join()
    for spec in work[10:]:
        second.start(spec)
    gate.touch()

    ends = {spec.name: ended(second, spec.name) for spec in work}

    assert {name: seen.exit_code for name, seen in ends.items()} == {spec.name: n % 3 for n, spec in enumerate(work)}
    assert Counter(marks.read_text().split()) == {str(number): 1 for number in range(20)}
    assert len(second.list({"room": "training"})) == len(third.list()) == 20
    assert [one.name for one in third.list(dict(work[7].labels))] == ["training-7"]
