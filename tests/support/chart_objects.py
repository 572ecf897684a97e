"""Manifests as the checks of the chart see them: pods with their owners, who selects them, what they name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Manifest = dict[str, Any]
Manifests = Sequence[Manifest]
ROUTINE = ("Deployment", "StatefulSet")
TRAINER = "trainer"


@dataclass(frozen=True)
class Pod:
    """A pod that a manifest makes."""

    owner: Manifest
    labels: Mapping[str, str]
    spec: Manifest

    @property
    def where(self) -> str:
        return where(self.owner)

    @property
    def component(self) -> str:
        return self.labels.get("app.kubernetes.io/component", "")

    @property
    def containers(self) -> list[Manifest]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    @property
    def ports(self) -> dict[int | str, int]:
        """Ports by number and by name."""
        ports = [port for container in self.spec["containers"] for port in container.get("ports", [])]
        return {key: one["containerPort"] for one in ports for key in (one["containerPort"], one["name"])}


def where(manifest: Manifest) -> str:
    return f"{manifest['kind']}/{manifest['metadata']['name']}"


def of_kind(manifests: Manifests, *kinds: str) -> list[Manifest]:
    return [one for one in manifests if one["kind"] in kinds]


def pods(manifests: Manifests) -> list[Pod]:
    """Every pod that is made, those of hooks and tests among them."""
    made = []
    for one in manifests:
        if one["kind"] == "Pod":
            made.append(Pod(one, one["metadata"].get("labels", {}), one["spec"]))
        elif one["kind"] in (*ROUTINE, "Job"):
            template = one["spec"]["template"]
            made.append(Pod(one, template["metadata"].get("labels", {}), template["spec"]))
    return made


def matches(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in selector.items())


def trainer_labels(release: str) -> dict[str, str]:
    """Of the pods that the training service makes; the chart's policies must know them."""
    return {
        "app.kubernetes.io/name": "feinschliff",
        "app.kubernetes.io/instance": release,
        "app.kubernetes.io/component": TRAINER,
    }


def release_of(manifests: Manifests) -> str:
    return next(pod.labels["app.kubernetes.io/instance"] for pod in pods(manifests))


def environment(pod: Pod, manifests: Manifests) -> dict[str, str]:
    """The plain variables of its main container: ConfigMaps, then its own."""
    maps = {one["metadata"]["name"]: one["data"] for one in of_kind(manifests, "ConfigMap")}
    container = pod.spec["containers"][0]
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        found |= maps.get(source.get("configMapRef", {}).get("name"), {})
    return found | {one["name"]: one["value"] for one in container.get("env", []) if "value" in one}


def variable_names(pod: Pod, manifests: Manifests) -> set[str]:
    """Every variable of its containers, wherever the value comes from."""
    own = {one["name"] for container in pod.containers for one in container.get("env", [])}
    return own | environment(pod, manifests).keys()


def named(manifest: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """(kind, name) of each ConfigMap, Secret, claim and ServiceAccount that something names."""
    kinds = {
        "secretKeyRef": ("Secret", "name"),
        "configMapKeyRef": ("ConfigMap", "name"),
        "configMapRef": ("ConfigMap", "name"),
        "secretRef": ("Secret", "name"),
        "secret": ("Secret", "secretName"),
        "configMap": ("ConfigMap", "name"),
        "persistentVolumeClaim": ("PersistentVolumeClaim", "claimName"),
    }
    if isinstance(manifest, dict):
        for key, value in manifest.items():
            if key in kinds and isinstance(value, dict) and kinds[key][1] in value:
                yield kinds[key][0], value[kinds[key][1]]
            elif key == "serviceAccountName":
                yield "ServiceAccount", value
            yield from named(value, (*path, key))
    elif isinstance(manifest, list):
        for value in manifest:
            yield from named(value, path)
