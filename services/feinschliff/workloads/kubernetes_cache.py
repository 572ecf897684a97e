"""A copy of the cluster's objects that follows it: lists, watches, lists again where the watch has lost the thread."""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from feinschliff.workloads.kubernetes_api import Api, ApiError, Selection, Stream, pause_seconds

log = logging.getLogger(__name__)

Object = dict[str, Any]

WATCH_SECONDS = 240
RESYNC_SECONDS = 600.0
STALE_SECONDS = 30.0
LONGEST_PAUSE_SECONDS = 15.0
_GONE = 410
_SHORT_WATCH_SECONDS = 1.0
_TURNS_MAX = 8
_BLIND_AFTER = 2  # watches that failed in a row; then every turn lists, which shows as much, only later


@dataclass(frozen=True)
class Rhythm:
    """How long one watch lasts, and how long it is trusted before everything is listed again."""

    watch_seconds: int = WATCH_SECONDS
    resync_seconds: float = RESYNC_SECONDS
    stale_seconds: float = STALE_SECONDS


RHYTHM = Rhythm()


class _Lost(Exception):
    """The watch cannot go on from where it was."""


class Mirror:
    """All objects of one kind; reads never wait for the cluster."""

    def __init__(
        self,
        api: Api,
        kind: str,
        selection: Selection,
        *,
        group: Callable[[Object], str],
        on_change: Callable[[Object, bool], None] = lambda _made, _is_gone: None,
        rhythm: Rhythm = RHYTHM,
    ) -> None:
        self._api = api
        self._kind = kind
        self._selection = selection
        self._group = group
        self._on_change = on_change
        self._rhythm = rhythm
        self._random = random.Random()
        self._lock = threading.Lock()
        self._made: dict[str, Object] = {}
        self._groups: dict[str, set[str]] = {}
        self._dropped: set[str] = set()
        self._heard = float("-inf")
        self._version = ""
        self._closed = threading.Event()
        self._tried = threading.Event()
        self._stream: Stream | None = None
        self._thread = threading.Thread(target=self._run, name=f"watch-{kind}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Ends the watch; returns at once, see `join`."""
        self._closed.set()
        stream = self._stream
        if stream is not None:
            stream.close()

    def join(self, seconds: float) -> None:
        """Until its thread has ended, but no longer: one that waits for a silent cluster ends with the process."""
        if self._thread.ident is not None:
            self._thread.join(seconds)

    @property
    def is_live(self) -> bool:
        """Whether it was in touch with the cluster a moment ago."""
        return self._stream is not None or time.monotonic() - self._heard < self._rhythm.stale_seconds

    def wait_tried(self, seconds: float) -> None:
        """Until the first look at the cluster, whether it showed anything or not."""
        self._tried.wait(seconds)

    def group(self, key: str) -> list[Object]:
        with self._lock:
            return [self._made[name] for name in sorted(self._groups.get(key, ()))]

    def all(self) -> list[Object]:
        with self._lock:
            return [self._made[name] for name in sorted(self._made)]

    def put(self, made: Object) -> None:
        """Takes what a call of ours was answered with, unless something newer is here."""
        self._take(made)

    def drop(self, uid: str) -> None:
        """What we deleted is gone, whatever an older message says."""
        with self._lock:
            self._dropped.add(uid)
            for name in [name for name, made in self._made.items() if made["metadata"]["uid"] == uid]:
                self._remove(name)

    def _run(self) -> None:
        failures, listed = 0, 0.0
        while not self._closed.is_set():
            begun = time.monotonic()
            wait = None
            try:
                if not self._version or begun - listed > self._rhythm.resync_seconds:
                    self._list()
                    listed = begun
                self._follow()
                is_calm = time.monotonic() - begun > _SHORT_WATCH_SECONDS
                failures = 0 if is_calm else failures + 1
            except _Lost:
                log.info("the watch is too old; listing again", extra={"kind": self._kind})
                self._version, failures = "", failures + 1
            except ApiError as error:
                failures, wait = failures + 1, error.retry_after_seconds
                if error.status == _GONE or failures > _BLIND_AFTER:
                    self._version = ""
                level = logging.ERROR if error.status in (401, 403) else logging.WARNING
                log.log(level, "the cluster cannot be watched: %s", error, extra={"kind": self._kind})
            except Exception:
                log.exception("the watch failed; beginning again", extra={"kind": self._kind})
                self._version, failures = "", failures + 1
            if failures:
                self._tried.set()
                self._closed.wait(min(LONGEST_PAUSE_SECONDS, self._pause(failures, wait)))

    def _pause(self, failures: int, wait: float | None) -> float:
        grown = pause_seconds(min(failures - 1, _TURNS_MAX), wait, self._random)
        return grown * (1 if failures < _TURNS_MAX else 4)

    def _list(self) -> None:
        listing = self._api.list(self._kind, self._selection)
        there = {made["metadata"]["uid"] for made in listing.items}
        with self._lock:
            gone = [
                made
                for made in self._made.values()
                if made["metadata"]["uid"] not in there and not _is_newer(_version_of(made), listing.resource_version)
            ]
            self._dropped &= there
        for made in gone:
            self._forget(made)
        for made in listing.items:
            self._take(made)
        self._heard = time.monotonic()
        self._version = listing.resource_version
        self._tried.set()

    def _follow(self) -> None:
        seconds = int(self._rhythm.watch_seconds * self._random.uniform(0.8, 1.0)) or 1
        self._stream = stream = self._api.watch(self._kind, self._selection, self._version, seconds)
        if self._closed.is_set():
            stream.close()
        try:
            for event in _events(stream):
                self._heard = time.monotonic()
                self._version = self._handle(event) or self._version
        finally:
            self._stream = None
            stream.close()
        self._heard = time.monotonic()

    def _handle(self, event: Object) -> str:
        made = event["object"]
        match event["type"]:
            case "ADDED" | "MODIFIED":
                self._take(made)
            case "DELETED":
                self._forget(made)
            case "ERROR" if made.get("code") == _GONE:
                raise _Lost
            case "ERROR":
                raise ApiError(int(made.get("code") or 500), made.get("reason") or "", made.get("message") or "")
        return str((made.get("metadata") or {}).get("resourceVersion", ""))

    def _take(self, made: Object) -> None:
        meta = made["metadata"]
        with self._lock:
            known = self._made.get(meta["name"])
            if meta["uid"] in self._dropped:
                return
            if known is not None and not _is_newer(_version_of(made), _version_of(known)):
                return
            if known is not None:
                self._remove(meta["name"])
            self._made[meta["name"]] = made
            self._groups.setdefault(self._group(made), set()).add(meta["name"])
        if known is not None and known["metadata"]["uid"] != meta["uid"]:
            self._on_change(known, True)
        self._on_change(made, False)

    def _forget(self, made: Object) -> None:
        """`made` is what is known of it last."""
        meta = made["metadata"]
        with self._lock:
            self._dropped.discard(meta["uid"])
            known = self._made.get(meta["name"])
            if known is not None and known["metadata"]["uid"] == meta["uid"]:
                self._remove(meta["name"])
        self._on_change(made, True)

    def _remove(self, name: str) -> None:
        made = self._made.pop(name)
        key = self._group(made)
        self._groups[key].discard(name)
        if not self._groups[key]:
            del self._groups[key]


def _events(stream: Stream) -> Iterator[Object]:
    for line in stream.lines():
        try:
            event = json.loads(line)
        except ValueError as error:
            raise ApiError(0, "Garbled", f"not JSON: {line[:100]!r}") from error
        yield event


def _version_of(made: Object) -> str:
    return str(made["metadata"].get("resourceVersion", ""))


def _is_newer(one: str, other: str) -> bool:
    """Versions are numbers that grow; where they are none, what came last is the newest."""
    return not (one.isdigit() and other.isdigit()) or int(one) > int(other)
