"""What stays over upgrades and uninstalls, and what comes first: secrets, volumes, migrations, certificates."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest

from tests.support.chart_cluster import cluster
from tests.support.chart_objects import environment, of_kind, pods
from tests.support.helm import CHART, NAMESPACE, RELEASE, ROOT, Manifest, find, helm, parse, render

KEEP = "helm.sh/resource-policy"
MADE = {
    "check-feinschliff-postgresql": ("password", "url"),
    "check-feinschliff-minio": ("access-key", "secret-key"),
    "check-feinschliff-gateway-keys": ("api-keys",),
}


def on_cluster(secrets: dict[str, dict[str, str]], values: dict[str, Any] | None = None) -> list[Manifest]:
    """What an upgrade would send to a cluster that has these Secrets."""
    with cluster(secrets) as address:
        options = ["--dry-run=server", "--disable-openapi-validation", "--kube-apiserver", address]
        command = ["template", RELEASE, str(CHART), "--namespace", NAMESPACE, *options, "--values", "-"]
        return parse(helm(*command, stdin=json.dumps(values or {})))


def secrets_of(manifests: list[Manifest]) -> dict[str, dict[str, str]]:
    return {
        one["metadata"]["name"]: {key: base64.b64decode(value).decode() for key, value in one["data"].items()}
        for one in of_kind(manifests, "Secret")
    }


def test_secrets_are_made_once_and_kept() -> None:
    first = secrets_of(on_cluster({}))
    assert {name: tuple(data) for name, data in first.items()} == MADE
    assert secrets_of(on_cluster(first)) == first
    assert secrets_of(on_cluster({})) != first


def test_secrets_are_long_and_the_database_is_reached_with_its_own() -> None:
    made = secrets_of(on_cluster({}))
    database = made["check-feinschliff-postgresql"]
    assert re.fullmatch(r"[A-Za-z0-9]{40}", database["password"])
    expected = f"feinschliff:{database['password']}@check-feinschliff-postgresql.{NAMESPACE}.svc:5432/feinschliff"
    assert database["url"] == f"postgresql+psycopg://{expected}"
    assert re.fullmatch(r"sk-[A-Za-z0-9]{40}=default", made["check-feinschliff-gateway-keys"]["api-keys"])


def test_given_secrets_are_used_and_none_is_made() -> None:
    values = {
        "gateway": {"apiKeys": {"existingSecret": "given-keys", "key": "all"}},
        "postgresql": {"existingSecret": "given-database"},
        "minio": {"existingSecret": "given-s3"},
    }
    manifests = render(values)
    assert not of_kind(manifests, "Secret")
    named = re.findall(r"'name': '(given-[a-z0-9]+)'", str(manifests))
    assert set(named) == {"given-keys", "given-database", "given-s3"}


def test_a_given_secret_that_changes_restarts_the_pods() -> None:
    def digest(password: str) -> str:
        found = on_cluster({"given-database": {"url": password}}, {"postgresql": {"existingSecret": "given-database"}})
        pod = find(found, "Deployment", "-registry")["spec"]["template"]
        return str(pod["metadata"]["annotations"]["checksum/secrets"])

    assert digest("a") == digest("a") != digest("b")


def test_an_uninstall_keeps_volumes_and_what_opens_them() -> None:
    manifests = render(name="minimal")
    for one in of_kind(manifests, "StatefulSet"):
        assert one["spec"]["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] == "Retain"
    assert {one["metadata"]["annotations"][KEEP] for one in of_kind(manifests, "Secret")} == {"keep"}
    (claim,) = of_kind(render(name="gpu"), "PersistentVolumeClaim")
    assert claim["metadata"]["annotations"][KEEP] == "keep"


def test_an_uninstall_takes_the_data_where_that_is_asked() -> None:
    values = {
        "postgresql": {"persistence": {"keep": False}},
        "minio": {"persistence": {"keep": False}},
        "inference": {"cache": {"enabled": True, "keep": False}},
    }
    manifests = render(values)
    for one in of_kind(manifests, "StatefulSet"):
        assert one["spec"]["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] == "Delete"
    data = [
        one for one in of_kind(manifests, "Secret", "PersistentVolumeClaim") if "keys" not in one["metadata"]["name"]
    ]
    assert len(data) == 3
    assert not [one for one in data if KEEP in one["metadata"].get("annotations", {})]


@pytest.mark.parametrize(("name", "hooks"), [("minimal", "pre-upgrade"), ("external", "pre-install,pre-upgrade")])
def test_tables_are_migrated_before_anything_starts(name: str, hooks: str) -> None:
    """Before an install only where the servers are there already."""
    job = find(render(name=name), "Job", "-migrate")
    notes = job["metadata"]["annotations"]
    assert notes["helm.sh/hook"] == hooks
    assert int(notes["helm.sh/hook-weight"]) < 0
    assert set(notes["helm.sh/hook-delete-policy"].split(",")) == {"before-hook-creation", "hook-succeeded"}


@pytest.mark.parametrize("name", ["minimal", "production", "external", "airgapped"])
def test_the_migration_needs_nothing_that_the_same_release_makes(name: str) -> None:
    """Before an install there is nothing; before an upgrade, only what the release before made."""
    manifests = render(name=name)
    spec = find(manifests, "Job", "-migrate")["spec"]["template"]["spec"]
    kinds = {kind for kind in ("configMapRef", "configMap", "tls", "serviceAccountName") if f"'{kind}'" in str(spec)}
    assert not kinds
    if name == "external":
        made = {one["metadata"]["name"] for one in of_kind(manifests, "Secret", "Certificate")}
        assert not [secret for secret in made if secret in str(spec)]


def test_an_upgrade_that_turns_the_migration_on_finds_the_database_open_to_it() -> None:
    """The hook runs under the policies of the release before, which had none."""
    manifests = render({"migrations": {"enabled": False}})
    assert not of_kind(manifests, "Job")
    (rule,) = find(manifests, "NetworkPolicy", "-postgresql")["spec"]["ingress"]
    callers = {peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for peer in rule["from"]}
    assert "migrate" in callers


def test_every_room_with_tables_waits_for_them() -> None:
    manifests = render(name="minimal")
    waiting = {pod.component for pod in pods(manifests) if "initContainers" in pod.spec}
    assert waiting == {"ingestion", "training", "evaluation", "registry", "inference"}
    for pod in pods(manifests):
        for one in pod.spec.get("initContainers", []):
            assert one["command"] == ["python", "-m", "feinschliff.cli.migrate"]


@pytest.mark.parametrize("name", ["production", "airgapped"])
def test_the_certificate_holds_every_name_that_is_called(name: str) -> None:
    manifests = render({"tls": {"existingSecret": "", "certManager": {"enabled": True}}}, name=name)
    certificate = find(manifests, "Certificate", "-feinschliff-tls")["spec"]
    names = {*certificate["dnsNames"], *certificate["ipAddresses"]}
    called = {
        re.sub(r"^https?://", "", value).rpartition(":")[0].strip("[]")
        for pod in pods(manifests)
        for variable, value in environment(pod, manifests).items()
        if variable.endswith(("_ADDRESS", "S3_ENDPOINT"))
    }
    services = {one["metadata"]["name"] for one in of_kind(manifests, "Service")} - {"check-feinschliff-postgresql"}
    assert called | services <= names
    assert set(certificate["usages"]) >= {"server auth", "client auth"}


def test_in_one_pod_the_certificate_holds_loopback() -> None:
    manifests = render({"mode": "compact", "tls": {"enabled": True, "certManager": {"enabled": True}}})
    assert find(manifests, "Certificate", "-feinschliff-tls")["spec"]["ipAddresses"] == ["127.0.0.1", "::1"]


def test_certificates_of_this_release_come_from_its_own_authority_or_a_given_one() -> None:
    own = render({"tls": {"enabled": True, "certManager": {"enabled": True}}})
    assert {one["metadata"]["name"] for one in of_kind(own, "Issuer")} == {
        "check-feinschliff-self-signed",
        "check-feinschliff-ca",
    }
    reference = {"name": "company", "kind": "ClusterIssuer"}
    given = render({"tls": {"enabled": True, "certManager": {"enabled": True, "issuerRef": reference}}})
    assert not of_kind(given, "Issuer")
    assert {one["spec"]["issuerRef"]["name"] for one in of_kind(given, "Certificate")} == {"company"}


@pytest.mark.parametrize("where", ["ingress", "gatewayApi"])
def test_every_service_for_callers_has_its_way_in(where: str) -> None:
    """WorkerService is not among them: trainers reach it inside."""
    values: dict[str, Any] = {"host": "grpc.example"} if where == "ingress" else {"parentRefs": [{"name": "edge"}]}
    manifests = render({where: {"grpc": {"enabled": True, **values}}})
    (way,) = of_kind(manifests, "Ingress", "GRPCRoute")
    protos = "".join(path.read_text("utf-8") for path in (ROOT / "protos/feinschliff/v1").glob("*.proto"))
    declared = set(re.findall(r"^service (\w+) ", protos, re.MULTILINE)) - {"WorkerService"}
    assert set(re.findall(r"[/'](?:feinschliff\.v1|inference)\.(\w+)'", str(way))) == declared
    backends = set(re.findall(r"'name': '(check-feinschliff-\w+)'", str(way["spec"])))
    assert backends <= {one["metadata"]["name"] for one in of_kind(manifests, "Service")}


def test_replicas_are_the_autoscalers_where_there_is_one() -> None:
    manifests = render(name="production")
    scaled = {one["spec"]["scaleTargetRef"]["name"] for one in of_kind(manifests, "HorizontalPodAutoscaler")}
    for one in of_kind(manifests, "Deployment"):
        assert ("replicas" in one["spec"]) is (one["metadata"]["name"] not in scaled)
    assert scaled
