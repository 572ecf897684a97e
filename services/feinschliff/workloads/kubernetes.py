"""A runner on a Kubernetes cluster: one Job, or JobSet, per workload."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from feinschliff.kit.errors import Conflict, Denied, Invalid, Refusal, Unavailable, WrongState
from feinschliff.workloads import manifests
from feinschliff.workloads.kubernetes_api import Api, ApiError
from feinschliff.workloads.kubernetes_cache import RHYTHM, Rhythm
from feinschliff.workloads.kubernetes_logs import LogKeeper
from feinschliff.workloads.kubernetes_state import ClusterState
from feinschliff.workloads.kubernetes_view import (
    Snapshot,
    has_begun,
    is_over,
    is_stopped,
    is_suspended,
    observe,
    workload_of,
)
from feinschliff.workloads.manifests import Place
from feinschliff.workloads.profiles import Profile
from feinschliff.workloads.runner import LOG_CHUNK_BYTES
from feinschliff.workloads.spec import WorkloadSpec, check_name
from feinschliff.workloads.status import Observation, State

log = logging.getLogger(__name__)

Object = dict[str, Any]

MANAGED_BY = "feinschliff-training"
FIRST_LOOK_SECONDS = 10.0
PATCH_TRIES = 5
_RIGHT = re.compile(r'cannot (\w+) resource "([\w/]+)"')
_FINISHED = ("Complete", "Failed", "Completed")


class KubernetesRunner:
    """Workloads as Jobs of one namespace; several nodes as an Indexed Job with a Service, or as a JobSet.

    The cluster is the only memory: a name is one object, so of several callers one makes it, and whoever opens the
    runner again finds it. Reads come from watched copies (`ClusterState`). A stopped Job is suspended, not deleted: its
    pods go with their grace, its record stays until `forget`. Secret settings lie in a Secret that belongs to the Job
    and is made right after it; the pod waits for it. A caller that dies in between leaves a pod that waits for ever,
    which `observe` calls WORKLOAD_SETTINGS_MISSING. Jobs have no owner by default: removing the service that started
    them must not end days of training.

    Args:
        default_profile: for specifications that name none; None: they are refused.
        managed_by: whose workloads these are; two installations in one namespace need two names.
        jobsets: whether several nodes run as a JobSet.
        owner: reference to an object with whose end all workloads end.
    """

    def __init__(
        self,
        api: Api,
        *,
        default_profile: Profile | None = None,
        managed_by: str = MANAGED_BY,
        jobsets: bool = False,
        owner: Mapping[str, Any] | None = None,
        rhythm: Rhythm = RHYTHM,
    ) -> None:
        self._api = api
        self._default_profile = default_profile
        self._place = Place(
            api.namespace, manifests.label_value(managed_by), secrets.token_hex(8), "", jobsets=jobsets, owner=owner
        )
        self._logs = LogKeeper(api)
        self._state = ClusterState(
            api, self._place.managed_by, jobsets=jobsets, rhythm=rhythm, on_pod=self._pod_changed
        )
        self._state.start()
        self._state.wait_tried(FIRST_LOOK_SECONDS)

    @classmethod
    def connect(
        cls, namespace: str = "", *, managed_by: str = MANAGED_BY, multi_node: bool = False
    ) -> KubernetesRunner:
        """On the cluster that this process runs in, or the kubeconfig's; an empty namespace is the pod's own.

        Args:
            multi_node: whether there is work for several nodes; it runs as JobSets where the cluster has them.

        Raises:
            StartError: there is no cluster.
        """
        api = Api.connect(namespace)
        try:
            jobsets = multi_node and api.serves("jobsets")
        except ApiError as error:
            raise _refusal(error, "finding out what the cluster has") from error
        return cls(api, managed_by=managed_by, jobsets=jobsets)

    def start(self, spec: WorkloadSpec) -> None:
        profile = self._profile(spec)
        place = replace(self._place, start_id=secrets.token_hex(3))
        is_set = place.jobsets and spec.nodes > 1
        place = replace(place, jobsets=is_set)
        made = manifests.jobset(spec, profile, place) if is_set else manifests.job(spec, profile, place)
        kind = "jobsets" if is_set else "jobs"
        try:
            root = self._api.create(kind, made)
        except ApiError as error:
            if error.status != 409:
                raise _start_refusal(error, spec) from error
            there = self._found(kind, spec)
            if there is None:
                return
            root = there
        self._state.put(root)
        self._start_companions(spec, kind, root)

    def observe(self, name: str) -> Observation:
        return self._observe(self._find(check_name(name)))

    def stop(self, name: str) -> None:
        seen = self._find(check_name(name))
        for _ in range(PATCH_TRIES):
            root = seen.root
            if root is None or self._observe(seen).state is State.EXITED:
                return
            if is_stopped(root) and is_suspended(root):
                return
            self._follow_all(seen)
            try:
                patch = manifests.stop_patch(root, _now().isoformat())
                self._state.put(self._api.patch(_kind(root), root["metadata"]["name"], patch))
                return
            except ApiError as error:
                if error.status == 404:
                    return
                if error.status != 409:
                    raise _refusal(error, f"stopping {name}") from error
            seen = self._read(name)
        raise Conflict("WORKLOAD_CONTESTED", f"Others keep changing {name}; try again.", name=name)

    def forget(self, name: str) -> None:
        seen = self._find(check_name(name))
        if seen.root is None:
            return
        if self._observe(seen).state is not State.EXITED:
            seen = self._read(name)
        if seen.root is None:
            return
        if self._observe(seen).state is not State.EXITED:
            raise WrongState("WORKLOAD_RUNNING", f"{name} is running; stop it first.", name=name)
        try:
            self._api.delete(_kind(seen.root), seen.root["metadata"]["name"], uid=seen.root["metadata"]["uid"])
        except ApiError as error:
            raise _refusal(error, f"forgetting {name}") from error
        self._state.drop(seen)
        for pod in (*seen.pods, *seen.ghosts):
            self._logs.forget(pod["metadata"]["uid"])

    def list(self, labels: Mapping[str, str] | None = None) -> Sequence[Observation]:
        wanted = (labels or {}).items()
        try:
            seen = [self.observe(name) for name in self._state.names()]
        except ApiError as error:
            raise _refusal(error, "listing workloads") from error
        return [one for one in seen if one.state is not State.NOTHING and wanted <= one.labels.items()]

    def logs(self, name: str, offset: int = 0, limit_bytes: int = LOG_CHUNK_BYTES) -> bytes:
        seen = self._find(check_name(name))
        pod = _speaker(seen)
        if pod is None:
            return b""
        is_gone = pod in seen.ghosts
        said = self._logs.known(pod["metadata"]["uid"]) if is_gone else self._logs.read(pod)
        return said[offset : offset + limit_bytes]

    def close(self) -> None:
        """Ends the watches; the workloads run on."""
        self._state.close()
        self._logs.close()
        self._api.close()

    def _profile(self, spec: WorkloadSpec) -> Profile:
        profile = spec.profile or self._default_profile
        if profile is None or not profile.image:
            name = profile.name if profile else ""
            raise Invalid(
                "WORKLOAD_IMAGE_MISSING",
                f"The execution profile {name!r} names no image.",
                name=spec.name,
                profile=name,
            )
        return profile

    def _found(self, kind: str, spec: WorkloadSpec) -> Object | None:
        """What stands in the way, if we made it ourselves and may not have finished; None: it is somebody else's."""
        try:
            there = self._api.get(kind, manifests.object_name(spec.name))
        except ApiError as error:
            raise _refusal(error, f"starting {spec.name}") from error
        if there is None or there["metadata"].get("deletionTimestamp") or workload_of(there) != spec.name:
            raise Unavailable(
                "WORKLOAD_START_FAILED",
                f"{spec.name} cannot start: something of its name is just being removed, or is not ours; try again.",
                name=spec.name,
            )
        self._state.put(there)
        ours = there["metadata"]["annotations"].get(manifests.STARTED_BY) == self._place.started_by
        over = any(one["type"] in _FINISHED for one in (there.get("status") or {}).get("conditions") or ())
        return there if ours and not over and not is_stopped(there) else None

    def _start_companions(self, spec: WorkloadSpec, kind: str, root: Object) -> None:
        """The Secret and the Service; without the right to make them, the Job goes again."""
        wanted = [("secrets", manifests.secret(spec, root))] if spec.secret_env else []
        if spec.nodes > 1 and kind == "jobs":
            wanted.append(("services", manifests.service(root)))
        for companions, made in wanted:
            try:
                self._api.create(companions, made)
            except ApiError as error:
                if error.status == 409:
                    continue
                if not error.may_pass:
                    self._take_back(spec, kind, root)
                raise _start_refusal(error, spec) from error

    def _take_back(self, spec: WorkloadSpec, kind: str, root: Object) -> None:
        """One that cannot be taken back waits for its settings, which `observe` tells."""
        meta = root["metadata"]
        with suppress(ApiError):
            self._api.delete(kind, meta["name"], uid=meta["uid"])
            self._state.drop(Snapshot(spec.name, root, None))

    def _find(self, name: str) -> Snapshot:
        try:
            return self._state.find(name)
        except ApiError as error:
            raise _refusal(error, f"looking for {name}") from error

    def _read(self, name: str) -> Snapshot:
        try:
            return self._state.read(name)
        except ApiError as error:
            raise _refusal(error, f"looking for {name}") from error

    def _observe(self, seen: Snapshot) -> Observation:
        return observe(seen, _now())

    def _follow_all(self, seen: Snapshot) -> None:
        for pod in seen.pods:
            if has_begun(pod) and not is_over(pod):
                self._logs.follow(pod)

    def _pod_changed(self, pod: Object) -> None:
        if pod["metadata"].get("deletionTimestamp") and has_begun(pod) and not is_over(pod):
            self._logs.follow(pod)


