"""What is known of all workloads of a namespace: mirrors of their objects, and the last words of pods that are gone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from feinschliff.workloads import manifests
from feinschliff.workloads.kubernetes_api import Api, Selection
from feinschliff.workloads.kubernetes_cache import Mirror, Rhythm
from feinschliff.workloads.kubernetes_view import Snapshot, is_child, workload_of
from feinschliff.workloads.manifests import object_name

Object = dict[str, Any]

WARNINGS = Selection(fields="type=Warning")
GHOSTS_MAX = 1000
CLOSE_SECONDS = 2.0


class ClusterState:
    """Answers from memory while the watches are in touch with the cluster, and from the cluster itself else.

    Args:
        on_pod: called with every pod that is new or changed, in a watch's thread; must not wait.
    """

    def __init__(
        self, api: Api, managed_by: str, *, jobsets: bool, rhythm: Rhythm, on_pod: Callable[[Object], None]
    ) -> None:
        self._api = api
        self._ours = Selection(labels=manifests.selector(managed_by))
        self._on_pod = on_pod
        self._lock = threading.Lock()
        self._ghosts: dict[str, Object] = {}
        self.roots = "jobsets" if jobsets else "jobs"
        self._mirrors = {
            "jobs": Mirror(api, "jobs", self._ours, group=workload_of, rhythm=rhythm),
            "pods": Mirror(api, "pods", self._ours, group=workload_of, rhythm=rhythm, on_change=self._pod_changed),
            "events": Mirror(api, "events", WARNINGS, group=_about, rhythm=rhythm),
        }
        if jobsets:
            self._mirrors["jobsets"] = Mirror(api, "jobsets", self._ours, group=workload_of, rhythm=rhythm)

    def start(self) -> None:
        for mirror in self._mirrors.values():
            mirror.start()

    def close(self) -> None:
        for mirror in self._mirrors.values():
            mirror.close()
        until = time.monotonic() + CLOSE_SECONDS
        for mirror in self._mirrors.values():
            mirror.join(max(0.0, until - time.monotonic()))

    def wait_tried(self, seconds: float) -> None:
        """Until the first look at every kind, whether it showed anything or not; at most so long altogether."""
        until = time.monotonic() + seconds
        for mirror in self._mirrors.values():
            mirror.wait_tried(max(0.0, until - time.monotonic()))

    def find(self, name: str) -> Snapshot:
        """A name that is not known here is asked for before it is said to be nothing."""
        if self._is_live():
            seen = self._snapshot(name)
            if seen.root is not None:
                return seen
        return self.read(name)

    def read(self, name: str) -> Snapshot:
        """The same, from the cluster itself."""
        made = object_name(name)
        asked = (self._api.get(kind, made) for kind in self._root_kinds())
        root = next((one for one in asked if one is not None and workload_of(one) == name), None)
        if root is not None:
            self.put(root)
        if not self._is_live():
            chosen = Selection(labels=f"{self._ours.labels},{manifests.WORKLOAD}={made}")
            for kind in ("jobs", "pods") if root and root["kind"] == "JobSet" else ("pods",):
                self._refresh(kind, name, chosen)
        return self._snapshot(name, root_is_gone=root is None)

    def names(self) -> list[str]:
        """Of all workloads that there are."""
        if not self._is_live():
            for kind in self._root_kinds():
                for made in self._api.list(kind, self._ours).items:
                    self.put(made)
        roots = [one for kind in self._root_kinds() for one in self._mirrors[kind].all() if not is_child(one)]
        return sorted({workload_of(one) for one in roots} - {""})

    def put(self, made: Object) -> None:
        self._mirrors["jobsets" if made.get("kind") == "JobSet" else "jobs"].put(made)

    def drop(self, seen: Snapshot) -> None:
        """Everything of this workload is deleted."""
        for made in (seen.root, seen.job, *seen.pods):
            if made is not None:
                for mirror in self._mirrors.values():
                    mirror.drop(made["metadata"]["uid"])
        with self._lock:
            gone = {pod["metadata"]["uid"] for pod in seen.ghosts}
            self._ghosts = {uid: pod for uid, pod in self._ghosts.items() if uid not in gone}

    def _root_kinds(self) -> list[str]:
        return [kind for kind in ("jobsets", "jobs") if kind in self._mirrors]

    def _is_live(self) -> bool:
        return all(mirror.is_live for kind, mirror in self._mirrors.items() if kind != "events")

    def _refresh(self, kind: str, name: str, chosen: Selection) -> None:
        mirror = self._mirrors[kind]
        there = self._api.list(kind, chosen).items
        uids = {made["metadata"]["uid"] for made in there}
        for made in mirror.group(name):
            if made["metadata"]["uid"] not in uids:
                mirror.drop(made["metadata"]["uid"])
        for made in there:
            mirror.put(made)

    def _snapshot(self, name: str, *, root_is_gone: bool = False) -> Snapshot:
        jobs = self._mirrors["jobs"].group(name)
        sets = self._mirrors["jobsets"].group(name) if "jobsets" in self._mirrors else []
        root = None if root_is_gone else next(iter([*sets, *(job for job in jobs if not is_child(job))]), None)
        if root is None:
            return Snapshot(name, None, None, self._mirrors["pods"].group(name))
        job = root if root["kind"] == "Job" else next((one for one in jobs if _is_owned(one, root)), None)
        pods = [pod for pod in self._mirrors["pods"].group(name) if job is not None and _is_owned(pod, job)]
        with self._lock:
            ghosts = [pod for pod in self._ghosts.values() if job is not None and _is_owned(pod, job)]
        return Snapshot(name, root, job, pods, ghosts, list(self._events(root, job, pods)))

    def _events(self, root: Object, job: Object | None, pods: list[Object]) -> Iterator[Object]:
        uids = {made["metadata"]["uid"] for made in (root, job or root, *pods)}
        for uid in uids:
            yield from self._mirrors["events"].group(uid)

    def _pod_changed(self, pod: Object, is_gone: bool) -> None:
        if not is_gone:
            self._on_pod(pod)
            return
        with self._lock:
            self._ghosts[pod["metadata"]["uid"]] = pod
            while len(self._ghosts) > GHOSTS_MAX:
                del self._ghosts[next(iter(self._ghosts))]


def _about(event: Object) -> str:
    return str((event.get("involvedObject") or {}).get("uid", ""))


def _is_owned(made: Object, owner: Object) -> bool:
    uid = owner["metadata"]["uid"]
    return any(one.get("uid") == uid for one in made["metadata"].get("ownerReferences") or ())
