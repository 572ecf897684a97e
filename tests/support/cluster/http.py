"""The API over HTTP: routes, lists, watches and logs, as a client on the network sees them."""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from tests.support.cluster.faults import Kind
from tests.support.cluster.patches import patcher
from tests.support.cluster.selectors import selects
from tests.support.cluster.store import KINDS, Change, Refused

if TYPE_CHECKING:
    from tests.support.cluster.cluster import Cluster

Object = dict[str, Any]

_VERBS = {"POST": "create", "PATCH": "patch", "DELETE": "delete", "PUT": "update"}


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.cluster = cluster
        self.lines: set[socket.socket] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def cut(self) -> None:
        """Ends every connection there is, in the middle of whatever it carries."""
        for line in [*self.lines]:
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients go away; that is their affair, a fault of the cluster is not."""
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, OSError):
            self.cluster.errors.append(error)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def setup(self) -> None:
        super().setup()
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.server.lines.add(self.request)

    def finish(self) -> None:
        self.server.lines.discard(self.request)
        with suppress(OSError):
            super().finish()

    def log_message(self, format: str, *args: Any) -> None:
        return

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PATCH(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        cluster = self.server.cluster
        cluster.calls.append(f"{self.command} {self.path}")
        cluster.tokens |= {token for token in [self.headers.get("Authorization")] if token}
        fault = cluster.faults.take(self.command, self.path)
        try:
            if fault is not None and fault.kind is Kind.CUT:
                self.close_connection = True
                return
            if fault is not None and fault.kind is Kind.STATUS:
                raise Refused(fault.status, "Injected", "injected by the test", retry_after=fault.retry_after)
            answer = self._answer(json.loads(body) if body else None)
            if fault is not None:
                self.close_connection = True
            elif answer is not None:
                self._send(201 if self.command == "POST" else 200, answer)
        except Refused as refused:
            self._send(refused.status, refused.as_status(), retry_after=refused.retry_after)
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def _answer(self, body: Any) -> Object | None:
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        root, _, rest = url.path.partition("/namespaces/")
        if not rest:
            return self._discovery(root)
        namespace, kind, *more = rest.split("/")
        if kind not in KINDS or (kind == "jobsets" and not self.server.cluster.has_jobsets):
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        name, part = (*more, "", "")[:2]
        verb = _VERBS.get(self.command) or ("get" if name else "watch" if query.get("watch") else "list")
        self.server.cluster.authorize(verb, f"{kind}/{part}" if part else kind)
        if part == "log":
            self._log(name, query)
            return None
        if verb == "watch":
            self._watch(kind, query)
            return None
        if verb == "list":
            return self._list(kind, query)
        return self._one(verb, kind, name, namespace, body)

    def _one(self, verb: str, kind: str, name: str, namespace: str, body: Any) -> Object:
        cluster = self.server.cluster
        match verb:
            case "create":
                assert body.get("metadata", {}).get("namespace", namespace) == namespace
                return cluster.create(kind, body)
            case "patch":
                meta = body.get("metadata", {}) if isinstance(body, dict) else {}
                change = patcher(self.headers["Content-Type"], body)
                version = meta.get("resourceVersion")
                return cluster.change(kind, name, change, uid=meta.get("uid"), version=version)
            case "delete":
                options = body or {}
                uid = (options.get("preconditions") or {}).get("uid")
                policy = options.get("propagationPolicy") or "Background"
                return cluster.store.delete(kind, name, uid=uid, policy=policy, grace=options.get("gracePeriodSeconds"))
        return cluster.store.get(kind, name)

    def _discovery(self, root: str) -> Object:
        version = root.removeprefix("/apis/").removeprefix("/api/")
        kinds = [kind for kind, (of, _) in KINDS.items() if of == version]
        if not kinds or (kinds == ["jobsets"] and not self.server.cluster.has_jobsets):
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        served = [{"name": kind, "kind": KINDS[kind][1], "namespaced": True, "verbs": []} for kind in kinds]
        return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": served}

    def _list(self, kind: str, query: dict[str, str]) -> Object:
        store = self.server.cluster.store
        with store.changed:
            version = str(store.version)
            chosen = [
                made
                for made in store.all(kind)
                if selects(made, query.get("labelSelector", ""), query.get("fieldSelector", ""))
            ]
        begin = int(query.get("continue", 0))
        limit = min(int(query.get("limit", 0)) or len(chosen), self.server.cluster.page_items)
        meta: Object = {"resourceVersion": version}
        if begin + limit < len(chosen):
            meta["continue"] = str(begin + limit)
        api_version, name = KINDS[kind]
        page = chosen[begin : begin + limit]
        return {"kind": f"{name}List", "apiVersion": api_version, "metadata": meta, "items": page}

    def _watch(self, kind: str, query: dict[str, str]) -> None:
        self._begin("application/json")
        try:
            for event in self._events(kind, query):
                self._chunk(json.dumps(event).encode() + b"\n")
        except Refused as refused:
            self._chunk(json.dumps({"type": "ERROR", "object": refused.as_status()}).encode() + b"\n")
        self._chunk(b"")

    def _events(self, kind: str, query: dict[str, str]) -> Iterator[Object]:
        cluster = self.server.cluster
        version = int(query.get("resourceVersion") or 0)
        if version == 0:
            now = self._list(kind, query | {"limit": "0"})
            version = int(now["metadata"]["resourceVersion"])
            yield from ({"type": "ADDED", "object": made} for made in now["items"])
        deadline = time.monotonic() + float(query.get("timeoutSeconds", 60))
        marked = time.monotonic()
        while (left := deadline - time.monotonic()) > 0 and not cluster.is_closed:
            for change in cluster.store.since(version, min(left, cluster.bookmark_seconds)):
                version = change.version
                if change.kind == kind and (event := _event(change, query)):
                    yield event
            if query.get("allowWatchBookmarks") == "true" and time.monotonic() - marked > cluster.bookmark_seconds:
                marked = time.monotonic()
                cluster.bookmarks += 1
                api_version, name = KINDS[kind]
                meta = {"resourceVersion": str(version), "creationTimestamp": None}
                yield {"type": "BOOKMARK", "object": {"kind": name, "apiVersion": api_version, "metadata": meta}}

    def _log(self, name: str, query: dict[str, str]) -> None:
        log = self.server.cluster.kubelet.log(name)
        self._begin("text/plain")
        left = int(query.get("limitBytes", 1 << 40))
        for chunk in log.read(follow=query.get("follow") == "true"):
            if left > 0 and chunk:
                self._chunk(chunk[:left])
            left -= len(chunk)
        self._chunk(b"")

    def _begin(self, media_type: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", media_type)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _chunk(self, content: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(content), content))

    def _send(self, status: int, answer: Object, *, retry_after: int | None = None) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if retry_after is not None:
            self.send_header("Retry-After", str(retry_after))
        self.end_headers()
        self.wfile.write(content)


def _event(change: Change, query: dict[str, str]) -> Object | None:
    """What one change is to a watch: an object that leaves the selection is gone for it."""
    labels, fields = query.get("labelSelector", ""), query.get("fieldSelector", "")
    was = change.before is not None and selects(change.before, labels, fields)
    made = change.after
    if made is not None and selects(made, labels, fields):
        return {"type": "MODIFIED" if was else "ADDED", "object": made}
    if not was:
        return None
    last = dict(change.before or {})
    last["metadata"] = {**last["metadata"], "resourceVersion": str(change.version)}
    return {"type": "DELETED", "object": last}
