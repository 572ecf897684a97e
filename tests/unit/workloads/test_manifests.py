"""What a cluster is told to run follows from specification and profile alone."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feinschliff.workloads import manifests
from feinschliff.workloads.manifests import Place, label_key, label_value, object_name
from feinschliff.workloads.profiles import Profile
from feinschliff.workloads.spec import RENDEZVOUS, WorkloadSpec, workload_name

PLACE = Place("training", "feinschliff-training", "starter", "a1b2c3")
PROFILE = Profile(name="cpu", image="trainer:1")
SPEC = WorkloadSpec("training-ftjob-a1-2", ("python", "-m", "feinschliff.trainer"))
DNS_LABEL = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")
LABEL = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")


def pod(spec: WorkloadSpec = SPEC, profile: Profile = PROFILE, place: Place = PLACE) -> dict[str, Any]:
    found: dict[str, Any] = manifests.job(spec, profile, place)["spec"]["template"]["spec"]
    return found


@given(st.lists(st.text(max_size=90), min_size=1, max_size=3))
def test_any_workload_has_a_name_that_any_host_could_have(parts: list[str]) -> None:
    name = object_name(workload_name(*parts))

    assert DNS_LABEL.fullmatch(name)
    assert len(f"{name}-node-0-63") <= 63
    assert object_name(workload_name(*parts)) == name


@given(st.text(max_size=200))
def test_any_text_can_be_a_label(text: str) -> None:
    assert LABEL.fullmatch(label_value(text))
    assert len(label_value(text)) <= 63
    assert LABEL.fullmatch(label_key(text).partition("/")[2])


def test_what_fits_stays_readable_and_what_does_not_stays_distinct() -> None:
    assert object_name("training-ftjob-a1-2") == "training-ftjob-a1-2"
    assert label_value("training") == "training"
    assert label_value("projects/default/trainingJobs/a").startswith("projects-default-trainingJobs-a-")
    assert len({label_value(f"projects/default/trainingJobs/{'x' * 80}{n}") for n in range(50)}) == 50
    assert len({object_name(f"{'x' * 61}{n}") for n in range(10, 60)}) == 50


def test_one_try_whose_end_is_kept_in_the_jobs_own_condition() -> None:
    spec = manifests.job(SPEC, PROFILE, PLACE)["spec"]

    assert (spec["backoffLimit"], spec["completions"], spec["parallelism"]) == (0, 1, 1)
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    first, second, third = spec["podFailurePolicy"]["rules"]
    assert {rule["action"] for rule in (first, second, third)} == {"FailJob"}
    assert first["onExitCodes"] == {"containerName": "trainer", "operator": "In", "values": [65, 75]}
    assert second["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert third["onExitCodes"] == {"containerName": "trainer", "operator": "NotIn", "values": [0]}


@pytest.mark.parametrize(("seconds", "written"), [(None, None), (0.2, 1), (90.0, 90), (90.5, 91)])
def test_the_time_limit_is_whole_seconds(seconds: float | None, written: int | None) -> None:
    spec = manifests.job(replace(SPEC, deadline_seconds=seconds), PROFILE, PLACE)["spec"]

    assert spec.get("activeDeadlineSeconds") == written


def test_the_grace_is_the_pods() -> None:
    assert pod(replace(SPEC, grace_seconds=60.0))["terminationGracePeriodSeconds"] == 60
    assert pod(replace(SPEC, grace_seconds=0.0))["terminationGracePeriodSeconds"] == 1


def test_a_queue_holds_the_job_and_is_no_label_of_the_pods() -> None:
    made = manifests.job(SPEC, PROFILE.model_copy(update={"queue": "team-a"}), PLACE)

    assert made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    assert made["spec"]["suspend"] is True
    assert "kueue.x-k8s.io/queue-name" not in made["spec"]["template"]["metadata"]["labels"]
    assert "suspend" not in manifests.job(SPEC, PROFILE, PLACE)["spec"]


def test_a_stop_takes_the_job_from_its_queue() -> None:
    made = manifests.job(SPEC, PROFILE.model_copy(update={"queue": "team-a"}), PLACE)
    made["metadata"]["uid"] = "u"

    patch = manifests.stop_patch(made, "now")

    assert patch["metadata"] == {
        "uid": "u",
        "annotations": {"feinschliff.dev/stop-requested": "now"},
        "labels": {"kueue.x-k8s.io/queue-name": None},
    }
    assert patch["spec"] == {"suspend": True}


def test_the_profile_cannot_take_our_labels() -> None:
    own = {"app.kubernetes.io/managed-by": "me", "team": "a"}
    made = manifests.job(SPEC, PROFILE.model_copy(update={"labels": own}), PLACE)

    labels = made["spec"]["template"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/managed-by"] == "feinschliff-training"
    assert labels["team"] == "a"


def test_settings_come_from_the_profile_then_the_workload_and_secrets_by_reference() -> None:
    spec = replace(SPEC, env={"A": "workload", "S": "plain"}, secret_env={"S": "hush"})
    env = pod(spec, PROFILE.model_copy(update={"env": {"A": "profile", "B": "profile"}}))["containers"][0]["env"]

    named = {one["name"]: one for one in env}
    assert len(named) == len(env)
    assert (named["A"]["value"], named["B"]["value"]) == ("workload", "profile")
    assert named["S"]["valueFrom"]["secretKeyRef"] == {"name": "training-ftjob-a1-2-a1b2c3", "key": "S"}
    assert named["HOME"]["value"] == "/var/lib/feinschliff"


def test_secrets_of_the_namespace_are_mounted_as_files_and_never_read_by_us() -> None:
    made = pod(replace(SPEC, secrets=("team-mlflow", "wandb")))

    volumes = {volume["name"]: volume for volume in made["volumes"]}
    mounts = {mount["mountPath"]: mount for mount in made["containers"][0]["volumeMounts"]}
    for name in ("team-mlflow", "wandb"):
        mount = mounts[f"/var/lib/feinschliff/secrets/{name}"]
        assert mount["readOnly"]
        assert volumes[mount["name"]]["secret"] == {"secretName": name, "defaultMode": 0o440}
    assert not any("secret" in volume for volume in pod()["volumes"])


def test_a_profile_may_put_a_volume_in_the_place_of_scratch() -> None:
    own = {
        "volumes": ({"name": "disk", "persistentVolumeClaim": {"claimName": "disk"}},),
        "volume_mounts": ({"name": "disk", "mountPath": "/var/lib/feinschliff"},),
    }
    made = pod(profile=PROFILE.model_copy(update=own))

    assert {volume["name"] for volume in made["volumes"]} == {"disk", "temporary", "shared-memory"}
    paths = [mount["mountPath"] for mount in made["containers"][0]["volumeMounts"]]
    assert sorted(paths) == ["/dev/shm", "/tmp", "/var/lib/feinschliff"]


@pytest.mark.parametrize(
    ("resources", "limits"),
    [
        ({}, {"nvidia.com/gpu": "2"}),
        ({"limits": {"memory": "1Gi"}}, {"memory": "1Gi", "nvidia.com/gpu": "2"}),
        ({"limits": {"amd.com/gpu": "2"}}, {"amd.com/gpu": "2"}),
    ],
)
def test_gpus_are_asked_for_where_the_profile_does_not(resources: dict[str, Any], limits: dict[str, str]) -> None:
    made = pod(profile=PROFILE.model_copy(update={"gpus": 2, "resources": resources}))

    assert made["containers"][0]["resources"]["limits"] == limits


def environment(spec: WorkloadSpec, place: Place = PLACE) -> dict[str, str]:
    return {one["name"]: one.get("value", "") for one in pod(spec, place=place)["containers"][0]["env"]}


@pytest.mark.parametrize("nodes", [1, 3])
def test_the_program_is_run_as_it_is(nodes: int) -> None:
    assert pod(replace(SPEC, nodes=nodes))["containers"][0]["command"] == list(SPEC.command)


def test_one_node_meets_nobody() -> None:
    assert RENDEZVOUS not in environment(SPEC)


@pytest.mark.parametrize(("jobsets", "first"), [(False, "wide-0"), (True, "wide-node-0-0")])
def test_several_nodes_are_told_to_meet_at_the_first(jobsets: bool, first: str) -> None:
    spec, place = replace(SPEC, name="wide", nodes=2, env={RENDEZVOUS: "elsewhere"}), replace(PLACE, jobsets=jobsets)

    assert environment(spec, place)[RENDEZVOUS] == f"{first}.wide-a1b2c3:29400"


def test_several_nodes_are_one_indexed_job() -> None:
    spec = manifests.job(replace(SPEC, nodes=3), PROFILE, PLACE)["spec"]

    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 3, 3)
    assert spec["template"]["spec"]["subdomain"] == "training-ftjob-a1-2-a1b2c3"


def test_an_owner_is_named_where_there_is_one() -> None:
    owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "training", "uid": "u"}

    assert "ownerReferences" not in manifests.job(SPEC, PROFILE, PLACE)["metadata"]
    assert manifests.job(SPEC, PROFILE, replace(PLACE, owner=owner))["metadata"]["ownerReferences"] == [owner]
