"""What a cluster is told to run: a specification and its profile as Job, Secret, Service or JobSet, as plain dicts."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from feinschliff.formats.report import ExitCode
from feinschliff.workloads.profiles import Profile
from feinschliff.workloads.spec import RENDEZVOUS, WorkloadSpec

Object = dict[str, Any]

CONTAINER = "trainer"
USER_ID = 10001
HOME = "/var/lib/feinschliff"
PREFIX = "feinschliff.dev"
WORKLOAD = f"{PREFIX}/workload"  # as label: the object's name; as annotation: the workload's
LABELS = f"{PREFIX}/labels"
STARTED_BY = f"{PREFIX}/started-by"
COMPANION = f"{PREFIX}/companion"  # the name of its Secret and of its Service
STOP_REQUESTED = f"{PREFIX}/stop-requested"
MANAGED_BY = "app.kubernetes.io/managed-by"
QUEUE = "kueue.x-k8s.io/queue-name"
JOBSET_NAME = "jobset.sigs.k8s.io/jobset-name"
JOBSET_CHILD = "node"
RENDEZVOUS_PORT = 29400
OBJECT_NAME_CHARS_MAX = 50  # what a JobSet's pods add to it has to fit into the 63 of a host name
LABEL_CHARS_MAX = 63
_OBJECT_NAME = re.compile(rf"[a-z]([a-z0-9-]{{0,{OBJECT_NAME_CHARS_MAX - 2}}}[a-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")
_HASH_CHARS = 8


@dataclass(frozen=True)
class Place:
    """What all workloads of one runner have in common.

    Args:
        namespace: where they run.
        managed_by: whose they are; two installations in one namespace need two names.
        started_by: which process makes these objects.
        start_id: of this one start; what belongs to it never meets what an earlier one of the same name left behind.
        jobsets: whether several nodes run as a JobSet.
        owner: reference to an object of the same namespace with whose end they end; None: they outlive everybody.
    """

    namespace: str
    managed_by: str
    started_by: str
    start_id: str
    jobsets: bool = False
    owner: Mapping[str, Any] | None = None


def object_name(name: str) -> str:
    """The name of a workload's objects: its own where a cluster takes it for a host's name, else cut, with a hash."""
    if _OBJECT_NAME.fullmatch(name):
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:_HASH_CHARS]
    readable = re.sub(r"[^a-z0-9]+", "-", name).strip("-")[: OBJECT_NAME_CHARS_MAX - _HASH_CHARS - 3].rstrip("-")
    return f"{readable}-{digest}" if readable[:1].isalpha() else f"w-{readable}-{digest}"


def label_value(value: str) -> str:
    """The value itself where it may stand in a label, else its readable end and a hash."""
    if _LABEL_VALUE.fullmatch(value):
        return value
    digest = hashlib.sha256(value.encode()).hexdigest()[:_HASH_CHARS]
    readable = re.sub(r"[^A-Za-z0-9]+", "-", value)[-(LABEL_CHARS_MAX - _HASH_CHARS - 1) :].strip("-")
    return f"{readable}-{digest}" if readable else digest


def label_key(key: str) -> str:
    readable = re.sub(r"[^A-Za-z0-9]+", "-", key).strip("-")
    return f"{PREFIX}/{label_value(readable) or 'label'}"


def companion_name(name: str, place: Place) -> str:
    return f"{object_name(name)}-{place.start_id}"


def selector(managed_by: str) -> str:
    """Selects every object of that manager."""
    return f"{MANAGED_BY}={managed_by}"


def job(spec: WorkloadSpec, profile: Profile, place: Place) -> Object:
    """A Job that runs the workload once, on one node or on several that find each other."""
    meta = _metadata(spec, profile, place)
    body = _job_spec(spec, profile, place)
    body["ttlSecondsAfterFinished"] = profile.ttl_seconds
    if profile.queue:
        meta["labels"][QUEUE] = profile.queue
        body["suspend"] = True
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": body}


def jobset(spec: WorkloadSpec, profile: Profile, place: Place) -> Object:
    """The same as one JobSet with one Job, for clusters that have them: it makes the network of the nodes itself."""
    meta = _metadata(spec, profile, place)
    template = {"metadata": _metadata(spec, profile, place, named=False), "spec": _job_spec(spec, profile, place)}
    body: Object = {
        "network": {"enableDNSHostnames": True, "subdomain": companion_name(spec.name, place)},
        "failurePolicy": {"maxRestarts": 0},
        "successPolicy": {"operator": "All", "targetReplicatedJobs": [JOBSET_CHILD]},
        "replicatedJobs": [{"name": JOBSET_CHILD, "replicas": 1, "template": template}],
        "ttlSecondsAfterFinished": profile.ttl_seconds,
    }
    if profile.queue:
        meta["labels"][QUEUE] = profile.queue
        body["suspend"] = True
    return {"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "metadata": meta, "spec": body}


def secret(spec: WorkloadSpec, root: Object) -> Object:
    """The settings that stay secret; goes when the workload's own object goes."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": _owned(root),
        "type": "Opaque",
        "immutable": True,
        "stringData": dict(spec.secret_env),
    }


