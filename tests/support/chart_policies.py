"""What every pod of the chart must be: restricted, bounded, probed, pinned, patient, without a token or a secret."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator, Mapping

from tests.support.chart_objects import ROUTINE, Manifest, Manifests, environment, of_kind, pods, where

SECRET_NAME = re.compile(r"(PASSWORD|SECRET_KEY|TOKEN|API_KEYS|DATABASE_URL)$")
PINNED = re.compile(r"^[^\s@]+(:(?!latest$)[\w][\w.-]{0,127}|@sha256:[0-9a-f]{64})$")
VOLUMES = {"configMap", "secret", "emptyDir", "persistentVolumeClaim", "projected", "csi", "downwardAPI", "ephemeral"}
LABEL_KEY = re.compile(r"^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$")
LABEL_VALUE = re.compile(r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$")
DNS_NAME = re.compile(r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")
_SECRET_CHARS_MIN = 8


def restricted(manifests: Manifests) -> Iterator[str]:
    """Pod Security Standard `restricted`, and a root that is read only."""
    for pod in pods(manifests):
        spec, context = pod.spec, pod.spec.get("securityContext", {})
        shares = [key for key in ("hostNetwork", "hostPID", "hostIPC") if spec.get(key)]
        yield from (f"{pod.where}: {key}" for key in shares)
        if not context.get("runAsNonRoot") or not context.get("runAsUser"):
            yield f"{pod.where}: may run as root"
        if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{pod.where}: no seccomp profile"
        for volume in spec.get("volumes", []):
            if volume.keys() - {"name"} - VOLUMES:
                yield f"{pod.where}: volume {volume['name']} is of a kind that is not allowed"
        for container in pod.containers:
            yield from (f"{pod.where}: {container['name']}: {problem}" for problem in _unrestricted(container))


def _unrestricted(container: Manifest) -> Iterator[str]:
    context = container.get("securityContext", {})
    if context.get("allowPrivilegeEscalation") is not False:
        yield "may gain privileges"
    if context.get("capabilities", {}).get("drop") != ["ALL"] or context.get("capabilities", {}).get("add"):
        yield "keeps capabilities"
    if not context.get("readOnlyRootFilesystem"):
        yield "may write to its root"
    if context.get("privileged") or context.get("runAsUser") == 0:
        yield "is privileged"
    if any("hostPort" in port for port in container.get("ports", [])):
        yield "takes a port of its node"


def bounded(manifests: Manifests) -> Iterator[str]:
    """Every container says what it needs and what it gets at most, and so does every folder that it writes to."""
    for pod in pods(manifests):
        for container in pod.containers:
            for kind in ("requests", "limits"):
                said = container.get("resources", {}).get(kind, {})
                missing = [name for name in ("cpu", "memory") if not said.get(name)]
                yield from (f"{pod.where}: {container['name']}: no {kind} of {name}" for name in missing)
        for volume in pod.spec.get("volumes", []):
            if "emptyDir" in volume and not volume["emptyDir"].get("sizeLimit"):
                yield f"{pod.where}: volume {volume['name']} has no limit"


def probed(manifests: Manifests) -> Iterator[str]:
    """Whatever runs for ever is asked whether it started, lives, and is ready, on a port that it has."""
    for pod in pods(manifests):
        if pod.owner["kind"] not in ROUTINE:
            continue
        for container in pod.spec["containers"]:
            for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
                probe = container.get(kind, {})
                port = probe.get("grpc", probe.get("httpGet", {})).get("port")
                if not probe.keys() & {"grpc", "httpGet", "exec"}:
                    yield f"{pod.where}: {container['name']}: no {kind}"
                elif "exec" not in probe and port not in pod.ports:
                    yield f"{pod.where}: {container['name']}: {kind} asks port {port}, which it has not"
                elif pod.owner["kind"] == "Deployment" and port != pod.ports.get("probe"):
                    yield f"{pod.where}: {container['name']}: {kind} asks {port} instead of the probe port"


def patient(manifests: Manifests) -> Iterator[str]:
    """A pod is killed only after it had the time to drain and to end its calls."""
    for pod in pods(manifests):
        if pod.owner["kind"] not in ROUTINE:
            continue
        said = environment(pod, manifests)
        needed = sum(float(said.get(f"FEINSCHLIFF_{name}_SECONDS", 0)) for name in ("DRAIN", "GRACE"))
        given = pod.spec.get("terminationGracePeriodSeconds", 30)
        if given <= needed:
            yield f"{pod.where}: is killed after {given} s, and drain and grace take {needed:g} s"


def discreet(manifests: Manifests) -> Iterator[str]:
    """No secret stands anywhere but in a Secret."""
    for one in of_kind(manifests, "ConfigMap"):
        yield from (f"{where(one)}: {key} is a secret" for key in one.get("data", {}) if SECRET_NAME.search(key))
    for pod in pods(manifests):
        for container in pod.containers:
            plain = [one["name"] for one in container.get("env", []) if one.get("value")]
            yield from (f"{pod.where}: {name} is a secret in plain sight" for name in plain if SECRET_NAME.search(name))
    values = {
        base64.b64decode(value).decode("utf-8", "replace")
        for one in of_kind(manifests, "Secret")
        for value in one.get("data", {}).values()
    }
    for one in manifests:
        if one["kind"] != "Secret" and any(len(value) >= _SECRET_CHARS_MIN and value in str(one) for value in values):
            yield f"{where(one)}: repeats what a Secret holds"


def pinned(manifests: Manifests) -> Iterator[str]:
    for pod in pods(manifests):
        for container in pod.containers:
            if not PINNED.match(container["image"]):
                yield f"{pod.where}: {container['name']}: {container['image']} names no version"


def tokenless(manifests: Manifests) -> Iterator[str]:
    """Only the pod that makes Jobs may speak to the API server; no pod gets variables for the Services around it."""
    for one in of_kind(manifests, "ServiceAccount"):
        if one.get("automountServiceAccountToken") is not False:
            yield f"{where(one)}: gives its token to every pod"
    for pod in pods(manifests):
        makes_jobs = environment(pod, manifests).get("FEINSCHLIFF_TRAINING_RUNNER") == "kubernetes"
        if pod.spec.get("automountServiceAccountToken") is not makes_jobs:
            yield f"{pod.where}: {'lacks its' if makes_jobs else 'has a'} token"
        if pod.spec.get("enableServiceLinks") is not False:
            yield f"{pod.where}: Services around it would set its settings"


def labelled(manifests: Manifests) -> Iterator[str]:
    """Names and labels as Kubernetes takes them, and the labels that people select by."""
    for one in manifests:
        if not DNS_NAME.match(one["metadata"]["name"]):
            yield f"{where(one)}: is no name"
        for labels in (one["metadata"].get("labels", {}), *(pod.labels for pod in pods([one]))):
            bad = [key for key, value in labels.items() if not LABEL_KEY.match(key) or not LABEL_VALUE.match(value)]
            yield from (f"{where(one)}: label {key} is not valid" for key in bad)
            missing = {f"app.kubernetes.io/{name}" for name in ("name", "instance", "component")} - labels.keys()
            yield from (f"{where(one)}: label {key} is missing" for key in sorted(missing))
    for pod in pods(manifests):
        names = [port["name"] for container in pod.containers for port in container.get("ports", [])]
        yield from (f"{pod.where}: port name {name} is too long" for name in names if len(name) > 15)


POLICIES: Mapping[str, Callable[[Manifests], Iterator[str]]] = {
    "restricted": restricted,
    "bounded": bounded,
    "probed": probed,
    "patient": patient,
    "discreet": discreet,
    "pinned": pinned,
    "tokenless": tokenless,
    "labelled": labelled,
}
