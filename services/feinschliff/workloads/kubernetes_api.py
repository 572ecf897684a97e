"""A cluster's API in plain dicts and typed failures; the only module that knows the `kubernetes` client."""

from __future__ import annotations

import json
import logging
import os
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import urllib3
from kubernetes import config
from kubernetes.client.api_client import ApiClient
from kubernetes.client.configuration import Configuration
from kubernetes.client.exceptions import ApiException

from feinschliff.kit.errors import StartError

log = logging.getLogger(__name__)

Object = dict[str, Any]
Query = list[tuple[str, str]]
T = TypeVar("T")

PATHS: Mapping[str, str] = {
    "jobs": "/apis/batch/v1",
    "pods": "/api/v1",
    "events": "/api/v1",
    "secrets": "/api/v1",
    "services": "/api/v1",
    "jobsets": "/apis/jobset.x-k8s.io/v1alpha2",
}
MERGE_PATCH = "application/merge-patch+json"
CONNECT_SECONDS = 5.0
READ_SECONDS = 20.0
WATCH_SILENCE_SECONDS = 100.0  # a server sends a bookmark about every minute; after this long the line is dead
TRIES = 4
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 2.0
PAGE_ITEMS = 500
LATER = frozenset({0, 429, 500, 502, 503, 504})
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class ApiError(Exception):
    """The API's refusal: its HTTP status (0: no answer), reason and message, and when to ask again."""

    def __init__(self, status: int, reason: str, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after_seconds = retry_after_seconds

    @property
    def may_pass(self) -> bool:
        """Whether the same call may succeed a little later."""
        return self.status in LATER


class Listing(NamedTuple):
    items: list[Object]
    resource_version: str


@dataclass(frozen=True)
class Selection:
    """Which objects a list or a watch is about."""

    labels: str = ""
    fields: str = ""

    def query(self) -> Query:
        wanted = (("labelSelector", self.labels), ("fieldSelector", self.fields))
        return [(name, value) for name, value in wanted if value]


class Stream:
    """An answer that goes on; `close` may be called by another thread and ends a read that waits."""

    def __init__(self, response: urllib3.BaseHTTPResponse) -> None:
        self._response = response
        self._closed = threading.Event()

    def lines(self) -> Iterator[bytes]:
        rest = b""
        for chunk in self.chunks():
            *whole, rest = (rest + chunk).split(b"\n")
            yield from (line for line in whole if line)

    def chunks(self) -> Iterator[bytes]:
        try:
            yield from self._response.stream(amt=None, decode_content=False)
        except (urllib3.exceptions.HTTPError, OSError, ValueError, AttributeError) as error:
            if not self._closed.is_set():
                raise ApiError(0, "ConnectionLost", str(error)) from error
        finally:
            self._response.close()

    def close(self) -> None:
        self._closed.set()
        try:
            self._response.shutdown()
        except (RuntimeError, OSError, ValueError, AttributeError):
            self._response.close()


class Api:
    """One namespace of one cluster. Safe for threads."""

    def __init__(self, configuration: Configuration, namespace: str) -> None:
        configuration.retries = False  # what is repeated, and when, is decided here
        configuration.client_side_validation = False
        configuration.connection_pool_maxsize = 32
        self.namespace = namespace
        self._client = ApiClient(configuration)
        self._random = random.Random()

    @classmethod
    def connect(cls, namespace: str = "") -> Api:
        """The cluster that this process runs in, or else the one of the kubeconfig.

        Raises:
            StartError: neither is there, or it cannot be read.
        """
        configuration = Configuration()
        inside = "KUBERNETES_SERVICE_HOST" in os.environ
        try:
            if inside:
                config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
            else:
                config.load_kube_config(client_configuration=configuration, persist_config=False)  # type: ignore[no-untyped-call]
        except (config.ConfigException, OSError) as error:
            raise StartError([f"no way to a cluster: {error}"]) from error
        return cls(configuration, namespace or _own_namespace(inside))

    @classmethod
    def at(cls, url: str, namespace: str) -> Api:
        """A cluster's API at a plain address, without credentials."""
        configuration = Configuration()
        configuration.host = url
        configuration.proxy = None
        return cls(configuration, namespace)

    def serves(self, kind: str) -> bool:
        """Whether the cluster has this kind at all."""
        try:
            served = self._json("GET", PATHS[kind])
        except ApiError as error:
            if error.status in (403, 404):
                return False
            raise
        return any(resource.get("name") == kind for resource in served.get("resources", ()))

    def create(self, kind: str, body: Object) -> Object:
        return self._json("POST", self._path(kind), body=body)

    def get(self, kind: str, name: str) -> Object | None:
        try:
            return self._json("GET", self._path(kind, name))
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def patch(self, kind: str, name: str, body: Object) -> Object:
        return self._json("PATCH", self._path(kind, name), body=body, content_type=MERGE_PATCH)

    def delete(self, kind: str, name: str, *, uid: str) -> None:
        """Deletes exactly that object, and after it what it owns; one that is gone is fine."""
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": {"uid": uid},
        }
        try:
            self._json("DELETE", self._path(kind, name), body=options)
        except ApiError as error:
            if error.status not in (404, 409):
                raise

    def list(self, kind: str, selection: Selection) -> Listing:
        """All of them, in pages; the version is the one that a watch goes on from."""
        items: list[Object] = []
        token = ""
        while True:
            query = [*selection.query(), ("limit", str(PAGE_ITEMS)), *([("continue", token)] if token else [])]
            page = self._json("GET", self._path(kind), query=query)
            items += page.get("items") or ()
            meta = page.get("metadata") or {}
            token = meta.get("continue") or ""
            if not token:
                return Listing(items, str(meta.get("resourceVersion", "")))

    def watch(self, kind: str, selection: Selection, resource_version: str, seconds: int) -> Stream:
        query = [
            *selection.query(),
            ("watch", "true"),
            ("allowWatchBookmarks", "true"),
            ("resourceVersion", resource_version),
            ("timeoutSeconds", str(seconds)),
        ]
        return Stream(self._ask("GET", self._path(kind), query=query, is_stream=True))

    def pod_log(self, pod: str, container: str, *, limit_bytes: int) -> bytes:
        query = [("container", container), ("limitBytes", str(limit_bytes))]
        return self._patiently(lambda: self._ask("GET", self._path("pods", pod) + "/log", query=query).data)

    def follow_log(self, pod: str, container: str) -> Stream:
        query = [("container", container), ("follow", "true")]
        path = self._path("pods", pod) + "/log"
        return Stream(self._ask("GET", path, query=query, is_stream=True))

    def close(self) -> None:
        self._client.rest_client.close()

    def _path(self, kind: str, name: str = "") -> str:
        return f"{PATHS[kind]}/namespaces/{self.namespace}/{kind}" + (f"/{name}" if name else "")

    def _json(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
    ) -> Object:
        def once() -> Object:
            answer = self._ask(method, path, query=query, body=body, content_type=content_type)
            return cast(Object, json.loads(answer.data))

        return self._patiently(once)

    def _patiently(self, call: Callable[[], T]) -> T:
        """Repeats what may pass; all our calls may be repeated, for creating twice is refused by the name."""
        for turn in range(TRIES):
            try:
                return call()
            except ApiError as error:
                if not error.may_pass or turn == TRIES - 1:
                    raise
                wait = pause_seconds(turn, error.retry_after_seconds, self._random)
                if wait > 2 * LONGEST_PAUSE_SECONDS:
                    raise
                threading.Event().wait(wait)
        raise AssertionError("unreachable")

    def _ask(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
        is_stream: bool = False,
    ) -> urllib3.BaseHTTPResponse:
        headers = {"Accept": "application/json, */*", "Content-Type": content_type}
        timeout = (CONNECT_SECONDS, WATCH_SILENCE_SECONDS if is_stream else READ_SECONDS)
        try:
            request = self._client.param_serialize(
                method, path, query_params=query or [], header_params=headers, body=body, auth_settings=["BearerToken"]
            )
            answer = self._client.call_api(*request, _request_timeout=timeout).response
            if answer.status < 300 and is_stream:
                return cast(urllib3.BaseHTTPResponse, answer)
            body_read = answer.data
            if answer.status >= 300:
                raise refusal(answer.status, answer.reason or "", body_read, answer.headers.get("Retry-After"))
        except (urllib3.exceptions.HTTPError, ApiException, OSError) as error:
            raise ApiError(0, "Unreachable", f"{type(error).__name__}: {error}"[:500]) from error
        return cast(urllib3.BaseHTTPResponse, answer)


def refusal(status: int, reason: str, body: bytes, retry_after: str | None = None) -> ApiError:
    """What a Status says; also for an answer that is none, such as a proxy's."""
    try:
        said = json.loads(body)
    except ValueError:
        said = {"message": body[:500].decode(errors="replace")}
    if not isinstance(said, dict):
        said = {}
    wait = retry_after or (said.get("details") or {}).get("retryAfterSeconds")
    try:
        seconds = float(wait) if wait is not None else None
    except ValueError:
        seconds = None
    return ApiError(int(said.get("code") or status), said.get("reason") or reason, said.get("message") or "", seconds)


def pause_seconds(turn: int, retry_after_seconds: float | None, chance: random.Random) -> float:
    """How long to wait before try `turn + 1`: growing, never two alike, and no sooner than the server wants."""
    grown = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * float(2**turn))
    return (retry_after_seconds or 0.0) + grown * chance.uniform(0.5, 1.0)


def _own_namespace(inside: bool) -> str:
    if inside:
        return _NAMESPACE_FILE.read_text("utf-8").strip()
    _, active = config.list_kube_config_contexts()  # type: ignore[no-untyped-call]
    return str(active["context"].get("namespace") or "default")
