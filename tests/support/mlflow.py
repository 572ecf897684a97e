"""A tracking server as MLflow's REST API describes it, in this process: strict, and it fails when told to."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

PREFIX = "/api/2.0/mlflow/"
STATES = ("RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED")


@dataclass
class Run:
    id: str
    experiment: str
    name: str
    tags: dict[str, str]
    status: str = "RUNNING"
    parameters: dict[str, str] = field(default_factory=dict)
    metrics: list[tuple[str, int, float]] = field(default_factory=list)


class Refused(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error_code": code, "message": message}


@dataclass
class Mlflow:
    """Attributes: answers_with: this status, in place of an answer; authorization: the header that calls must bring."""

    url: str = ""
    authorization: str = ""
    answers_with: int = 0
    hangs: threading.Event | None = None
    experiments: dict[str, str] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)

    def answer(self, path: str, body: Mapping[str, Any], query: Mapping[str, list[str]]) -> Mapping[str, Any]:
        match path:
            case "experiments/get-by-name":
                name = query["experiment_name"][0]
                if name not in self.experiments:
                    raise Refused(404, "RESOURCE_DOES_NOT_EXIST", f"Could not find experiment with name '{name}'")
                return {"experiment": {"experiment_id": self.experiments[name], "name": name}}
            case "experiments/create":
                self.experiments[body["name"]] = str(len(self.experiments) + 1)
                return {"experiment_id": self.experiments[body["name"]]}
            case "runs/search":
                key, _, value = body["filter"].removeprefix("tags.`").partition("` = '")
                found = [
                    run
                    for run in self.runs.values()
                    if run.experiment in body["experiment_ids"] and run.tags.get(key) == value.removesuffix("'")
                ]
                return {"runs": [{"info": {"run_id": run.id}} for run in found[: body["max_results"]]]} if found else {}
            case "runs/create":
                assert isinstance(body["start_time"], int)
                tags = {tag["key"]: tag["value"] for tag in body["tags"]}
                run = Run(f"run{len(self.runs)}", body["experiment_id"], body["run_name"], tags)
                self.runs[run.id] = run
                return {"run": {"info": {"run_id": run.id}}}
            case "runs/log-batch":
                self._log(self.runs[body["run_id"]], body)
                return {}
            case "runs/update":
                assert body["status"] in STATES
                self.runs[body["run_id"]].status = body["status"]
                return {"run_info": {}}
        raise Refused(404, "ENDPOINT_NOT_FOUND", path)

    def _log(self, run: Run, body: Mapping[str, Any]) -> None:
        metrics, parameters = body.get("metrics", []), body.get("params", [])
        if len(metrics) > 1000 or len(parameters) > 100:
            raise Refused(400, "INVALID_PARAMETER_VALUE", "too many in one batch")
        for one in metrics:
            assert isinstance(one["timestamp"], int)
            run.metrics.append((one["key"], one["step"], float(one["value"])))
        for one in parameters:
            if run.parameters.setdefault(one["key"], one["value"]) != one["value"]:
                raise Refused(400, "INVALID_PARAMETER_VALUE", f"{one['key']} cannot change")


class _Listening(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that does not wait for its answer is no fault."""


@contextmanager
def mlflow_server() -> Iterator[Mlflow]:
    server = Mlflow()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer({})

        def do_POST(self) -> None:
            self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _answer(self, body: Mapping[str, Any]) -> None:
            url = urlsplit(self.path)
            server.calls.append(url.path.removeprefix(PREFIX))
            if server.hangs is not None:
                server.hangs.wait()
            try:
                if server.answers_with:
                    raise Refused(server.answers_with, "DOWN", "told to")
                if self.headers.get("Authorization", "") != server.authorization:
                    raise Refused(401, "UNAUTHENTICATED", "who are you?")
                self._send(200, server.answer(url.path.removeprefix(PREFIX), body, parse_qs(url.query)))
            except Refused as refused:
                self._send(refused.status, refused.body)

        def _send(self, status: int, body: Mapping[str, Any]) -> None:
            text = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            if 300 <= status < 400:
                self.send_header("Location", "/elsewhere")
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: object) -> None:
            """Tests read `calls`."""

    with _Listening(("127.0.0.1", 0), Handler) as listening:
        server.url = f"http://127.0.0.1:{listening.server_port}"
        thread = threading.Thread(target=listening.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            if server.hangs is not None:
                server.hangs.set()
            listening.shutdown()
            thread.join()
