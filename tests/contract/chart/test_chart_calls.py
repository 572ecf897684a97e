"""Who may call whom follows the code: each call that a room makes gets through, and no other; addresses lead to it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.support.chart_objects import environment, matches, of_kind, pods
from tests.support.chart_settings import ADDRESSED
from tests.support.chart_wiring import allowed
from tests.support.helm import NAMESPACE, ROOT, SETS, Manifest, find, render

SOURCES = ROOT / "services" / "feinschliff"
DATABASE, STORE = "postgresql", "s3"
LOOPBACK = re.compile(r"^(127\.0\.0\.1|\[::1\]):(\d+)$")
AT_SERVICE = re.compile(rf"^check-feinschliff-(\w+)-headless\.{NAMESPACE}\.svc:(\d+)$")


def calls_in_code(room: str) -> Iterator[tuple[str, str]]:
    text = "".join(path.read_text("utf-8") for path in (SOURCES / room).rglob("*.py"))
    called = set(re.findall(r"settings\.(\w+)_address\b", text)) - {room}
    yield from ((room, other) for other in called)
    if "database_url_for" in text:
        yield room, DATABASE
    if re.search(r"artifacts(\.connect|\.s3) import", text) and room != "trainer":
        yield room, STORE


def test_the_policies_let_through_what_the_code_calls_and_nothing_else() -> None:
    expected = {call for room in (*ADDRESSED, "gateway") for call in calls_in_code(room)}
    hooks = {("migrate", DATABASE), ("test", "gateway"), ("test", "training"), ("test", "inference")}
    assert allowed(render(name="minimal")) == expected | hooks


def test_a_trainer_reaches_training_and_the_store_alone() -> None:
    spec = find(render(name="minimal"), "NetworkPolicy", "-trainer")["spec"]
    assert spec["ingress"] == []
    reached = [
        peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
        for rule in spec["egress"]
        for peer in rule.get("to", [])
    ]
    assert sorted(reached) == ["minio", "training"]
    assert [*calls_in_code("trainer")] == [("trainer", "training")]


@pytest.mark.parametrize(("name", "pod"), [("minimal", "trainer"), ("process", "training")])
def test_trackers_are_reached_from_where_training_runs_and_from_nowhere_else(name: str, pod: str) -> None:
    rule = {"to": [{"ipBlock": {"cidr": "10.9.0.0/16"}}], "ports": [{"port": 5000}]}
    policies = of_kind(render({"networkPolicy": {"trackers": [rule]}}, name=name), "NetworkPolicy")
    reaching = [one["metadata"]["name"] for one in policies if rule in one["spec"].get("egress", [])]
    assert reaching == [f"check-feinschliff-{pod}"]


@pytest.mark.parametrize(("name", "pod"), [("minimal", "evaluation"), ("compact", "control")])
def test_judges_outside_are_reached_from_evaluation_alone_with_keys_from_its_secret(name: str, pod: str) -> None:
    rule = {"to": [{"ipBlock": {"cidr": "10.9.0.0/16"}}], "ports": [{"port": 443}]}
    secret = {"existingSecret": "judges", "judgesKey": "j"}
    manifests = render({"networkPolicy": {"graders": [rule]}, "evaluation": {"graders": secret}}, name=name)
    policies = of_kind(manifests, "NetworkPolicy")
    reaching = [one["metadata"]["name"] for one in policies if rule in one["spec"].get("egress", [])]
    assert reaching == [f"check-feinschliff-{pod}"]
    held = {
        variable["name"]: variable["valueFrom"]["secretKeyRef"]
        for container in find(manifests, "Deployment", f"-{pod}")["spec"]["template"]["spec"]["containers"]
        for variable in container["env"]
        if variable.get("valueFrom", {}).get("secretKeyRef", {}).get("name") == "judges"
    }
    assert held == {"FEINSCHLIFF_EVALUATION_JUDGES": {"name": "judges", "key": "j"}}


def test_in_one_pod_rooms_call_each_other_and_inference_calls_in() -> None:
    reached = allowed(render(name="compact"))
    assert {
        ("control", "inference"),
        ("inference", "registry"),
        ("control", "training"),
        ("test", "gateway"),
    } <= reached
    assert not {call for call in reached if call[0] == "migrate" and call[1] != DATABASE}


@pytest.mark.parametrize("name", SETS)
def test_every_address_leads_to_a_port_of_a_pod_that_answers_for_the_room(name: str) -> None:
    manifests = render(name=name)
    for pod in pods(manifests):
        for variable, value in environment(pod, manifests).items():
            room = variable.removeprefix("FEINSCHLIFF_").removesuffix("_ADDRESS").lower()
            if not variable.endswith("_ADDRESS"):
                continue
            if inside := LOOPBACK.match(value):
                assert pod.ports[room] == int(inside[2]), (pod.where, variable, value)
                continue
            found = AT_SERVICE.match(value)
            assert found, (pod.where, variable, value)
            assert found[1] == room
            assert int(found[2]) in served(manifests, f"-{room}-headless"), (pod.where, variable, value)


def served(manifests: list[Manifest], service: str) -> set[int]:
    """Ports that a Service leads to on the pods that it finds."""
    spec = find(manifests, "Service", service)["spec"]
    found = [pod for pod in pods(manifests) if matches(spec["selector"], pod.labels)]
    return {
        port["port"] for port in spec["ports"] for pod in found if pod.ports.get(port["targetPort"]) == port["port"]
    }


def test_trainers_of_a_cluster_never_get_a_loopback_address() -> None:
    manifests = render(name="compact")
    pod = next(pod for pod in pods(manifests) if pod.component == "control")
    assert AT_SERVICE.match(environment(pod, manifests)["FEINSCHLIFF_TRAINING_ADDRESS"])


def test_only_training_reaches_the_api_server_and_nothing_leaves_in_offline_mode() -> None:
    manifests = render({"settings": {"offline": True}})
    outside = {
        one["metadata"]["name"].removeprefix("check-feinschliff-"): sorted(port["port"] for port in rule["ports"])
        for one in of_kind(manifests, "NetworkPolicy")
        for rule in one["spec"]["egress"]
        if "to" not in rule and 53 not in [port["port"] for port in rule["ports"]]
    }
    assert outside == {"training": [443, 6443]}


def test_named_networks_are_the_only_ones_outside() -> None:
    manifests = render({"settings": {"offline": True}}, name="external")
    blocks = {
        (one["metadata"]["name"].removeprefix("check-feinschliff-"), peer["ipBlock"]["cidr"], rule["ports"][0]["port"])
        for one in of_kind(manifests, "NetworkPolicy")
        for rule in one["spec"]["egress"]
        for peer in rule.get("to", [])
        if "ipBlock" in peer
    }
    assert ("training", "10.0.0.1/32", 6443) in blocks
    assert {port for _, cidr, port in blocks if cidr == "10.20.0.0/16"} == {5433, 9443}
    assert {pod for pod, cidr, port in blocks if port == 9443} == {
        "ingestion", "training", "registry", "inference", "migrate", "trainer",
    }  # fmt: skip


def test_everyone_may_reach_the_gateway_unless_clients_are_named() -> None:
    def doors(name: str) -> list[object]:
        rules = find(render(name=name), "NetworkPolicy", "-gateway")["spec"]["ingress"]
        return [rule.get("from", "everyone") for rule in rules if rule["ports"][0]["port"] == 8080]

    assert doors("minimal") == ["everyone"]
    (named,) = doors("production")
    assert {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress-nginx"}}} in list(named)  # type: ignore[call-overload]
