"""Alerts fire when they should and stay silent when they should, by the real promtool."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.monitoring.built import all_alerts, annotations_of, rules
from deploy.monitoring.rules import Alert
from deploy.monitoring.scope import series_in
from tests.contract.monitoring.cases import PLATFORM, PROMISES, Case, Series
from tests.contract.monitoring.cases_work import WORK
from tests.support.tools import tool

RULES = Path(__file__).parents[3] / "charts" / "feinschliff" / "rules"
CASES = (*PLATFORM, *PROMISES, *WORK)
GROUPS = [group.name for groups in rules().values() for group in groups]


def promtool(*arguments: str) -> str:
    """Its complaints; empty where it is content."""
    done = subprocess.run([str(tool("promtool")), *arguments], capture_output=True, text=True, timeout=60)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_every_alert_has_a_case() -> None:
    assert {case.alert for case in CASES} == {alert.name for alert in all_alerts()}


@pytest.mark.parametrize("name", sorted(path.name for path in RULES.iterdir()))
def test_promtool_takes_the_rules(name: str) -> None:
    assert not promtool("check", "rules", "--lint=all", "--lint-fatal", str(RULES / name))


@pytest.mark.parametrize("case", CASES, ids=[f"{case.alert} {case.labels.get('class', '')}".strip() for case in CASES])
def test_an_alert_fires_and_stays_silent(case: Case, tmp_path: Path) -> None:
    alert = next(alert for alert in all_alerts() if alert.name == case.alert)
    path = tmp_path / "case.test.yaml"
    path.write_text(yaml.safe_dump(_page(case, alert, _needed(alert, tmp_path))), "utf-8")
    assert not promtool("test", "rules", str(path))


def test_a_case_can_fail(tmp_path: Path) -> None:
    """Firing where silence is promised is found out, and so is another text."""
    case = next(case for case in CASES if case.alert == "DeploymentsFailed")
    alert = next(alert for alert in all_alerts() if alert.name == case.alert)
    path = tmp_path / "case.test.yaml"
    firing = replace(case, calm=(case.fires,))
    says_else = replace(case, says="All is well.")
    for wrong in (firing, says_else):
        path.write_text(yaml.safe_dump(_page(wrong, alert, _needed(alert, tmp_path))), "utf-8")
        assert "FAILED" in promtool("test", "rules", str(path))


def _needed(alert: Alert, folder: Path) -> Path:
    """A file of the alert and of what it reads, as they stand in the chart: promtool works out each for each minute."""
    pages = [yaml.safe_load(path.read_text("utf-8")) for path in RULES.iterdir()]
    groups = [group for page in pages for group in page["groups"]]
    recorded = [rule for group in groups for rule in group["rules"] if "record" in rule]
    wanted, waiting = {alert.name}, [alert.expr]
    while waiting:
        found = series_in(waiting.pop()) - wanted
        wanted |= found
        waiting += [rule["expr"] for rule in recorded if rule["record"] in found]
    for group in groups:
        group["rules"] = [rule for rule in group["rules"] if (rule.get("record") or rule["alert"]) in wanted]
    path = folder / "needed.yaml"
    path.write_text(yaml.safe_dump({"groups": [group for group in groups if group["rules"]]}), "utf-8")
    return path


def _page(case: Case, alert: Alert, needed: Path) -> dict[str, Any]:
    expected = {
        "exp_labels": {"namespace": "feinschliff", "severity": alert.severity, **case.labels},
        "exp_annotations": {**annotations_of(alert), "summary": case.says},
    }
    calm = [_test(case.after, case.alert, one, []) for one in case.calm]
    return {
        "rule_files": [str(needed)],
        "evaluation_interval": "1m",
        "group_eval_order": GROUPS,
        "tests": [_test(case.after, case.alert, case.fires, [expected]), *calm],
    }


def _test(after: str, alert: str, series: Series, expected: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [{"eval_time": after, "alertname": alert, "exp_alerts": expected}],
    }