def _speaker(seen: Snapshot) -> Object | None:
    """The pod whose log is the workload's: of the first node, the newest."""
    first = [
        pod
        for pod in (*seen.ghosts, *seen.pods)
        if (pod["metadata"].get("annotations") or {}).get("batch.kubernetes.io/job-completion-index", "0") == "0"
    ]
    return max(first, key=lambda pod: pod["metadata"].get("creationTimestamp") or "", default=None)


def _kind(root: Object) -> str:
    return "jobsets" if root["kind"] == "JobSet" else "jobs"


def _now() -> datetime:
    return datetime.now(UTC)


def _start_refusal(error: ApiError, spec: WorkloadSpec) -> Refusal:
    if error.status == 403 and "exceeded quota" in error.message:
        return Unavailable(
            "WORKLOAD_START_FAILED",
            f"{spec.name} cannot start, the namespace's quota is used up: {error.message}",
            advice=["End other work, or raise the ResourceQuota."],
            name=spec.name,
        )
    if error.status in (400, 403, 422) and not _RIGHT.search(error.message):
        return WrongState(
            "WORKLOAD_REFUSED",
            f"The cluster refuses {spec.name}: {error.message}",
            advice=["Mend the execution profile, or the cluster's policy that the message names."],
            name=spec.name,
        )
    if error.may_pass:
        return Unavailable(
            "WORKLOAD_START_FAILED",
            f"{spec.name} cannot start, the cluster does not answer: {error.message}",
            retry_after_seconds=error.retry_after_seconds,
            name=spec.name,
        )
    return _refusal(error, f"starting {spec.name}")


def _refusal(error: ApiError, doing: str) -> Refusal:
    if error.status in (401, 403):
        verb, kind = right.groups() if (right := _RIGHT.search(error.message)) else ("use", "the API")
        return Denied(
            "WORKLOAD_RIGHT_MISSING",
            f"While {doing}: the service account may not {verb} {kind}. {error.message}",
            advice=[f"Let its role {verb} {kind}; the chart's role for training has all that is needed."],
            verb=verb,
            kind=kind,
        )
    return Unavailable(
        "WORKLOAD_CLUSTER_UNAVAILABLE",
        f"While {doing}, the cluster did not answer as it should: {error}",
        retry_after_seconds=error.retry_after_seconds,
    )
