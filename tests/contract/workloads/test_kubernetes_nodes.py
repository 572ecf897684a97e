"""Several nodes as one workload: an Indexed Job with a Service, or a JobSet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from feinschliff.workloads.kubernetes import KubernetesRunner
from feinschliff.workloads.kubernetes_api import Api
from feinschliff.workloads.spec import RENDEZVOUS, WorkloadSpec
from feinschliff.workloads.status import State
from tests.support.cluster import accidents
from tests.support.cluster.cluster import NAMESPACE, Cluster
from tests.support.grounds import PROFILE
from tests.support.programs import POLITE, ended, python, says
from tests.support.waiting import eventually


@pytest.fixture(params=[False, True], ids=["indexed-job", "jobset"])
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path / "cluster", has_jobsets=request.param)
    yield cluster
    cluster.close()


@pytest.fixture
def jobs(cluster: Cluster) -> Iterator[KubernetesRunner]:
    api = Api.at(cluster.url, NAMESPACE)
    runner = KubernetesRunner(api, default_profile=PROFILE, jobsets=api.serves("jobsets"))
    yield runner
    runner.close()


def nodes(cluster: Cluster) -> list[dict[str, object]]:
    return cluster.store.all("pods")


def test_every_node_runs_it_once_and_it_is_over_with_the_last(jobs: KubernetesRunner, cluster: Cluster) -> None:
    show = "import os, time; print('node', os.environ['JOB_COMPLETION_INDEX']); time.sleep(0.2)"
    jobs.start(WorkloadSpec("wide", python(show), nodes=3, secret_env={"A": "1"}))

    assert ended(jobs, "wide").exit_code == 0
    assert jobs.logs("wide") == b"node 0\n"
    assert len(nodes(cluster)) == 3
    assert [seen.name for seen in jobs.list()] == ["wide"]
    jobs.forget("wide")
    kinds = ("jobsets", "jobs", "pods", "secrets", "services")
    eventually(lambda: not any(cluster.store.all(kind) for kind in kinds), 30, "nothing to be left")


def test_the_nodes_find_each_other_by_names_that_the_cluster_makes(jobs: KubernetesRunner, cluster: Cluster) -> None:
    jobs.start(WorkloadSpec("wide", python("pass"), nodes=2))
    ended(jobs, "wide")

    first = nodes(cluster)[0]
    spec = first["spec"]
    assert isinstance(spec, dict)
    meeting = next(one["value"] for one in spec["containers"][0]["env"] if one["name"] == RENDEZVOUS)
    assert meeting == f"{spec['hostname']}.{spec['subdomain']}:29400"
    if cluster.has_jobsets:
        (made,) = cluster.store.all("jobsets")
        assert made["spec"]["network"]["subdomain"] == spec["subdomain"]
    else:
        (made,) = cluster.store.all("services")
        assert made["metadata"]["name"] == spec["subdomain"]
        assert made["spec"]["selector"].items() <= first["metadata"]["labels"].items()  # type: ignore[index]
        assert made["spec"]["publishNotReadyAddresses"] is True


def test_one_node_that_fails_ends_them_all_with_its_exit_code(jobs: KubernetesRunner, cluster: Cluster) -> None:
    fail = "import os, sys, time\nif os.environ['JOB_COMPLETION_INDEX'] == '1': sys.exit(65)\ntime.sleep(600)"
    jobs.start(WorkloadSpec("wide", python(fail), nodes=2, grace_seconds=1))

    assert ended(jobs, "wide").exit_code == 65
    assert cluster.processes() == 0


def test_all_nodes_are_stopped_with_their_grace(jobs: KubernetesRunner, cluster: Cluster) -> None:
    jobs.start(WorkloadSpec("wide", python(POLITE), nodes=2))
    eventually(lambda: cluster.processes() == 2, 30, "both nodes")
    says(jobs, "wide", b"ready")
    eventually(lambda: all(b"ready" in next(iter(cluster.kubelet.log(pod["metadata"]["name"]).read(follow=False)), b"")
                           for pod in cluster.store.all("pods")), 10, "both to be ready")  # fmt: skip

    jobs.stop("wide")

    assert ended(jobs, "wide").exit_code == 75
    assert jobs.observe("wide").trouble is None
    assert cluster.processes() == 0


def test_a_queue_holds_all_nodes_back_together(jobs: KubernetesRunner, cluster: Cluster) -> None:
    jobs.start(WorkloadSpec("wide", python("pass"), nodes=2, profile=PROFILE.model_copy(update={"queue": "team-a"})))
    trouble = eventually(lambda: jobs.observe("wide").trouble, 30, "a trouble")
    assert trouble is not None
    assert trouble.reason == "WORKLOAD_QUEUED"
    assert nodes(cluster) == []

    kind = "jobsets" if cluster.has_jobsets else "jobs"
    cluster.store.update(kind, "wide", lambda made: made["spec"].update(suspend=False))

    assert ended(jobs, "wide").exit_code == 0


def test_a_service_that_comes_later_finds_the_whole(jobs: KubernetesRunner, cluster: Cluster) -> None:
    jobs.start(WorkloadSpec("wide", python(POLITE), nodes=2))
    says(jobs, "wide", b"ready")

    late = KubernetesRunner(Api.at(cluster.url, NAMESPACE), default_profile=PROFILE, jobsets=cluster.has_jobsets)
    try:
        assert late.observe("wide").state is State.RUNNING
        late.start(WorkloadSpec("wide", python("pass"), nodes=2))
        assert len(nodes(cluster)) == 2
    finally:
        late.close()


def test_a_node_that_goes_away_is_nobodys_fault(jobs: KubernetesRunner, cluster: Cluster) -> None:
    jobs.start(WorkloadSpec("wide", python(POLITE), nodes=2))
    says(jobs, "wide", b"ready")
    accidents.drain(cluster, nodes(cluster)[0]["metadata"]["labels"]["job-name"])  # type: ignore[index]

    seen = ended(jobs, "wide")
    assert seen.trouble is not None
    assert (seen.exit_code, seen.trouble.reason, seen.trouble.blameless) == (75, "WORKLOAD_DRAINED", True)
