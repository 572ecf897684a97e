"""The cluster of these tests keeps the API's rules; the official client's own typed calls show them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from kubernetes import client, watch
from kubernetes.client.exceptions import ApiException

from feinschliff.workloads import manifests
from feinschliff.workloads.kubernetes_api import Api, ApiError, Selection
from feinschliff.workloads.manifests import Place
from feinschliff.workloads.spec import WorkloadSpec
from tests.support.cluster.cluster import NAMESPACE, Cluster
from tests.support.grounds import PROFILE
from tests.support.waiting import eventually

Object = dict[str, Any]


def a_job(name: str = "one", *command: str, labels: dict[str, str] | None = None, **more: object) -> Object:
    place = Place(NAMESPACE, "test", "starter", "a1b2c3")
    made = manifests.job(WorkloadSpec(name, command or ("true",), labels=labels or {}), PROFILE, place)
    made["spec"] |= more
    return made


def a_secret(name: str, **meta: object) -> Object:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, **meta}}


@pytest.fixture
def api(cluster: Cluster) -> Iterator[Api]:
    made = Api.at(cluster.url, NAMESPACE)
    yield made
    made.close()


@pytest.fixture
def official(cluster: Cluster) -> client.ApiClient:
    return client.ApiClient(client.Configuration(host=cluster.url))


def test_the_official_client_makes_reads_and_watches(official: client.ApiClient) -> None:
    batch = client.BatchV1Api(official)
    batch.create_namespaced_job(NAMESPACE, a_job())

    with closing(watch.Watch().stream(batch.list_namespaced_job, NAMESPACE, timeout_seconds=10)) as ends:
        assert any((event["object"].status.succeeded or 0) == 1 for event in ends)
    assert batch.read_namespaced_job("one", NAMESPACE).spec.completion_mode == "NonIndexed"
    (pod,) = client.CoreV1Api(official).list_namespaced_pod(NAMESPACE, label_selector="job-name=one").items
    assert pod.metadata.owner_references[0].kind == "Job"
    with pytest.raises(ApiException) as refused:
        batch.read_namespaced_job("two", NAMESPACE)
    assert refused.value.status == 404
    official.rest_client.close()


@pytest.mark.parametrize(
    ("meta", "status"),
    [({"resourceVersion": "1"}, 409), ({"uid": "other"}, 409), ({"annotations": {"a": "b"}}, 200)],
)
def test_a_patch_of_something_else_than_was_read_is_refused(api: Api, meta: Object, status: int) -> None:
    api.create("secrets", a_secret("one"))

    if status == 200:
        assert api.patch("secrets", "one", {"metadata": meta})["metadata"]["annotations"] == {"a": "b"}
        return
    with pytest.raises(ApiError) as refused:
        api.patch("secrets", "one", {"metadata": meta})
    assert refused.value.status == status


def test_a_name_is_taken_once_and_a_uid_is_deleted_once(api: Api, cluster: Cluster) -> None:
    first = api.create("secrets", a_secret("one"))
    with pytest.raises(ApiError) as refused:
        api.create("secrets", a_secret("one"))
    assert (refused.value.status, refused.value.reason) == (409, "AlreadyExists")

    api.delete("secrets", "one", uid="other")
    assert cluster.store.find("secrets", "one")
    api.delete("secrets", "one", uid=first["metadata"]["uid"])
    assert cluster.store.find("secrets", "one") is None


def test_a_finalizer_holds_what_is_deleted(api: Api, cluster: Cluster) -> None:
    made = api.create("secrets", a_secret("one", finalizers=["example.com/hold"]))
    api.delete("secrets", "one", uid=made["metadata"]["uid"])
    assert cluster.store.get("secrets", "one")["metadata"]["deletionTimestamp"]

    api.patch("secrets", "one", {"metadata": {"finalizers": None}})

    assert cluster.store.find("secrets", "one") is None


@pytest.mark.parametrize(
    ("spoil", "where"),
    [
        (lambda made: made["spec"].update(paralelism=1), "paralelism"),
        (lambda made: made["spec"].update(backoffLimit="none"), "spec.backoffLimit"),
        (lambda made: made["spec"]["template"]["spec"].update(restartPolicy="Always"), "restartPolicy"),
        (lambda made: made["metadata"]["labels"].update(job="a/b"), "metadata.labels"),
        (lambda made: made["metadata"].update(name="x" * 64), "metadata.name"),
    ],
)
def test_what_is_malformed_is_refused_with_its_place(api: Api, spoil: Any, where: str) -> None:
    made = a_job()
    spoil(made)

    with pytest.raises(ApiError) as refused:
        api.create("jobs", made)

    assert refused.value.status == 422
    assert where in refused.value.message


def test_what_is_fixed_stays_and_what_is_not_moves(api: Api) -> None:
    made = api.create("jobs", a_job("one", "sleep", "600"))
    with pytest.raises(ApiError) as refused:
        api.patch("jobs", "one", {"spec": {"completions": 2}})
    assert refused.value.status == 422

    assert (
        api.patch("jobs", "one", {"spec": {"suspend": True}})["metadata"]["generation"] > made["metadata"]["generation"]
    )


def test_a_list_comes_in_pages_and_selects(api: Api, cluster: Cluster) -> None:
    cluster.page_items = 2
    for number in range(5):
        api.create("secrets", a_secret(f"s-{number}", labels={"odd": str(number % 2)}))

    assert len(api.list("secrets", Selection()).items) == 5
    assert [one["metadata"]["name"] for one in api.list("secrets", Selection("odd=1")).items] == ["s-1", "s-3"]
    assert len(api.list("secrets", Selection("odd!=1,odd")).items) == 3
    assert len(api.list("secrets", Selection(fields="metadata.name=s-4")).items) == 1


def test_a_watch_tells_what_comes_changes_and_leaves_the_selection(api: Api) -> None:
    begin = api.list("secrets", Selection()).resource_version
    made = api.create("secrets", a_secret("one", labels={"mine": "yes"}))
    api.create("secrets", a_secret("other"))
    api.patch("secrets", "one", {"metadata": {"annotations": {"a": "b"}}})
    api.patch("secrets", "one", {"metadata": {"labels": {"mine": "no"}}})

    events = [json.loads(line) for line in api.watch("secrets", Selection("mine=yes"), begin, 1).lines()]

    told = [event for event in events if event["type"] != "BOOKMARK"]
    assert [event["type"] for event in told] == ["ADDED", "MODIFIED", "DELETED"]
    assert {event["object"]["metadata"]["uid"] for event in told} == {made["metadata"]["uid"]}
    versions = [int(event["object"]["metadata"]["resourceVersion"]) for event in events]
    assert versions == sorted(set(versions)) or events[-1]["type"] == "BOOKMARK"


def test_a_watch_from_a_forgotten_version_is_told_so(api: Api, cluster: Cluster) -> None:
    begin = api.list("secrets", Selection()).resource_version
    api.create("secrets", a_secret("one"))
    cluster.store.compact()

    (line,) = api.watch("secrets", Selection(), begin, 1).lines()

    event = json.loads(line)
    assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 410, "Expired")


def test_what_belongs_to_something_goes_with_it(api: Api, cluster: Cluster) -> None:
    owner = api.create("jobs", a_job("one", "sleep", "600"))
    reference = {"apiVersion": "batch/v1", "kind": "Job", "name": "one", "uid": owner["metadata"]["uid"]}
    api.create("secrets", a_secret("one", ownerReferences=[reference]))
    eventually(lambda: cluster.processes() == 1)

    api.delete("jobs", "one", uid=owner["metadata"]["uid"])

    eventually(lambda: not cluster.store.all("secrets") and not cluster.store.all("pods"), 30, "their end")
    assert cluster.processes() == 0


@pytest.mark.parametrize(
    ("command", "rules", "reason", "words"),
    [
        ("exit 3", True, "PodFailurePolicy", "exit code 3 matching FailJob rule at index 2"),
        ("exit 75", True, "PodFailurePolicy", "exit code 75 matching FailJob rule at index 0"),
        ("exit 3", False, "BackoffLimitExceeded", "backoff limit"),
        ("sleep 600", True, "DeadlineExceeded", "deadline"),
    ],
)
def test_a_job_says_how_it_failed(
    api: Api, cluster: Cluster, command: str, rules: bool, reason: str, words: str
) -> None:
    made = a_job("one", "sh", "-c", command, activeDeadlineSeconds=1)
    if not rules:
        del made["spec"]["podFailurePolicy"]
    api.create("jobs", made)

    def failed() -> Object | None:
        held = cluster.store.get("jobs", "one")["status"].get("conditions", ())
        return next((one for one in held if one["type"] == "Failed"), None)

    condition = eventually(failed, 30, "its failure")
    assert condition is not None
    assert condition["reason"] == reason
    assert words in condition["message"]
