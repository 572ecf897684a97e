"""As much of an API server as `helm template --dry-run=server` asks: which kinds there are, and Secrets by name."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.helm import RELEASE

KINDS: Mapping[str, Mapping[str, str]] = {
    "v1": {
        name: f"{name.lower()}s"
        for name in ("ConfigMap", "PersistentVolumeClaim", "Pod", "Secret", "Service", "ServiceAccount")
    },
    "apps/v1": {"Deployment": "deployments", "StatefulSet": "statefulsets"},
    "batch/v1": {"Job": "jobs"},
    "networking.k8s.io/v1": {"Ingress": "ingresses", "NetworkPolicy": "networkpolicies"},
    "policy/v1": {"PodDisruptionBudget": "poddisruptionbudgets"},
    "rbac.authorization.k8s.io/v1": {"Role": "roles", "RoleBinding": "rolebindings"},
}
OURS = {"app.kubernetes.io/managed-by": "Helm"}


@contextmanager
def cluster(secrets: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """The address of a server that has these Secrets of the release, name -> key -> value, in every namespace."""

    class Answers(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            return

        def do_GET(self) -> None:
            found = _answer(self.path.partition("?")[0].strip("/"), secrets)
            body = json.dumps(
                found or {"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}
            ).encode()
            self.send_response(200 if found else 404)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _answer(path: str, secrets: Mapping[str, Mapping[str, str]]) -> dict[str, Any] | None:
    parts = path.split("/")
    if path == "version":
        return {"major": "1", "minor": "36", "gitVersion": "v1.36.0"}
    if path == "api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "apis":
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(one) for one in KINDS if "/" in one]}
    if parts[0] in ("api", "apis") and "/".join(parts[1:]) in KINDS:
        return _resources("/".join(parts[1:]))
    if parts[-2:-1] == ["secrets"] and parts[-1] in secrets:
        data = {key: base64.b64encode(value.encode()).decode() for key, value in secrets[parts[-1]].items()}
        metadata = {"name": parts[-1], "labels": OURS, "annotations": _release(parts[-3])}
        return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}
    return None


def _release(namespace: str) -> dict[str, str]:
    return {"meta.helm.sh/release-name": RELEASE, "meta.helm.sh/release-namespace": namespace}


def _group(version: str) -> dict[str, Any]:
    name, _, number = version.partition("/")
    one = {"groupVersion": version, "version": number}
    return {"name": name, "versions": [one], "preferredVersion": one}


def _resources(version: str) -> dict[str, Any]:
    listed = [
        {"name": plural, "singularName": kind.lower(), "namespaced": True, "kind": kind, "verbs": ["get", "list"]}
        for kind, plural in KINDS[version].items()
    ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": listed}
