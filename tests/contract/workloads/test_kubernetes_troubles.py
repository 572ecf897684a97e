"""What goes wrong on a cluster is seen as what it is: the reason, who is to blame, whether to try again, what to do."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from feinschliff.workloads.kubernetes import KubernetesRunner
from feinschliff.workloads.spec import WorkloadSpec
from feinschliff.workloads.status import Observation, State, Trouble
from tests.support.cluster import accidents
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.faults import Fault, Kind
from tests.support.cluster.store import Refused
from tests.support.grounds import PROFILE, OnCluster
from tests.support.programs import POLITE, STUBBORN, ended, python, says
from tests.support.waiting import eventually

Cause = Callable[[Cluster], None]

PULL = 'Back-off pulling image "registry.example/x:1": ErrImagePull: rpc error: code = NotFound desc = not found'
ROOM = "0/3 nodes are available: 1 node(s) had untolerated taint {gpu: true}, 2 Insufficient nvidia.com/gpu."
POD = 'pods "one-abcde" is forbidden: '


def troubled(runner: KubernetesRunner, name: str = "one") -> Trouble:
    trouble = eventually(lambda: runner.observe(name).trouble, 30, "a trouble")
    assert trouble is not None
    return trouble


def images(reason: str, message: str = "") -> Cause:
    def cause(cluster: Cluster) -> None:
        cluster.image_trouble = (reason, message)

    return cause


def no_room(message: str) -> Cause:
    def cause(cluster: Cluster) -> None:
        cluster.no_room = message

    return cause


def refused(message: str) -> Cause:
    def cause(cluster: Cluster) -> None:
        cluster.rules.pods_refused = message

    return cause


def quota(cluster: Cluster) -> None:
    cluster.rules.quota["pods"] = 0


WAITS: list[tuple[str, Cause, bool]] = [  # reason, cause, whether trying again may help
    ("WORKLOAD_IMAGE_PULL_FAILED", images("ImagePullBackOff", PULL), False),
    ("WORKLOAD_IMAGE_PULL_FAILED", images("ErrImagePull", "dial tcp: i/o timeout"), True),
    ("WORKLOAD_IMAGE_NAME_INVALID", images("InvalidImageName"), False),
    ("WORKLOAD_CONTAINER_REFUSED", images("CreateContainerError", "context deadline exceeded"), True),
    ("WORKLOAD_NOT_STARTING", images("SomethingNew", "from a later release"), True),
    ("WORKLOAD_UNSCHEDULABLE", no_room(ROOM), True),
    ("WORKLOAD_QUOTA_EXCEEDED", quota, True),
    ("WORKLOAD_RUNTIME_CLASS_MISSING", refused(POD + 'pod rejected: RuntimeClass "gvisor" not found'), False),
    ("WORKLOAD_ADMISSION_REFUSED", refused('admission webhook "policy.example" denied the request: no'), False),
]


@pytest.mark.parametrize(("reason", "cause", "retryable"), WAITS)
def test_what_cannot_start_says_why_and_starts_once_it_can(
    jobs: KubernetesRunner, cluster: Cluster, reason: str, cause: Cause, retryable: bool
) -> None:
    cause(cluster)
    jobs.start(WorkloadSpec("one", ("true",)))

    trouble = troubled(jobs)

    assert (trouble.reason, trouble.retryable, trouble.blameless) == (reason, retryable, False)
    assert jobs.observe("one").state is State.PENDING
    assert trouble.advice
    assert trouble.patience_seconds is not None
    assert trouble.since is not None
    cluster.image_trouble, cluster.no_room, cluster.rules.pods_refused = None, "", ""
    cluster.rules.quota.clear()
    assert ended(jobs, "one").exit_code == 0
    assert jobs.observe("one").trouble is None


ENDS: list[tuple[str, Cause, bool, bool, int | None]] = [  # reason, cause, retryable, blameless, exit code
    ("WORKLOAD_OUT_OF_MEMORY", lambda cluster: accidents.out_of_memory(cluster, "one"), False, False, None),
    (
        "WORKLOAD_EVICTED",
        lambda cluster: accidents.evict(cluster, "one", "The node was low on resource: memory. "),
        True,
        False,
        None,
    ),
    (
        "WORKLOAD_SCRATCH_FULL",
        lambda cluster: accidents.evict(cluster, "one", 'Usage of EmptyDir volume "scratch" exceeds the limit "1Gi". '),
        False,
        False,
        None,
    ),
    ("WORKLOAD_NODE_SHUTDOWN", lambda cluster: accidents.shut_down(cluster, "one"), True, True, None),
    ("WORKLOAD_DRAINED", lambda cluster: accidents.drain(cluster, "one"), True, True, 75),
    ("WORKLOAD_PREEMPTED", lambda cluster: accidents.drain(cluster, "one", "PreemptionByScheduler"), True, True, 75),
    ("WORKLOAD_NODE_LOST", lambda cluster: accidents.lose_node(cluster, "one", seconds_ago=120), True, True, None),
    ("WORKLOAD_NODE_LOST", lambda cluster: accidents.remove_node(cluster, "one"), True, True, None),
]


@pytest.mark.parametrize(("reason", "cause", "retryable", "blameless", "code"), ENDS)
def test_what_is_ended_from_outside_says_by_what(
    jobs: KubernetesRunner,
    cluster: Cluster,
    reason: str,
    cause: Cause,
    retryable: bool,
    blameless: bool,
    code: int | None,
) -> None:
    jobs.start(WorkloadSpec("one", python(POLITE)))
    says(jobs, "one", b"ready")

    cause(cluster)

    seen = ended(jobs, "one")
    assert seen.trouble is not None
    assert (seen.trouble.reason, seen.trouble.retryable, seen.trouble.blameless) == (reason, retryable, blameless)
    assert seen.exit_code == code
    jobs.forget("one")
    assert jobs.observe("one").state is State.NOTHING


def test_a_killed_program_that_was_out_of_memory_shows_the_signal_as_well(
    jobs: KubernetesRunner, cluster: Cluster
) -> None:
    jobs.start(WorkloadSpec("one", python(POLITE)))
    says(jobs, "one", b"ready")
    accidents.out_of_memory(cluster, "one")

    assert ended(jobs, "one").signal == 9


def test_a_silent_node_is_waited_for_before_the_work_counts_as_lost(jobs: KubernetesRunner, cluster: Cluster) -> None:
    jobs.start(WorkloadSpec("one", python(POLITE)))
    says(jobs, "one", b"ready")
    accidents.lose_node(cluster, "one")

    trouble = troubled(jobs)

    assert (trouble.reason, jobs.observe("one").state) == ("WORKLOAD_NODE_LOST", State.RUNNING)


def test_somebody_who_deletes_the_pod_is_taken_for_a_request_to_stop(jobs: KubernetesRunner, cluster: Cluster) -> None:
    jobs.start(WorkloadSpec("one", python(POLITE)))
    says(jobs, "one", b"ready")
    accidents.delete_pod(cluster, "one")

    seen = ended(jobs, "one")
    assert (seen.exit_code, seen.trouble) == (75, None)
    assert jobs.logs("one") == b"ready\n"


def test_somebody_who_deletes_the_job_leaves_nothing_once_its_pods_are_gone(
    jobs: KubernetesRunner, cluster: Cluster
) -> None:
    jobs.start(WorkloadSpec("one", python(STUBBORN), grace_seconds=1))
    says(jobs, "one", b"deaf")

    cluster.store.delete("jobs", "one")

    assert eventually(lambda: "jobs" and not cluster.store.all("jobs"))
    assert jobs.observe("one").state is State.RUNNING
    eventually(lambda: jobs.observe("one").state is State.NOTHING, 30, "its end")
    assert cluster.processes() == 0


@pytest.mark.parametrize(("program", "code", "number"), [(POLITE, 75, None), (STUBBORN, None, 9)])
def test_the_time_limit_is_kept_by_the_cluster(
    jobs: KubernetesRunner, program: str, code: int | None, number: int | None
) -> None:
    jobs.start(WorkloadSpec("one", python(program), deadline_seconds=2, grace_seconds=1))

    seen = ended(jobs, "one")

    assert seen.trouble is not None
    assert (seen.trouble.reason, seen.trouble.retryable) == ("WORKLOAD_DEADLINE_EXCEEDED", False)
    assert (seen.exit_code, seen.signal) == (code, number)


def test_a_queue_is_waited_for_without_end(jobs: KubernetesRunner, cluster: Cluster) -> None:
    queued = PROFILE.model_copy(update={"queue": "team-a"})
    jobs.start(WorkloadSpec("one", ("true",), profile=queued))

    trouble = troubled(jobs)
    assert (trouble.reason, trouble.patience_seconds) == ("WORKLOAD_QUEUED", None)
    assert jobs.observe("one").state is State.PENDING
    assert cluster.pods("one") == []
    assert cluster.store.get("jobs", "one")["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"

    cluster.store.update("jobs", "one", lambda made: made["spec"].update(suspend=False))
    assert ended(jobs, "one").exit_code == 0


def test_what_is_stopped_while_it_waits_in_a_queue_never_starts(jobs: KubernetesRunner, cluster: Cluster) -> None:
    queued = PROFILE.model_copy(update={"queue": "team-a"})
    jobs.start(WorkloadSpec("one", ("true",), profile=queued))
    troubled(jobs)

    jobs.stop("one")

    assert ended(jobs, "one").signal == 15
    made = cluster.store.get("jobs", "one")
    assert "kueue.x-k8s.io/queue-name" not in made["metadata"]["labels"]
    assert made["spec"]["suspend"] is True


def test_a_queue_that_takes_the_place_back_makes_it_wait_again(jobs: KubernetesRunner, cluster: Cluster) -> None:
    jobs.start(WorkloadSpec("one", ("sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.05; done")))
    eventually(lambda: jobs.observe("one").state is State.RUNNING)
    cluster.no_room = "0/1 nodes are available: 1 Insufficient cpu."

    cluster.store.update("jobs", "one", lambda made: made["spec"].update(suspend=True))

    seen = eventually(lambda: over_or_waiting(jobs.observe("one")), 30, "it to be gone from its node")
    assert seen.exit_code == 0 if seen.state is State.EXITED else seen.trouble is not None


def over_or_waiting(seen: Observation) -> Observation | None:
    return seen if seen.state is not State.RUNNING else None


def test_what_cannot_be_placed_can_be_stopped(jobs: KubernetesRunner, cluster: Cluster) -> None:
    cluster.no_room = ROOM
    jobs.start(WorkloadSpec("one", ("true",)))
    troubled(jobs)

    jobs.stop("one")

    seen = ended(jobs, "one")
    assert (seen.exit_code, seen.signal, seen.trouble) == (None, 15, None)


def test_a_starter_that_died_before_the_secret_leaves_a_trouble(
    jobs: KubernetesRunner, on_cluster: OnCluster, cluster: Cluster
) -> None:
    cluster.faults.plan(Fault(Kind.CUT, "POST", "/secrets", times=99))
    with pytest.raises(Exception, match="does not answer"):
        jobs.start(WorkloadSpec("one", ("true",), secret_env={"TOKEN": "hush"}))
    cluster.faults.clear()
    adopter = on_cluster.open()

    adopter.start(WorkloadSpec("one", ("true",), secret_env={"TOKEN": "another"}))

    trouble = troubled(adopter)
    assert (trouble.reason, trouble.retryable) == ("WORKLOAD_SETTINGS_MISSING", True)
    assert adopter.observe("one").state is State.PENDING
    adopter.stop("one")
    assert ended(adopter, "one").signal == 15


def test_the_starter_itself_goes_on_where_it_was_cut_off(jobs: KubernetesRunner, cluster: Cluster) -> None:
    cluster.faults.plan(Fault(Kind.CUT, "POST", "/secrets", times=99))
    spec = WorkloadSpec("one", ("sh", "-c", "echo $TOKEN"), secret_env={"TOKEN": "hush"})
    with pytest.raises(Exception, match="does not answer"):
        jobs.start(spec)
    cluster.faults.clear()

    jobs.start(spec)

    assert ended(jobs, "one").exit_code == 0
    assert jobs.logs("one") == b"hush\n"


def test_how_it_ended_is_known_when_its_pod_is_gone(
    jobs: KubernetesRunner, on_cluster: OnCluster, cluster: Cluster
) -> None:
    jobs.start(WorkloadSpec("bad", ("sh", "-c", "exit 65")))
    jobs.start(WorkloadSpec("drained", python("import time; print('on', flush=True); time.sleep(99)"), grace_seconds=1))
    ended(jobs, "bad")
    says(jobs, "drained", b"on")
    accidents.remove_node(cluster, "drained")
    ended(jobs, "drained")
    for pod in cluster.store.all("pods"):
        try:
            cluster.store.delete("pods", pod["metadata"]["name"])
        except Refused:
            continue
    eventually(lambda: not cluster.store.all("pods"))

    late = on_cluster.open()

    assert ended(late, "bad").exit_code == 65
    seen = ended(late, "drained")
    assert seen.trouble is not None
    assert (seen.trouble.reason, seen.trouble.blameless, seen.vanished) == ("WORKLOAD_DISRUPTED", True, True)
