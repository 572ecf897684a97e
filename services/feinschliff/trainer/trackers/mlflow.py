"""MLflow's tracking server, by its REST API: https://mlflow.org/docs/latest/rest-api.html

A few calls do it, so that the trainer needs no package for it and none of its retries.
"""

from __future__ import annotations

import base64
import json
import math
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from feinschliff.formats.recipe import Mlflow as Settings
from feinschliff.kit.addresses import is_inside
from feinschliff.trainer.trackers.tracker import Ending, Point, Run, TrackerRefused, flat, secret

CALL_SECONDS = 10.0
JOB_TAG = "feinschliff.job_id"
METRICS_PER_CALL, PARAMETERS_PER_CALL = 1000, 100  # limits of runs/log-batch
VALUE_CHARS_MAX = 500  # of a parameter; what older servers take
_STATUS = {Ending.FINISHED: "FINISHED", Ending.FAILED: "FAILED", Ending.CANCELLED: "KILLED"}


class Mlflow:
    """One run of an experiment, found again by a tag with the job's id; see `tracker.Tracker`.

    A secret holds `username` and `password`, or `token`, and `host`, the one host that it may be sent to: the address
    comes with the job, the secret belongs to the installation.
    """

    def __init__(self, settings: Settings, run: Run, *, secrets: Path, offline: bool) -> None:
        self._settings = settings
        self._run = run
        self._secrets = secrets
        self._offline = offline
        self._run_id = ""
        self._header = ""

    def open(self) -> None:
        if self._run_id:
            return
        refuse_address(self._settings.tracking_uri, offline=self._offline)
        self._header = self._authorization()
        experiment = self._experiment()
        asked = {
            "experiment_ids": [experiment],
            "filter": f"tags.`{JOB_TAG}` = '{self._run.id}'",
            "max_results": 1,
        }
        found = self._post("runs/search", asked).get("runs", [])
        if found:
            self._run_id = str(found[0]["info"]["run_id"])
            self._post("runs/update", {"run_id": self._run_id, "status": "RUNNING"})
        else:
            self._run_id = self._create(experiment)

    def log(self, points: Sequence[Point]) -> None:
        metrics = [
            {"key": name, "value": value, "timestamp": int(point.time * 1000), "step": point.step}
            for point in points
            for name, value in point.values.items()
            if math.isfinite(value)
        ]
        for start in range(0, len(metrics), METRICS_PER_CALL):
            batch = metrics[start : start + METRICS_PER_CALL]
            self._post("runs/log-batch", {"run_id": self._run_id, "metrics": batch})

    def close(self, ending: Ending) -> None:
        """An attempt that will be resumed leaves its run RUNNING."""
        if ending in _STATUS:
            ended = {"run_id": self._run_id, "status": _STATUS[ending], "end_time": _now()}
            self._post("runs/update", ended)

    def abandon(self) -> None:
        """Nothing runs but the caller's own thread, whose calls have deadlines."""

    def _experiment(self) -> str:
        name = self._settings.experiment
        try:
            found = self._get(f"experiments/get-by-name?experiment_name={quote(name, safe='')}")
            return str(found["experiment"]["experiment_id"])
        except _NotFound:
            return str(self._post("experiments/create", {"name": name})["experiment_id"])

    def _create(self, experiment: str) -> str:
        tags = {
            "mlflow.runName": self._run.name,
            "mlflow.source.name": "feinschliff",
            JOB_TAG: self._run.id,
            "feinschliff.job": self._run.job,
            "feinschliff.base_model": self._run.base_model,
        }
        wanted = {
            "experiment_id": experiment,
            "run_name": self._run.name,
            "start_time": _now(),
            "tags": [{"key": key, "value": value} for key, value in tags.items()],
        }
        run_id = str(self._post("runs/create", wanted)["run"]["info"]["run_id"])
        parameters = [
            {"key": key, "value": value[:VALUE_CHARS_MAX]} for key, value in flat(self._run.parameters) if value
        ]
        for start in range(0, len(parameters), PARAMETERS_PER_CALL):
            batch = parameters[start : start + PARAMETERS_PER_CALL]
            self._post("runs/log-batch", {"run_id": run_id, "params": batch})
        return run_id

    def _authorization(self) -> str:
        name = self._settings.credentials_secret
        if not name:
            return ""
        kept, host = secret(self._secrets, name), urlsplit(self._settings.tracking_uri).hostname
        if kept.get("host") != host:
            raise TrackerRefused(f"the secret {name!r} is for the host {kept.get('host')!r}, not for {host!r}")
        if "token" in kept:
            return f"Bearer {kept['token']}"
        pair = f"{kept.get('username', '')}:{kept.get('password', '')}"
        return f"Basic {base64.b64encode(pair.encode()).decode()}"

    def _get(self, path: str) -> dict[str, Any]:
        return self._call(path, None)

    def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return self._call(path, json.dumps(body).encode())

    def _call(self, path: str, body: bytes | None) -> dict[str, Any]:
        url = f"{self._settings.tracking_uri.rstrip('/')}/api/2.0/mlflow/{path}"
        headers = {"Content-Type": "application/json"} | ({"Authorization": self._header} if self._header else {})
        request = urllib.request.Request(url, body, headers)
        try:
            with _OPENER.open(request, timeout=CALL_SECONDS) as answer:
                said: dict[str, Any] = json.loads(answer.read() or b"{}")
                return said
        except urllib.error.HTTPError as error:
            raise _refusal(error, path) from None


class _NotFound(Exception):
    """There is no such thing on the server."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A password does not follow wherever an address points."""

    def redirect_request(self, *arguments: Any, **more: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


def refuse_address(uri: str, *, offline: bool) -> None:
    """
    Raises:
        TrackerRefused: it is no address of a server, or one outside while nothing may leave the installation.
    """
    if urlsplit(uri).scheme not in ("http", "https") or not urlsplit(uri).hostname:
        raise TrackerRefused(f"{uri!r} is no http or https address of a tracking server")
    if offline and not is_inside(uri):
        raise TrackerRefused(f"{uri!r} is outside, and this installation is offline")


def _refusal(error: urllib.error.HTTPError, path: str) -> Exception:
    text = error.read()[:500].decode(errors="replace")
    if error.code == 404 and "RESOURCE_DOES_NOT_EXIST" in text:
        return _NotFound(text)
    said = f"{path.partition('?')[0]} was answered with {error.code}: {text}"
    if 300 <= error.code < 500 and error.code not in (408, 409, 429):
        return TrackerRefused(said)
    return OSError(said)


def _now() -> int:
    """Milliseconds since 1970."""
    return int(time.time() * 1000)