def service(root: Object) -> Object:
    """Names for the nodes of one Job; they are there before the nodes are ready, for they wait for each other."""
    meta = _owned(root)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": meta,
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {WORKLOAD: meta["labels"][WORKLOAD]},
            "ports": [{"name": "rendezvous", "port": RENDEZVOUS_PORT, "targetPort": RENDEZVOUS_PORT}],
        },
    }


def stop_patch(root: Object, now: str) -> Object:
    """Takes the nodes away with their grace and keeps the record; a queue must not bring it back."""
    meta = root["metadata"]
    patch: Object = {
        "metadata": {"uid": meta["uid"], "annotations": {STOP_REQUESTED: now}},
        "spec": {"suspend": True},
    }
    if QUEUE in (meta.get("labels") or {}):
        patch["metadata"]["labels"] = {QUEUE: None}
    return patch


def _metadata(spec: WorkloadSpec, profile: Profile, place: Place, *, named: bool = True) -> Object:
    labels = {
        **{label_key(key): label_value(value) for key, value in spec.labels.items()},
        "app.kubernetes.io/name": "feinschliff",
        "app.kubernetes.io/component": CONTAINER,
        MANAGED_BY: place.managed_by,
        WORKLOAD: object_name(spec.name),
    }
    annotations = {
        WORKLOAD: spec.name,
        LABELS: json.dumps(dict(spec.labels), sort_keys=True),
        STARTED_BY: place.started_by,
        COMPANION: companion_name(spec.name, place),
        f"{PREFIX}/execution-profile": profile.name,
    }
    meta: Object = {"labels": labels, "annotations": annotations}
    if named:
        meta |= {"name": object_name(spec.name), "namespace": place.namespace}
        if place.owner:
            meta["ownerReferences"] = [dict(place.owner)]
    return meta


def _owned(root: Object) -> Object:
    """Name, labels and owner of an object that belongs to the workload's own."""
    meta = root["metadata"]
    labels = {key: value for key, value in meta["labels"].items() if key != QUEUE}
    return {
        "name": meta["annotations"][COMPANION],
        "namespace": meta["namespace"],
        "labels": labels,
        "ownerReferences": [
            {"apiVersion": root["apiVersion"], "kind": root["kind"], "name": meta["name"], "uid": meta["uid"]}
        ],
    }


def _job_spec(spec: WorkloadSpec, profile: Profile, place: Place) -> Object:
    body: Object = {
        "backoffLimit": 0,
        "completions": spec.nodes,
        "parallelism": spec.nodes,
        "podFailurePolicy": {"rules": _failure_rules()},
        "template": _pod(spec, profile, place),
    }
    if spec.deadline_seconds is not None:
        body["activeDeadlineSeconds"] = max(1, math.ceil(spec.deadline_seconds))
    if spec.nodes > 1:
        body["completionMode"] = "Indexed"
    return body


def _failure_rules() -> list[Object]:
    """Ends the Job at once and so that its condition keeps the exit code; a lost node is told from a kill."""
    ours = [int(ExitCode.DATA_BAD), int(ExitCode.RESUME_ME)]
    return [
        {"action": "FailJob", "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": ours}},
        {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailJob", "onExitCodes": {"containerName": CONTAINER, "operator": "NotIn", "values": [0]}},
    ]


