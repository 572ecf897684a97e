"""The files that the chart ships, as texts by path below charts/feinschliff."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import yaml

from deploy.monitoring import alerts, recording
from deploy.monitoring.dashboards import DASHBOARDS
from deploy.monitoring.grafana import to_json
from deploy.monitoring.rules import Alert, Group, Recorded
from deploy.monitoring.scope import for_rules

RUNBOOK = "docs/runbook.md"
HEAD = "# Built by `python -m deploy.monitoring`; change the code there. The chart fills in the release's namespace.\n"


def files() -> Mapping[str, str]:
    dashboards = {f"dashboards/{one.uid}.json": json.dumps(to_json(one), indent=1) + "\n" for one in DASHBOARDS}
    return {**dashboards, **{f"rules/{name}.yaml": _yaml(groups) for name, groups in rules().items()}}


def rules() -> Mapping[str, list[Group]]:
    """All groups of rules, by file."""
    return {"recording": [recording.rooms(), recording.objectives()], "alerts": alerts.groups()}


def all_alerts() -> list[Alert]:
    return [alert for groups in rules().values() for group in groups for alert in group.alerts]


def all_recorded() -> list[Recorded]:
    return [one for groups in rules().values() for group in groups for one in group.recorded]


def annotations_of(alert: Alert) -> dict[str, str]:
    return {"summary": alert.says, "description": alert.means, "runbook": f"{RUNBOOK}#{alert.name.lower()}"}


def _yaml(groups: list[Group]) -> str:
    content = {"groups": [{"name": group.name, "rules": [_rule(rule) for rule in group.rules]} for group in groups]}
    return HEAD + yaml.safe_dump(content, sort_keys=False, width=10**6)


def _rule(rule: Recorded | Alert) -> dict[str, Any]:
    expr = for_rules(rule.expr)
    if isinstance(rule, Recorded):
        labels = {"labels": dict(rule.labels)} if rule.labels else {}
        return {"record": rule.name, "expr": expr, **labels}
    return {
        "alert": rule.name,
        "expr": expr,
        "for": rule.lasting,
        "labels": {"severity": rule.severity, **rule.labels},
        "annotations": annotations_of(rule),
    }
