"""A real Prometheus on loopback: scrapes the platform each second, by the rules of the chart."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from deploy.monitoring.scope import RULES_NAMESPACE
from tests.support.ports import free_port
from tests.support.tools import tool
from tests.support.waiting import eventually

RULES = Path(__file__).parents[2] / "charts" / "feinschliff" / "rules"


@dataclass
class Prometheus:
    """`targets`: metrics port by room. Every series gets the namespace that the built rules are about."""

    folder: Path
    targets: Mapping[str, int]
    port: int = field(default_factory=free_port)
    started: float = field(default_factory=time.time)
    _running: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "prometheus.yml"
        config.write_text(yaml.safe_dump(self._config()), "utf-8")
        with (self.folder / "log").open("wb") as log:
            self._running = subprocess.Popen(
                [
                    str(tool("prometheus")),
                    f"--config.file={config}",
                    f"--storage.tsdb.path={self.folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                    "--log.level=warn",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.started = time.time()
        eventually(self._is_ready, 30, "Prometheus ready")

    def stop(self) -> None:
        if self._running is not None:
            self._running.kill()
            self._running.wait()

    def over_time(self, query: str) -> list[Mapping[str, Any]]:
        """The query's series from the start until now, as Grafana asks for them; refused ones fail the test."""
        wanted = {"query": query, "start": f"{self.started:.3f}", "end": f"{time.time():.3f}", "step": "1"}
        data = self._get("query_range", wanted)
        result: list[Mapping[str, Any]] = data["result"]
        return result

    def names(self) -> set[str]:
        """Names of all series that there are or were."""
        return set(self._get("label/__name__/values", {}))

    def rules(self) -> Sequence[Mapping[str, Any]]:
        """All rules as Prometheus sees them, with their health and last error."""
        return [rule for group in self._get("rules", {})["groups"] for rule in group["rules"]]

    def healthy_targets(self) -> int:
        return sum(target["health"] == "up" for target in self._get("targets", {})["activeTargets"])

    def _config(self) -> dict[str, Any]:
        jobs = [
            {
                "job_name": room,
                "static_configs": [{"targets": [f"127.0.0.1:{port}"], "labels": {"namespace": RULES_NAMESPACE}}],
            }
            for room, port in self.targets.items()
        ]
        return {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(RULES / "*.yaml")],
            "scrape_configs": jobs,
        }

    def _is_ready(self) -> bool:
        assert self._running is not None
        assert self._running.poll() is None, (self.folder / "log").read_text("utf-8", "replace")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _get(self, path: str, query: Mapping[str, str]) -> Any:
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{query}: {json.load(error)['error']}") from None
