"""The way to a cluster: from within it, or by a kubeconfig."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import pytest

from feinschliff.kit.errors import StartError
from feinschliff.workloads.kubernetes import KubernetesRunner
from feinschliff.workloads.kubernetes_api import Api
from feinschliff.workloads.spec import WorkloadSpec
from tests.support.cluster.cluster import NAMESPACE, Cluster
from tests.support.grounds import PROFILE
from tests.support.programs import ended


@pytest.fixture(autouse=True)
def outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    path = tmp_path / "kubeconfig"
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    return path


def test_a_kubeconfig_names_the_cluster_the_namespace_and_the_token(outside: Path, cluster: Cluster) -> None:
    context = {"cluster": "here", "user": "me", "namespace": NAMESPACE}
    outside.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "here",
                "contexts": [{"name": "here", "context": context}],
                "clusters": [{"name": "here", "cluster": {"server": cluster.url}}],
                "users": [{"name": "me", "user": {"token": "a-token"}}],
            }
        )
    )
    runner = KubernetesRunner.connect(multi_node=True)
    try:
        runner.start(WorkloadSpec("one", ("true",), profile=PROFILE))
        assert ended(runner, "one").exit_code == 0
    finally:
        runner.close()
    assert cluster.tokens == {"Bearer a-token"}


def test_without_any_way_the_start_is_refused() -> None:
    with pytest.raises(StartError) as refused:
        KubernetesRunner.connect()

    assert "no way to a cluster" in refused.value.problems[0]


def test_within_a_cluster_the_pods_own_token_and_namespace_are_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    token, certificate, namespace = (tmp_path / name for name in ("token", "ca.crt", "namespace"))
    token.write_text("pod-token")
    certificate.write_text("")
    certificate.write_bytes(Path(__import__("certifi").where()).read_bytes())
    namespace.write_text("own\n")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    monkeypatch.setattr("kubernetes.config.incluster_config.SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr("kubernetes.config.incluster_config.SERVICE_CERT_FILENAME", str(certificate))
    monkeypatch.setattr("feinschliff.workloads.kubernetes_api._NAMESPACE_FILE", namespace)

    api = Api.connect()

    assert api.namespace == "own"
    _, url, headers, *_ = api._client.param_serialize("GET", "/api/v1", header_params={}, auth_settings=["BearerToken"])
    assert url == "https://10.0.0.1:443/api/v1"
    assert "pod-token" in headers["authorization"]
    api.close()


def test_a_cluster_that_says_nothing_delays_neither_start_nor_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("feinschliff.workloads.kubernetes.FIRST_LOOK_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and never answers
        begun = time.monotonic()
        KubernetesRunner(Api.at(f"http://127.0.0.1:{silent.getsockname()[1]}", NAMESPACE)).close()
        assert time.monotonic() - begun < 8
