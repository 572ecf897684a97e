"""The execution profiles of the values are a file that the training service takes, with all that trainers need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from feinschliff.workloads.manifests import Place, job
from feinschliff.workloads.profiles import Profile, Profiles, read_profiles
from feinschliff.workloads.spec import WorkloadSpec
from tests.support.chart_objects import Pod, environment, matches, of_kind, pods, trainer_labels
from tests.support.chart_policies import bounded, pinned, restricted
from tests.support.helm import NAMESPACE, RELEASE, SETS, find, render

ON_CLUSTER = [name for name in SETS if name != "process"]


def profiles(folder: Path, values: dict[str, Any] | None = None, *, name: str = "") -> Profiles:
    file = folder / "profiles.json"
    file.write_text(find(render(values, name=name), "ConfigMap", "-profiles")["data"]["profiles.json"], "utf-8")
    return read_profiles(file, variable="FEINSCHLIFF_TRAINING_PROFILES")


@pytest.mark.parametrize("name", ON_CLUSTER)
def test_the_service_takes_the_file(name: str, tmp_path: Path) -> None:
    found = profiles(tmp_path, name=name)
    for one in found.profiles:
        assert one.image
        assert one.labels["app.kubernetes.io/instance"] == RELEASE
        assert one.resources["limits"]["memory"]


def test_the_service_is_told_of_the_file_that_its_pod_has() -> None:
    manifests = render(name="minimal")
    pod = next(pod for pod in pods(manifests) if pod.component == "training")
    path = Path(environment(pod, manifests)["FEINSCHLIFF_TRAINING_PROFILES"])
    mounts = {one["mountPath"]: one["name"] for one in pod.spec["containers"][0]["volumeMounts"]}
    volume = next(one for one in pod.spec["volumes"] if one["name"] == mounts[str(path.parent)])
    assert path.name in find(manifests, "ConfigMap", volume["configMap"]["name"])["data"]


def test_everything_that_a_profile_knows_can_be_said(tmp_path: Path) -> None:
    said = {
        "description": "All of it.",
        "slots": 3,
        "price_per_hour": 1.5,
        "gpus": 2,
        "nodes_max": 2,
        "processes_max": 2,
        "image": "example.com/own:1",
        "image_pull_policy": "Always",
        "image_pull_secrets": ["given-pull"],
        "resources": {"limits": {"cpu": "1500m", "memory": "1Gi"}},
        "node_selector": {"a": "b"},
        "tolerations": [{"key": "a", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priority_class": "low",
        "runtime_class": "nvidia",
        "service_account": "plain",
        "queue": "team",
        "env": {"A": "b"},
        "labels": {"c": "d"},
        "annotations": {"e": "f"},
        "volumes": [{"name": "bases", "persistentVolumeClaim": {"claimName": "given-bases"}}],
        "volume_mounts": [{"name": "bases", "mountPath": "/bases"}],
        "secrets": ["given-mlflow"],
        "trackers": ["wandb"],
        "scratch": "1Gi",
        "shared_memory": "64Mi",
        "ttl_seconds": 60,
    }
    assert said.keys() == Profile.model_fields.keys() - {"name"}
    values = {"training": {"profiles": {"own": said, "cpu": None}, "defaultProfile": "own", "currency": "USD"}}
    found = profiles(tmp_path, values)
    (own,) = found.profiles
    assert found.currency == "USD"
    labels = {"c": "d", "app.kubernetes.io/instance": RELEASE}
    assert own == Profile.model_validate({"name": "own", **said, "labels": labels})


def test_a_gpu_takes_the_image_for_it(tmp_path: Path) -> None:
    found = {one.name: one.image for one in profiles(tmp_path, name="gpu").profiles}
    assert found["gpu-small"].endswith("-cuda")
    assert not found["cpu"].endswith("-cuda")


def test_a_trainer_computes_with_as_many_threads_as_it_gets_cores(tmp_path: Path) -> None:
    assert profiles(tmp_path).get("cpu").env == {"FEINSCHLIFF_TRAINER_THREADS": "2"}
    fewer = {"trainer": {"settings": {"trainer_threads": 1}}}
    assert profiles(tmp_path, fewer).get("cpu").env == {}


@pytest.mark.parametrize("name", ["production", "airgapped"])
def test_a_trainer_has_the_certificates_that_services_ask_for(name: str, tmp_path: Path) -> None:
    for one in profiles(tmp_path, name=name).profiles:
        paths = {one.env[f"FEINSCHLIFF_TLS_{part}"] for part in ("CERTIFICATE", "KEY", "CA")}
        mounts = {mount["mountPath"]: mount["name"] for mount in one.volume_mounts}
        assert {mounts.get(str(Path(path).parent)) for path in paths} == {"tls"}
        secrets = {volume["name"]: volume["secret"]["secretName"] for volume in one.volumes}
        assert secrets["tls"] == ("given-certificates" if name == "airgapped" else "check-feinschliff-trainer-tls")


def test_a_trainer_trusts_the_store_as_services_do(tmp_path: Path) -> None:
    (one,) = profiles(tmp_path, name="external").profiles
    assert one.env["FEINSCHLIFF_S3_CA"] == "/etc/feinschliff/s3/ca.crt"
    assert {"name": "s3-ca", "mountPath": "/etc/feinschliff/s3", "readOnly": True} in one.volume_mounts


def test_rights_for_several_nodes_come_with_a_profile_that_has_them() -> None:
    def resources(name: str) -> set[str]:
        return {resource for rule in find(render(name=name), "Role")["rules"] for resource in rule["resources"]}

    assert {"services", "jobsets"} <= resources("gpu")
    assert not {"services", "jobsets"} & resources("minimal")
    assert find(render(name="gpu"), "NetworkPolicy", "-trainer")["spec"]["ingress"]


def test_without_rbac_there_is_no_right_and_the_given_account_is_used() -> None:
    manifests = render(name="norbac")
    assert not of_kind(manifests, "Role", "RoleBinding")
    pod = find(manifests, "Deployment", "-training")["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "given-account"
    assert not [one for one in of_kind(manifests, "ServiceAccount") if one["metadata"]["name"].endswith("-training")]


def test_attempts_as_processes_need_neither_profiles_nor_a_token() -> None:
    manifests = render(name="process")
    pod = find(manifests, "Deployment", "-training")["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert "/trainer:" in pod["containers"][0]["image"]
    assert find(manifests, "Deployment", "-training")["spec"]["strategy"]["type"] == "Recreate"
    assert not [one for one in of_kind(manifests, "ConfigMap") if one["metadata"]["name"].endswith("-profiles")]


def test_a_pod_that_gives_adapters_to_servers_elsewhere_is_gone_before_the_next_one_comes() -> None:
    def strategy(settings: dict[str, Any]) -> str:
        manifests = render({"inference": {"settings": settings}}, name="minimal")
        return str(find(manifests, "Deployment", "-inference")["spec"]["strategy"]["type"])

    elsewhere = {"inference_vllm_urls": "http://vllm:8000"}
    assert [strategy(one) for one in ({}, elsewhere)] == ["RollingUpdate", "Recreate"]


def trainer_of(name: str, folder: Path) -> Pod:
    """The pod that the runner makes of the chart's default profile."""
    profile = profiles(folder, name=name).get("")
    spec = WorkloadSpec(
        "training-ftjob-1", ("python", "-m", "feinschliff.trainer"), {}, {"FEINSCHLIFF_S3_SECRET_KEY": "s"}
    )
    (pod,) = pods([job(spec, profile, Place(NAMESPACE, "feinschliff-training", "me", "abc"))])
    return pod


@pytest.mark.parametrize("name", ON_CLUSTER)
def test_what_the_runner_makes_is_what_the_policies_know(name: str, tmp_path: Path) -> None:
    pod = trainer_of(name, tmp_path)
    assert matches(trainer_labels(RELEASE), pod.labels)
    for policy in (restricted, bounded, pinned):
        assert not [*policy([pod.owner])]
    assert pod.spec["automountServiceAccountToken"] is False
    assert pod.spec["enableServiceLinks"] is False
