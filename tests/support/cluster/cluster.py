"""The whole: API, controllers and node, with switches for what goes wrong on real ones."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.support.cluster import admission
from tests.support.cluster.admission import Rules
from tests.support.cluster.faults import Faults
from tests.support.cluster.http import Server
from tests.support.cluster.jobs import sync_job
from tests.support.cluster.kubelet import Kubelet
from tests.support.cluster.sets import sync_jobset
from tests.support.cluster.store import Refused, Store, stamp

Object = dict[str, Any]

NAMESPACE = "training"
NODE = "node-1"
TURN_SECONDS = 0.02


class Cluster:
    """Runs until `close`, which kills what runs in it.

    `image_trouble` and `no_room` keep pods from starting while they are set: a waiting reason with its message, and
    the scheduler's message.
    """

    def __init__(self, folder: Path, *, has_jobsets: bool = False) -> None:
        self.store = Store()
        self.rules = Rules()
        self.faults = Faults()
        self.calls: list[str] = []
        self.tokens: set[str] = set()
        self.errors: list[BaseException] = []
        self.has_jobsets = has_jobsets
        self.page_items = 500
        self.bookmark_seconds = 0.5
        self.bookmarks = 0
        self.image_trouble: tuple[str, str] | None = None
        self.no_room = ""
        self.is_closed = False
        self.controls = True
        folder.mkdir(parents=True, exist_ok=True)
        self.kubelet = Kubelet(self, folder)
        self._server = Server(self)
        self._threads = [
            threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True),
            threading.Thread(target=self._control, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def url(self) -> str:
        return self._server.url

    def close(self) -> None:
        self.is_closed = True
        self._threads[1].join()
        self.kubelet.close()
        self._server.cut()
        self._server.shutdown()
        self._server.server_close()
        if self.errors:
            raise ExceptionGroup("faults of the cluster itself", [e for e in self.errors if isinstance(e, Exception)])

    def cut_lines(self) -> None:
        """Every connection ends, as when a load balancer starts anew."""
        self._server.cut()

    def authorize(self, verb: str, resource: str) -> None:
        admission.authorize(self.rules, verb, resource, NAMESPACE)

    def create(self, kind: str, made: Object) -> Object:
        made = copy.deepcopy(made)
        with self.store.changed:
            if "name" in made["metadata"] and self.store.find(kind, made["metadata"]["name"]):
                raise Refused(409, "AlreadyExists", f'{kind} "{made["metadata"]["name"]}" already exists')
            admission.admit(self.store, self.rules, kind, made)
            created = self.store.create(kind, made, NAMESPACE)
            if kind == "jobs":
                created = self.store.update(kind, created["metadata"]["name"], admission.label_job)
            return created

    def change(
        self, kind: str, name: str, change: Callable[[Object], None], *, uid: str | None, version: str | None
    ) -> Object:
        """What a client's patch goes through."""

        def checked(made: Object) -> None:
            before = copy.deepcopy(made)
            change(made)
            for part in ("uid", "resourceVersion"):
                made["metadata"][part] = before["metadata"][part]
            if "status" in before:
                made["status"] = before["status"]
            admission.check_update(kind, before, made)

        return self.store.update(kind, name, checked, uid=uid, version=version)

    def warn(self, kind: str, about: Object, reason: str, message: str) -> None:
        """A Warning event; the same one again is counted."""
        meta = about["metadata"]
        name = f"{meta['name']}.{abs(hash((meta['uid'], reason, message))):x}"[:253]
        if self.store.find("events", name):
            return
        reference = {"kind": about["kind"], "name": meta["name"], "uid": meta["uid"], "namespace": NAMESPACE}
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name},
            "involvedObject": reference,
            "type": "Warning",
            "reason": reason,
            "message": message,
            "firstTimestamp": stamp(),
            "lastTimestamp": stamp(),
            "count": 1,
        }
        self.store.create("events", event, NAMESPACE)

    def trouble_of(self, pod: Object) -> tuple[str, str] | None:
        """What keeps its container from starting."""
        return self.image_trouble

    def pods(self, job: str) -> list[Object]:
        return [pod for pod in self.store.all("pods") if pod["metadata"]["labels"].get("job-name") == job]

    def processes(self) -> int:
        return len(self.kubelet.running)

    def _control(self) -> None:
        while not self.is_closed:
            with self.store.changed:
                version = self.store.version
                if self.controls and not self.errors:
                    self._turn_safely()
                if self.store.version == version:
                    self.store.changed.wait(TURN_SECONDS)
            time.sleep(0.001)

    def _turn_safely(self) -> None:
        try:
            self._turn()
        except Exception as error:
            self.errors.append(error)

    def _turn(self) -> None:
        for jobset in self.store.all("jobsets"):
            sync_jobset(self, jobset)
        for job in self.store.all("jobs"):
            with suppress(Refused):
                sync_job(self, job)
        for pod in self.store.all("pods"):
            with suppress(Refused):
                self._place(pod)
        self._collect()

    def _place(self, pod: Object) -> None:
        if "nodeName" in pod["spec"] or "deletionTimestamp" in pod["metadata"]:
            self.kubelet.sync(pod)
            return
        placed = {"type": "PodScheduled", "status": "True", "lastTransitionTime": stamp()}
        if self.no_room:
            placed |= {"status": "False", "reason": "Unschedulable", "message": self.no_room}

        def change(made: Object) -> None:
            held = made["status"].get("conditions", [])
            if held and held[0]["status"] == placed["status"]:
                return
            made["status"]["conditions"] = [placed]
            if not self.no_room:
                made["spec"]["nodeName"] = NODE

        self.store.update("pods", pod["metadata"]["name"], change)

    def _collect(self) -> None:
        """Garbage: what belongs to something that is gone; and what waits for what belongs to it."""
        kinds = ("jobs", "pods", "secrets", "services")
        everything = {kind: self.store.all(kind) for kind in (*kinds, "jobsets")}
        there = {made["metadata"]["uid"] for listed in everything.values() for made in listed}
        leaving = {
            made["metadata"]["uid"]
            for listed in everything.values()
            for made in listed
            if "foregroundDeletion" in made["metadata"].get("finalizers", ())
        }
        owners: set[str] = set()
        for kind in kinds:
            for made in everything[kind]:
                uids = {one["uid"] for one in made["metadata"].get("ownerReferences", ())}
                owners |= uids
                is_garbage = uids and (not uids & there or uids & leaving)
                if is_garbage and "deletionTimestamp" not in made["metadata"]:
                    with suppress(Refused):
                        self.store.delete(kind, made["metadata"]["name"])
                    if kind == "pods":
                        continue
                if is_garbage and kind == "pods" and not uids & there:
                    with suppress(Refused):
                        self.store.update(kind, made["metadata"]["name"], _without_finalizers)
        for kind in ("jobs", "jobsets"):
            for made in everything[kind]:
                if made["metadata"]["uid"] in leaving - owners:
                    with suppress(Refused):
                        self.store.update(kind, made["metadata"]["name"], _without_finalizers)


def _without_finalizers(made: Object) -> None:
    made["metadata"].pop("finalizers", None)
