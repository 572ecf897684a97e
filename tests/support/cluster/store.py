"""The objects of a cluster and every change to them, with the API's rules for versions, finalizers and deletion."""

from __future__ import annotations

import secrets
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import orjson

Object = dict[str, Any]
T = TypeVar("T")

KINDS = {
    "jobs": ("batch/v1", "Job"),
    "pods": ("v1", "Pod"),
    "events": ("v1", "Event"),
    "secrets": ("v1", "Secret"),
    "services": ("v1", "Service"),
    "jobsets": ("jobset.x-k8s.io/v1alpha2", "JobSet"),
}
TRACKING = "batch.kubernetes.io/job-tracking"


class Refused(Exception):
    """An answer that is a Status."""

    def __init__(self, status: int, reason: str, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after

    def as_status(self) -> Object:
        body: Object = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.status,
        }
        if self.retry_after is not None:
            body["details"] = {"retryAfterSeconds": self.retry_after}
        return body


@dataclass(frozen=True)
class Change:
    """From `before` to `after`; None: it was not there, or is not any more."""

    version: int
    kind: str
    before: Object | None
    after: Object | None


class Store:
    """One namespace's objects. What it hands out are copies; what changes them goes through `update`."""

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.version = 100
        self.oldest = 0
        self.changes: list[Change] = []
        self._objects: dict[tuple[str, str], Object] = {}

    def all(self, kind: str) -> list[Object]:
        with self.changed:
            return [duplicate(made) for (of, _), made in sorted(self._objects.items()) if of == kind]

    def get(self, kind: str, name: str) -> Object:
        with self.changed:
            return duplicate(self._there(kind, name))

    def find(self, kind: str, name: str) -> Object | None:
        with self.changed:
            return duplicate(self._objects.get((kind, name)))

    def owned(self, kind: str, owner: Object) -> list[Object]:
        uid = owner["metadata"]["uid"]
        with self.changed:
            return [
                duplicate(made)
                for (of, _), made in sorted(self._objects.items())
                if of == kind and any(one["uid"] == uid for one in made["metadata"].get("ownerReferences", ()))
            ]

    def create(self, kind: str, made: Object, namespace: str) -> Object:
        made = duplicate(made)
        meta = made.setdefault("metadata", {})
        with self.changed:
            if "name" not in meta:
                meta["name"] = f"{meta['generateName']}{secrets.token_hex(3)[:5]}"
            if (kind, meta["name"]) in self._objects:
                raise Refused(409, "AlreadyExists", f'{kind} "{meta["name"]}" already exists')
            meta |= {
                "namespace": namespace,
                "uid": str(uuid.uuid4()),
                "creationTimestamp": stamp(),
                "generation": 1,
            }
            return self._put(kind, None, made)

    def update(
        self,
        kind: str,
        name: str,
        change: Callable[[Object], None],
        *,
        uid: str | None = None,
        version: str | None = None,
    ) -> Object:
        """Applies `change` to a copy; writes nothing where nothing changed."""
        with self.changed:
            before = self._there(kind, name)
            _check(kind, before, uid, version)
            after = duplicate(before)
            change(after)
            for fixed in ("uid", "name", "namespace", "creationTimestamp", "resourceVersion"):
                after["metadata"][fixed] = before["metadata"][fixed]
            if after == before:
                return duplicate(before)
            if after.get("spec") != before.get("spec"):
                after["metadata"]["generation"] += 1
            return self._put(kind, before, after)

    def delete(
        self, kind: str, name: str, *, uid: str | None = None, policy: str = "Background", grace: int | None = None
    ) -> Object:
        """Marks it, and removes it unless a finalizer or a grace holds it back."""
        with self.changed:
            before = self._there(kind, name)
            _check(kind, before, uid, None)
            after = duplicate(before)
            meta = after["metadata"]
            seconds = _grace(kind, before, grace)
            if "deletionTimestamp" not in meta or seconds < meta.get("deletionGracePeriodSeconds", 0):
                meta["deletionTimestamp"] = stamp(seconds)
                meta["deletionGracePeriodSeconds"] = seconds
            if policy == "Foreground":
                meta.setdefault("finalizers", []).append("foregroundDeletion")
            return self._put(kind, before, after) if after != before else after

    def compact(self) -> None:
        """Forgets all changes: whoever watches from an older version has to list again."""
        with self.changed:
            self.oldest = self.version
            self.changes.clear()
            self.changed.notify_all()

    def since(self, version: int, timeout: float) -> list[Change]:
        """Changes after `version`; waits for the first one."""
        deadline = time.monotonic() + timeout
        with self.changed:
            while self.version <= version and (left := deadline - time.monotonic()) > 0:
                self.changed.wait(left)
            if version < self.oldest:
                raise Refused(410, "Expired", f"too old resource version: {version} ({self.version})")
            first = self.changes[0].version if self.changes else 0
            return self.changes[max(0, version - first + 1) :]

    def _there(self, kind: str, name: str) -> Object:
        try:
            return self._objects[kind, name]
        except KeyError:
            group = KINDS[kind][0].partition("/")
            what = f"{kind}.{group[0]}" if group[2] else kind
            raise Refused(404, "NotFound", f'{what} "{name}" not found') from None

    def _put(self, kind: str, before: Object | None, after: Object) -> Object:
        meta = after["metadata"]
        self.version += 1
        meta["resourceVersion"] = str(self.version)
        held = meta.get("finalizers") or meta.get("deletionGracePeriodSeconds")
        if "deletionTimestamp" in meta and not held:
            self._objects.pop((kind, meta["name"]), None)
            self.changes.append(Change(self.version, kind, after, None))
        else:
            self._objects[kind, meta["name"]] = after
            self.changes.append(Change(self.version, kind, before, after))
        self.changed.notify_all()
        return duplicate(after)


def duplicate(made: T) -> T:
    copied: T = orjson.loads(orjson.dumps(made))
    return copied


def _check(kind: str, made: Object, uid: str | None, version: str | None) -> None:
    meta = made["metadata"]
    if uid is not None and uid != meta["uid"]:
        message = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {meta['uid']}"
        raise Refused(409, "Conflict", f'Operation cannot be fulfilled on {kind} "{meta["name"]}": {message}')
    if version is not None and version != meta["resourceVersion"]:
        message = "the object has been modified; please apply your changes to the latest version and try again"
        raise Refused(409, "Conflict", f'Operation cannot be fulfilled on {kind} "{meta["name"]}": {message}')


def _grace(kind: str, made: Object, grace: int | None) -> int:
    """Only pods on a node have one."""
    if kind != "pods" or "nodeName" not in made["spec"] or made["status"].get("phase") in ("Succeeded", "Failed"):
        return 0
    return made["spec"].get("terminationGracePeriodSeconds", 30) if grace is None else grace


def stamp(seconds: float = 0.0) -> str:
    """Now, or that much later, as the API writes it: whole seconds."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse(text: str) -> datetime:
    return datetime.fromisoformat(text)
