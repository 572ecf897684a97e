"""What workloads said, kept beyond the pods that said it."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from typing import Any

from feinschliff.workloads.kubernetes_api import Api, ApiError, Stream
from feinschliff.workloads.kubernetes_view import is_over
from feinschliff.workloads.manifests import CONTAINER

log = logging.getLogger(__name__)

Object = dict[str, Any]

LOG_BYTES_MAX = 16 * 1024 * 1024
KEPT_BYTES_MAX = 64 * 1024 * 1024
FOLLOWERS_MAX = 16
FOLLOWED_MAX = 10_000  # pods that are remembered as followed
READ_AGAIN_SECONDS = 0.2
CLOSE_SECONDS = 2.0  # a follower that waits for a silent cluster ends with the process
_OVERLAP_BYTES = 512


class LogKeeper:
    """Remembers the newest words of every pod that was read or that is going away, within bounds.

    A pod that is being deleted is followed to its end, for its log goes with it. A log beyond 16 MiB starts anew and
    keeps its end, as does one that the node rotates; all logs together keep to 64 MiB, the ones read longest ago go.
    """

    def __init__(self, api: Api) -> None:
        self._api = api
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._streams: dict[str, Stream] = {}
        self._read_at: dict[str, float] = {}
        self._whole: set[str] = set()
        self._followed: dict[str, None] = {}
        self._room = threading.Semaphore(FOLLOWERS_MAX)
        self._threads: list[threading.Thread] = []
        self._is_closed = False

    def read(self, pod: Object) -> bytes:
        """All that is known of its log; asks the cluster, and answers from memory where that fails.

        A log that is complete is fetched once, one that grows at most every 0.2 s.
        """
        uid, name = pod["metadata"]["uid"], pod["metadata"]["name"]
        is_whole, now = is_over(pod), time.monotonic()
        with self._lock:
            is_young = not is_whole and now - self._read_at.get(uid, float("-inf")) < READ_AGAIN_SECONDS
            if is_young or uid in self._whole:
                return self._kept.get(uid, b"")
        try:
            said = self._api.pod_log(name, CONTAINER, limit_bytes=LOG_BYTES_MAX)
        except ApiError as error:
            if error.status not in (400, 404):  # 400: its container has not begun
                log.warning("a log cannot be read: %s", error, extra={"pod": name})
            return self.known(uid)
        whole = self._keep(uid, said)
        with self._lock:
            self._read_at[uid] = now
            if is_whole:
                self._whole.add(uid)
        return whole

    def known(self, uid: str) -> bytes:
        with self._lock:
            return self._kept.get(uid, b"")

    def follow(self, pod: Object) -> None:
        """Reads on until it ends; at once, in the background. A pod is followed once."""
        uid, name = pod["metadata"]["uid"], pod["metadata"]["name"]
        with self._lock:
            if self._is_closed or uid in self._followed:
                return
            self._followed[uid] = None
            while len(self._followed) > FOLLOWED_MAX:
                del self._followed[next(iter(self._followed))]
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            thread = threading.Thread(target=self._follow, args=(uid, name), name=f"log-{name}", daemon=True)
            self._threads.append(thread)
        thread.start()

    def forget(self, uid: str) -> None:
        with self._lock:
            self._drop(uid)

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            streams, threads = [*self._streams.values()], [*self._threads]
        for stream in streams:
            stream.close()
        until = time.monotonic() + CLOSE_SECONDS
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _follow(self, uid: str, name: str) -> None:
        with self._room:
            try:
                with self._lock:
                    if self._is_closed:
                        return
                stream = self._api.follow_log(name, CONTAINER)
                with self._lock:
                    self._streams[uid] = stream
                    if self._is_closed:
                        stream.close()
                said = bytearray()
                try:
                    for chunk in stream.chunks():
                        said += chunk
                        if len(said) > LOG_BYTES_MAX:
                            del said[: LOG_BYTES_MAX // 2]
                finally:
                    self._keep(uid, bytes(said))
            except ApiError as error:
                if error.status not in (400, 404):
                    log.info("the end of a log is lost: %s", error, extra={"pod": name})
            finally:
                with self._lock:
                    self._streams.pop(uid, None)

    def _keep(self, uid: str, said: bytes) -> bytes:
        with self._lock:
            whole = bounded(joined(self._kept.get(uid, b""), said))
            self._kept[uid] = whole
            self._kept.move_to_end(uid)
            while len(self._kept) > 1 and sum(map(len, self._kept.values())) > KEPT_BYTES_MAX:
                self._drop(next(iter(self._kept)))
            return whole

    def _drop(self, uid: str) -> None:
        self._kept.pop(uid, None)
        self._read_at.pop(uid, None)
        self._whole.discard(uid)


def joined(known: bytes, said: bytes) -> bytes:
    """What was known and what is said now, where a node may have thrown the beginning away since."""
    if said.startswith(known):
        return said
    if known.startswith(said):
        return known
    end = known[-_OVERLAP_BYTES:]
    at = said.find(end)
    return known + said[at + len(end) :] if at >= 0 else known + said


def bounded(whole: bytes) -> bytes:
    return whole if len(whole) <= LOG_BYTES_MAX else whole[-(LOG_BYTES_MAX // 2) :]