def _pod(spec: WorkloadSpec, profile: Profile, place: Place) -> Object:
    meta = _metadata(spec, profile, place, named=False)
    body: Object = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": max(1, math.ceil(spec.grace_seconds)),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(spec, profile, place)],
        "volumes": [*_scratch_volumes(profile), *_secret_volumes(spec), *(dict(volume) for volume in profile.volumes)],
    }
    if spec.nodes > 1:
        body["subdomain"] = companion_name(spec.name, place)
    wanted: dict[str, Any] = {
        "serviceAccountName": profile.service_account,
        "nodeSelector": dict(profile.node_selector),
        "tolerations": [dict(one) for one in profile.tolerations],
        "affinity": dict(profile.affinity),
        "priorityClassName": profile.priority_class,
        "runtimeClassName": profile.runtime_class,
        "imagePullSecrets": [{"name": name} for name in profile.image_pull_secrets],
    }
    body |= {key: value for key, value in wanted.items() if value}
    meta["labels"] = {**profile.labels, **meta["labels"]}
    meta["annotations"] = {**profile.annotations, **meta["annotations"]}
    return {"metadata": meta, "spec": body}


def _container(spec: WorkloadSpec, profile: Profile, place: Place) -> Object:
    meeting = {RENDEZVOUS: rendezvous(spec, place)} if spec.nodes > 1 else {}
    plain = {"HOME": HOME, "FEINSCHLIFF_HOME": HOME, **profile.env, **spec.env, **meeting}
    env: list[Object] = [{"name": key, "value": value} for key, value in plain.items() if key not in spec.secret_env]
    source = companion_name(spec.name, place)
    env += [{"name": key, "valueFrom": {"secretKeyRef": {"name": source, "key": key}}} for key in spec.secret_env]
    container: Object = {
        "name": CONTAINER,
        "image": profile.image,
        "imagePullPolicy": profile.image_pull_policy,
        "command": list(spec.command),
        "env": env,
        "volumeMounts": [*_mounts(profile), *_secret_mounts(spec)],
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    if resources := _resources(profile):
        container["resources"] = resources
    if spec.nodes > 1:
        container["ports"] = [{"name": "rendezvous", "containerPort": RENDEZVOUS_PORT}]
    return container


def _resources(profile: Profile) -> Object:
    resources = {key: dict(value) for key, value in profile.resources.items()}
    named = any("gpu" in name for amounts in resources.values() for name in amounts)
    if profile.gpus and not named:
        resources.setdefault("limits", {})["nvidia.com/gpu"] = str(profile.gpus)
    return resources


_SCRATCH = (("scratch", HOME), ("temporary", "/tmp"), ("shared-memory", "/dev/shm"))


def _scratch_volumes(profile: Profile) -> list[Object]:
    """The pod's own files, where the profile mounts nothing else."""
    taken = {mount.get("mountPath") for mount in profile.volume_mounts}
    kinds: dict[str, Object] = {
        "scratch": {"sizeLimit": profile.scratch},
        "temporary": {"sizeLimit": profile.scratch},
        "shared-memory": {"medium": "Memory", "sizeLimit": profile.shared_memory},
    }
    return [{"name": name, "emptyDir": kinds[name]} for name, path in _SCRATCH if path not in taken]


def _secret_volumes(spec: WorkloadSpec) -> list[Object]:
    """By reference: the runner never sees what is in them."""
    return [
        {"name": f"secret-{place}", "secret": {"secretName": name, "defaultMode": 0o440}}
        for place, name in enumerate(spec.secrets)
    ]


def _secret_mounts(spec: WorkloadSpec) -> list[Object]:
    return [
        {"name": f"secret-{place}", "mountPath": f"{HOME}/secrets/{name}", "readOnly": True}
        for place, name in enumerate(spec.secrets)
    ]


def _mounts(profile: Profile) -> list[Object]:
    own = [dict(mount) for mount in profile.volume_mounts]
    taken = {mount.get("mountPath") for mount in own}
    return [{"name": name, "mountPath": path} for name, path in _SCRATCH if path not in taken] + own


def rendezvous(spec: WorkloadSpec, place: Place) -> str:
    """Where the nodes of a workload meet: a port of the first, by its name in the workload's own network."""
    name = object_name(spec.name)
    first = f"{name}-{JOBSET_CHILD}-0-0" if place.jobsets else f"{name}-0"
    return f"{first}.{companion_name(spec.name, place)}:{RENDEZVOUS_PORT}"
