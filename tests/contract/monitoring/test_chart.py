"""What the chart makes of rules and dashboards."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from deploy.monitoring.scope import RULES_NAMESPACE
from tests.support.helm import CHART, NAMESPACE, RELEASE, find, render

KINDS = ("ServiceMonitor", "PrometheusRule")
EVERYTHING: dict[str, Any] = {
    "monitoring": {
        "serviceMonitor": {"enabled": True, "labels": {"release": "watcher"}},
        "rules": {"enabled": True, "labels": {"release": "watcher"}},
        "dashboards": {"enabled": True, "annotations": {"team": "ml"}},
    }
}


def boards(values: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for one in render(values) if one["kind"] == "ConfigMap" and "-dashboard-" in one["metadata"]["name"]]


def test_nothing_of_it_is_there_unless_asked_for() -> None:
    assert not [one for one in render() if one["kind"] in KINDS]
    assert not boards({})


def test_every_dashboard_arrives_whole_where_the_sidecar_finds_it() -> None:
    shipped = {path.name: json.loads(path.read_text("utf-8")) for path in (CHART / "dashboards").iterdir()}
    arrived = {}
    for board in boards(EVERYTHING):
        assert board["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert board["metadata"]["annotations"]["team"] == "ml"
        arrived |= {name: json.loads(text) for name, text in board["data"].items()}
    assert arrived == shipped


def test_rules_are_about_the_releases_own_namespace_and_keep_prometheus_braces() -> None:
    rules = [one for one in render(EVERYTHING) if one["kind"] == "PrometheusRule"]
    assert len(rules) == len(list((CHART / "rules").iterdir()))
    for rule in rules:
        assert rule["metadata"]["labels"]["release"] == "watcher"
        name = rule["metadata"]["name"].rsplit("-", 1)[-1]
        shipped = (CHART / "rules" / f"{name}.yaml").read_text("utf-8")
        moved = shipped.replace(f'namespace="{RULES_NAMESPACE}"', f'namespace="{NAMESPACE}"')
        assert rule["spec"] == yaml.safe_load(moved)
        assert f'namespace="{RULES_NAMESPACE}"' not in json.dumps(rule)


@pytest.mark.parametrize("mode", ["services", "compact"])
def test_the_monitor_finds_one_metrics_port_of_each_room(mode: str) -> None:
    manifests = render({**EVERYTHING, "mode": mode})
    monitor = find(manifests, "ServiceMonitor")
    assert monitor["metadata"]["labels"]["release"] == "watcher"
    wanted = monitor["spec"]["selector"]["matchLabels"]
    assert wanted["app.kubernetes.io/instance"] == RELEASE
    ports = {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]}
    found = [
        one["metadata"]["labels"][monitor["spec"]["jobLabel"]]
        for one in manifests
        if one["kind"] == "Service"
        and wanted.items() <= one["metadata"]["labels"].items()
        and ports & {port.get("name") for port in one["spec"]["ports"]}
    ]
    assert sorted(found) == ["evaluation", "gateway", "inference", "ingestion", "registry", "training"]
