"""Every call is promised something, and every alert says what to do."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest
from google.protobuf.descriptor import FileDescriptor

from deploy.monitoring.alerts import ROOMS
from deploy.monitoring.built import all_alerts, annotations_of
from deploy.monitoring.rules import Alert
from deploy.monitoring.slo import CLASSES, METHODS, class_of, methods_of
from feinschliff.kit.catalogue import ALL, CATALOGUE

ROOT = Path(__file__).parents[3]
PROTOS = sorted((ROOT / "protos" / "feinschliff" / "v1").glob("*.proto"))
RUNBOOK = ROOT / "docs" / "runbook.md"

ALERTS = {alert.name: alert for alert in all_alerts()}
every_alert = pytest.mark.parametrize("alert", ALERTS.values(), ids=ALERTS)


def calls() -> list[tuple[str, str]]:
    """Service and method of every call of the API."""
    modules = [import_module(f"feinschliff.v1.{path.stem}_pb2") for path in PROTOS]
    files: list[FileDescriptor] = [module.DESCRIPTOR for module in modules]
    services = [service for file in files for service in file.services_by_name.values()]
    return [(service.full_name, method.name) for service in services for method in service.methods]


@pytest.mark.parametrize(("service", "method"), calls())
def test_every_call_has_a_class(service: str, method: str) -> None:
    assert class_of(service, method) in CLASSES, f"put {method} of {service} into a class in deploy/monitoring/slo.py"


def test_every_class_is_of_calls_that_exist() -> None:
    listed = {
        (service, method)
        for service, classes in METHODS.items()
        for methods in classes.values()
        for method in methods.split()
    }
    assert listed == {(service.rsplit(".", 1)[-1], method) for service, method in calls()}


def test_a_method_is_in_one_class_whatever_its_service() -> None:
    """Rules choose by the method's name alone."""
    names = [method for name in CLASSES for method in methods_of(name)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_a_promise_can_be_measured(name: str) -> None:
    one = CLASSES[name]
    assert 0.9 < one.available < 1
    assert methods_of(name)
    if one.latency is not None:
        assert one.latency.seconds in CATALOGUE[one.latency.histogram].buckets
        assert 0.9 <= one.latency.share < 1


def test_streams_that_stand_are_promised_no_latency() -> None:
    assert not [name for name in ("watch", "stream", "upload") if CLASSES[name].latency]
    assert {class_of(service, method) for service, method in calls() if method.startswith("Watch")} == {"watch"}


def test_every_room_is_missed() -> None:
    assert set(ROOMS) == set(ALL)


@every_alert
def test_an_alert_has_its_page_in_the_runbook(alert: Alert) -> None:
    headings = re.findall(r"^## (\w+)$", RUNBOOK.read_text("utf-8"), re.MULTILINE)
    assert alert.name in headings, f"docs/runbook.md needs `## {alert.name}`"
    assert annotations_of(alert)["runbook"] == f"docs/runbook.md#{alert.name.lower()}"


def test_the_runbook_has_no_page_of_an_alert_that_is_gone() -> None:
    headings = re.findall(r"^## (\w+)$", RUNBOOK.read_text("utf-8"), re.MULTILINE)
    assert set(headings) == set(ALERTS)


@every_alert
def test_a_page_says_what_it_means_what_to_look_at_and_what_to_do(alert: Alert) -> None:
    page = RUNBOOK.read_text("utf-8").split(f"## {alert.name}\n")[1].split("\n## ")[0]
    assert [word for word in ("**Means**", "**Look**", "**Do**") if word not in page] == []
