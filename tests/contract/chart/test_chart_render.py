"""Every set of values in ci/ is taken by the real helm, and what it renders by every Kubernetes that we promise."""

from __future__ import annotations

import json
import tomllib
from functools import lru_cache
from typing import Any

import kubernetes_validate
import pytest
import yaml
from kubernetes_validate import utils

from tests.support.helm import CHART, NAMESPACE, RELEASE, ROOT, SETS, HelmRefused, Manifest, helm, parse, render

VERSIONS = [f"1.{minor}" for minor in range(29, 38)]
OTHERS = {"cert-manager.io/v1", "gateway.networking.k8s.io/v1", "monitoring.coreos.com/v1"}
"""What other people's definitions describe; the chart makes it only where the values ask for it."""


@pytest.fixture(scope="module", autouse=True)
def _schemas_once() -> Any:
    """The library reads a megabyte for each manifest; each file once will do."""
    patch = pytest.MonkeyPatch()
    patch.setattr(utils, "schema_contents", lru_cache(maxsize=256)(utils.schema_contents))
    yield
    patch.undo()


@lru_cache(maxsize=1)
def distinct() -> list[Manifest]:
    """Every manifest of every set, each once."""
    found = {json.dumps(one, sort_keys=True): one for name in SETS for one in render(name=name)}
    return [*found.values()]


@pytest.mark.parametrize("name", SETS)
def test_lint_finds_nothing(name: str) -> None:
    said = helm("lint", "--strict", str(CHART), "--values", str(SETS[name]))
    assert "0 chart(s) failed" in said


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("version", [VERSIONS[0], VERSIONS[-1]])
def test_a_set_renders_for_a_version(name: str, version: str) -> None:
    manifests = render(name=name, options=("--kube-version", version))
    assert {one["kind"] for one in manifests} >= {"Deployment", "Service", "ConfigMap"}


@pytest.mark.parametrize("name", SETS)
def test_helm_3_renders_the_same_as_helm_4(name: str) -> None:
    values = ("--namespace", NAMESPACE, "--values", str(SETS[name]))
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART), *values, program="helm3")
    rendered = parse(helm("template", RELEASE, str(CHART), *values, program="helm3"))
    assert [one for one in rendered if one["kind"] != "Secret"] == [
        one for one in render(name=name) if one["kind"] != "Secret"
    ]


def test_an_older_cluster_is_refused() -> None:
    with pytest.raises(HelmRefused, match=r"incompatible with Kubernetes v1\.28"):
        helm("template", str(CHART), "--kube-version", "1.28")


@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_is_one_of_that_version(version: str) -> None:
    checked = 0
    for one in distinct():
        if one["apiVersion"] in OTHERS:
            continue
        kubernetes_validate.validate(one, version, strict=True)
        checked += 1
    assert checked > 100


def test_the_check_of_manifests_fires() -> None:
    broken = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"prots": []}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, "1.36", strict=True)


@pytest.mark.parametrize("name", SETS)
def test_no_two_manifests_are_the_same_object(name: str) -> None:
    objects = [(one["apiVersion"], one["kind"], one["metadata"]["name"]) for one in render(name=name)]
    assert len(objects) == len(set(objects))


@pytest.mark.parametrize("name", SETS)
def test_nothing_is_defined_for_the_cluster_unless_asked(name: str) -> None:
    wide = {"CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding", "Namespace", "PriorityClass"}
    found = {one["kind"] for one in render(name=name)} & wide
    assert found == ({"PriorityClass"} if name == "production" else set())


def test_the_same_values_render_to_the_same_text() -> None:
    """With the Secrets given, as from a repository that a machine applies."""
    given = {
        "gateway": {"apiKeys": {"existingSecret": "given-keys"}},
        "postgresql": {"existingSecret": "given-database"},
        "minio": {"existingSecret": "given-s3"},
    }
    command = ("template", "a", str(CHART), "--values", "-")
    assert helm(*command, stdin=json.dumps(given)) == helm(*command, stdin=json.dumps(given))


def test_chart_and_platform_have_one_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert chart["version"] == chart["appVersion"] == project["version"]


def test_the_notes_name_the_key_the_way_in_and_the_test() -> None:
    said = helm("install", "check", str(CHART), "--dry-run=client", "--namespace", "platform", "--hide-secret")
    notes = said.partition("NOTES:")[2]
    for words in (
        "get secret check-feinschliff-gateway-keys",
        "port-forward service/check-feinschliff-gateway",
        "test check",
    ):
        assert words in notes
