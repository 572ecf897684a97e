"""What a cluster is given: objects that it takes, that hold no secret in the open, and that go with the workload."""

from __future__ import annotations

import json

import pytest

from feinschliff.kit.errors import Denied, Invalid, Unavailable, WrongState
from feinschliff.workloads.kubernetes import KubernetesRunner
from feinschliff.workloads.kubernetes_api import Api
from feinschliff.workloads.profiles import Profile
from feinschliff.workloads.spec import WorkloadSpec
from feinschliff.workloads.status import State
from tests.support.cluster.cluster import NAMESPACE, Cluster
from tests.support.grounds import PROFILE, OnCluster
from tests.support.programs import POLITE, ended, python, says
from tests.support.waiting import eventually

FULL = Profile(
    name="gpu-8x",
    image="registry.example/trainer:1",
    image_pull_secrets=("pull",),
    gpus=8,
    resources={"requests": {"cpu": "8", "memory": "64Gi"}, "limits": {"memory": "64Gi"}},
    node_selector={"accelerator": "h100"},
    tolerations=({"key": "gpu", "operator": "Exists", "effect": "NoSchedule"},),
    affinity={"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    priority_class="batch",
    runtime_class="nvidia",
    service_account="trainer",
    env={"NCCL_DEBUG": "WARN"},
    labels={"team": "a"},
    annotations={"note": "x"},
    volumes=({"name": "models", "persistentVolumeClaim": {"claimName": "models"}},),
    volume_mounts=({"name": "models", "mountPath": "/models", "readOnly": True},),
)


def test_everything_that_a_profile_can_say_is_taken_by_a_cluster(jobs: KubernetesRunner, cluster: Cluster) -> None:
    jobs.start(WorkloadSpec("one", ("sh", "-c", "echo $NCCL_DEBUG"), profile=FULL))

    assert ended(jobs, "one").exit_code == 0
    assert jobs.logs("one") == b"WARN\n"
    (pod,) = cluster.pods("one")
    assert pod["spec"]["containers"][0]["resources"]["limits"] == {"memory": "64Gi", "nvidia.com/gpu": "8"}
    assert pod["metadata"]["labels"]["app.kubernetes.io/component"] == "trainer"


def test_no_secret_is_in_the_open_and_each_goes_with_its_job(jobs: KubernetesRunner, cluster: Cluster) -> None:
    jobs.start(WorkloadSpec("one", ("sh", "-c", "exit 0"), env={"A": "plain"}, secret_env={"TOKEN": "hush-hush"}))
    ended(jobs, "one")

    for kind in ("jobs", "pods", "events"):
        assert "hush-hush" not in json.dumps(cluster.store.all(kind))
    (secret,) = cluster.store.all("secrets")
    (job,) = cluster.store.all("jobs")
    assert secret["immutable"]
    assert [one["uid"] for one in secret["metadata"]["ownerReferences"]] == [job["metadata"]["uid"]]
    jobs.forget("one")
    eventually(lambda: not cluster.store.all("secrets") and not cluster.store.all("pods"), 30, "their end")


def test_a_trainer_has_no_token_of_the_cluster_and_writes_only_where_it_may(
    jobs: KubernetesRunner, cluster: Cluster
) -> None:
    jobs.start(WorkloadSpec("one", ("true",)))
    ended(jobs, "one")

    (pod,) = cluster.pods("one")
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert pod["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True
    mounts = {mount["mountPath"] for mount in pod["spec"]["containers"][0]["volumeMounts"]}
    assert mounts == {"/var/lib/feinschliff", "/tmp", "/dev/shm"}


def test_a_finished_job_is_kept_for_a_while_and_then_is_nothing(jobs: KubernetesRunner, cluster: Cluster) -> None:
    jobs.start(WorkloadSpec("one", ("true",), profile=PROFILE.model_copy(update={"ttl_seconds": 1})))
    assert ended(jobs, "one").exit_code == 0

    eventually(lambda: jobs.observe("one").state is State.NOTHING, 30, "the end of its time")
    assert jobs.list() == []


def test_two_installations_in_a_namespace_do_not_see_each_other(on_cluster: OnCluster, cluster: Cluster) -> None:
    ours = on_cluster.open()
    theirs = KubernetesRunner(Api.at(cluster.url, NAMESPACE), default_profile=PROFILE, managed_by="other/training")
    on_cluster.opened.append(theirs)
    ours.start(WorkloadSpec("one", ("true",)))
    theirs.start(WorkloadSpec("two", ("true",)))

    assert ended(ours, "one").exit_code == ended(theirs, "two").exit_code == 0
    assert [seen.name for seen in ours.list()] == ["one"]
    assert [seen.name for seen in theirs.list()] == ["two"]


def test_a_job_of_somebody_else_is_left_alone(jobs: KubernetesRunner, cluster: Cluster) -> None:
    jobs.start(WorkloadSpec("one", ("true",)))
    ended(jobs, "one")
    stranger = cluster.store.get("jobs", "one")
    jobs.forget("one")
    stranger["metadata"] = {"name": "one", "labels": {}}
    cluster.store.create("jobs", stranger, NAMESPACE)

    with pytest.raises(Unavailable) as refused:
        jobs.start(WorkloadSpec("one", ("true",)))

    assert refused.value.reason == "WORKLOAD_START_FAILED"
    jobs.stop("one")
    jobs.forget("one")
    assert jobs.observe("one").state is State.NOTHING
    assert cluster.store.find("jobs", "one")


def test_jobs_end_with_their_owner_if_they_have_one(on_cluster: OnCluster, cluster: Cluster) -> None:
    owner = cluster.store.create("services", {"metadata": {"name": "training"}}, NAMESPACE)
    reference = {"apiVersion": "v1", "kind": "Service", "name": "training", "uid": owner["metadata"]["uid"]}
    runner = KubernetesRunner(Api.at(cluster.url, NAMESPACE), default_profile=PROFILE, owner=reference)
    on_cluster.opened.append(runner)
    runner.start(WorkloadSpec("one", python(POLITE)))
    says(runner, "one", b"ready")

    cluster.store.delete("services", "training")

    eventually(lambda: runner.observe("one").state is State.NOTHING, 30, "its end")
    assert cluster.processes() == 0


@pytest.mark.parametrize(
    ("right", "call"),
    [
        (("create", "jobs"), "start"),
        (("create", "secrets"), "start"),
        (("patch", "jobs"), "stop"),
        (("delete", "jobs"), "forget"),
        (("list", "pods"), "observe"),
        (("get", "jobs"), "observe"),
    ],
)
def test_a_right_that_is_missing_is_named(
    on_cluster: OnCluster, cluster: Cluster, right: tuple[str, str], call: str
) -> None:
    verb, kind = right
    cluster.rules.denied.add(right)
    if verb == "list":
        cluster.rules.denied.add(("watch", kind))
    runner = on_cluster.open()
    spec = WorkloadSpec("one", ("sleep", "600") if call == "stop" else ("true",), secret_env={"A": "1"})

    def act() -> None:
        if call != "observe":
            runner.start(spec)
        if call == "forget":
            ended(runner, "one")
        if call != "start":
            getattr(runner, call)("one")

    with pytest.raises(Denied) as refused:
        act()

    assert refused.value.reason == "WORKLOAD_RIGHT_MISSING"
    assert (refused.value.metadata["verb"], refused.value.metadata["kind"]) == right
    if call == "start":
        eventually(lambda: not cluster.store.all("jobs"), 30, "nothing to be left")


def test_a_start_that_can_neither_go_on_nor_be_taken_back_names_what_stopped_it(
    on_cluster: OnCluster, cluster: Cluster
) -> None:
    cluster.rules.denied |= {("create", "secrets"), ("delete", "jobs")}

    with pytest.raises(Denied) as refused:
        on_cluster.open().start(WorkloadSpec("one", ("true",), secret_env={"A": "1"}))

    assert (refused.value.metadata["verb"], refused.value.metadata["kind"]) == ("create", "secrets")


def test_a_quota_on_jobs_is_told_by_the_start(jobs: KubernetesRunner, cluster: Cluster) -> None:
    cluster.rules.quota["count/jobs.batch"] = 1
    jobs.start(WorkloadSpec("one", ("true",)))

    with pytest.raises(Unavailable) as refused:
        jobs.start(WorkloadSpec("two", ("true",)))

    assert refused.value.reason == "WORKLOAD_START_FAILED"
    assert "exceeded quota" in refused.value.message
    assert refused.value.advice
    ended(jobs, "one")
    jobs.forget("one")
    jobs.start(WorkloadSpec("two", ("true",)))
    assert ended(jobs, "two").exit_code == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"volume_mounts": ({"name": "nothing", "mountPath": "/models"},)},
        {"tolerations": ({"key": "gpu", "operatr": "Exists"},)},
        {"labels": {"team": "not a label"}},
    ],
)
def test_a_profile_that_no_cluster_takes_is_refused_with_its_place(jobs: KubernetesRunner, wrong: object) -> None:
    assert isinstance(wrong, dict)
    with pytest.raises(WrongState) as refused:
        jobs.start(WorkloadSpec("one", ("true",), profile=PROFILE.model_copy(update=wrong)))

    assert refused.value.reason == "WORKLOAD_REFUSED"
    assert "spec." in refused.value.message or "metadata." in refused.value.message
    assert jobs.observe("one").state is State.NOTHING


def test_a_profile_without_an_image_is_refused(jobs: KubernetesRunner) -> None:
    with pytest.raises(Invalid) as refused:
        jobs.start(WorkloadSpec("one", ("true",), profile=Profile(name="local")))

    assert refused.value.reason == "WORKLOAD_IMAGE_MISSING"


def test_a_volume_that_a_restricted_namespace_forbids_is_a_trouble(jobs: KubernetesRunner) -> None:
    wrong = {
        "volumes": ({"name": "host", "hostPath": {"path": "/"}},),
        "volume_mounts": ({"name": "host", "mountPath": "/host"},),
    }
    jobs.start(WorkloadSpec("one", ("true",), profile=PROFILE.model_copy(update=wrong)))

    trouble = eventually(lambda: jobs.observe("one").trouble, 30, "a trouble")

    assert trouble is not None
    assert (trouble.reason, trouble.retryable) == ("WORKLOAD_ADMISSION_REFUSED", False)
    assert "restricted volume types" in trouble.message
