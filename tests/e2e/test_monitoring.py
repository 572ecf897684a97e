"""The flywheel turns under a real Prometheus: every query of every panel and rule is understood, and has numbers."""

from __future__ import annotations

import json
import math
import re
import time
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import grpc
import pytest

from deploy.monitoring.built import all_alerts, all_recorded
from deploy.monitoring.dashboards import DASHBOARDS
from deploy.monitoring.panels import Dashboard, Panel
from deploy.monitoring.rules import Alert, Recorded
from deploy.monitoring.scope import for_panels, for_rules, series_in
from feinschliff.v1 import evaluation_pb2, inference_pb2, ingestion_pb2, registry_pb2, training_pb2
from tests.e2e.test_flywheel import PARENT, chat_rows, deploy, evaluate
from tests.support.platform import Platform
from tests.support.prometheus import Prometheus
from tests.support.s3 import S3Server
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(300)
PANELS = [(dashboard, panel) for dashboard in DASHBOARDS for panel in dashboard.panels]
PROFILES = {"default": "local", "currency": "EUR", "profiles": [{"name": "local", "slots": 1, "price_per_hour": 2.5}]}
QUIET_SECONDS = 8  # after the work, so that rates over 10 s have seen it rise and rest


@dataclass(frozen=True)
class Watched:
    """A platform whose flywheel was turned once, and the Prometheus that watched."""

    prometheus: Prometheus
    seconds: float

    def series(self, query: str) -> list[list[float]]:
        """The numbers of each series over all the time; those that are none are left out."""
        found = self.prometheus.over_time(query)
        numbers = [[float(value) for _, value in one["values"]] for one in found]
        return [kept for one in numbers if (kept := [number for number in one if not math.isnan(number)])]

    def as_grafana_asks(self, query: str) -> str:
        """With every variable filled in; All is `.*`."""
        filled = for_panels(query)
        for name, value in (("__rate_interval", "10s"), ("__range", f"{math.ceil(self.seconds)}s")):
            filled = filled.replace(f"${name}", value)
        filled = re.sub(r"\$\w+", ".*", filled)
        assert "$" not in filled
        return filled


@pytest.fixture(scope="module")
def watched(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory, base: str) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    profiles = folder / "profiles.json"
    profiles.write_text(json.dumps(PROFILES), "utf-8")
    bucket = f"e2e-{uuid.uuid4().hex[:12]}"
    s3_server.store(bucket)
    platform = Platform(folder, s3_server, bucket, {"FEINSCHLIFF_TRAINING_PROFILES": str(profiles)})
    prometheus = Prometheus(folder / "prometheus", platform.metrics_ports)
    try:
        platform.start()
        prometheus.start()
        eventually(lambda: prometheus.healthy_targets() == len(platform.metrics_ports), 60, "all rooms scraped")
        turn(platform, base)
        time.sleep(QUIET_SECONDS)
        yield Watched(prometheus, time.time() - prometheus.started)
    finally:
        prometheus.stop()
        platform.stop()
        s3_server.drop_bucket(bucket)


def turn(platform: Platform, base: str) -> None:
    """All that leaves a trace in some metric: good and bad data, a job, evaluations, answers over gRPC and HTTP."""
    train = platform.push("seen", chat_rows(60), train_fraction=0.8, validation_fraction=0.2)
    test = platform.push("seen-test", chat_rows(12, first=1000), test_fraction=1.0)
    refuse_rows(platform)
    deploy(platform, base, "seen")
    job = platform.train(train.name, base, epochs=12, batch_size=4, learning_rate=2e-2).name
    watch(platform, job)
    done = platform.wait_job(job)
    assert done.state == training_pb2.TrainingJob.STATE_SUCCEEDED, done.failure
    measured = compare(platform, test.name, base, done.model_version)
    decide(platform, measured, done.model_version)
    release(platform, done.model_version, train.name)
    for _ in range(2):  # Prometheus sees no rise in a series that it first sees at 1
        over_http(base, platform.gateway_url)
        time.sleep(2)


def refuse_rows(platform: Platform) -> None:
    with pytest.raises(grpc.RpcError):
        platform.push("bad", chat_rows(12) + b'{"messages": [{"role": "user", "content": "hi"}]}\n')


def watch(platform: Platform, job: str) -> None:
    request = training_pb2.WatchTrainingJobRequest(name=job)
    for _ in platform.training.WatchTrainingJob(request, timeout=120):
        pass


def compare(platform: Platform, dataset_version: str, base: str, tuned: str) -> str:
    """The eval's name."""
    grader = evaluation_pb2.Grader(
        name="exact",
        string_check=evaluation_pb2.StringCheckGrader(
            input="{{sample.output_text}}",
            reference="{{item.completion}}",
            operation=evaluation_pb2.StringCheckGrader.OPERATION_EQ,
        ),
    )
    wanted = evaluation_pb2.Eval(dataset_version=dataset_version, graders=[grader])
    name = platform.evaluation.CreateEval(evaluation_pb2.CreateEvalRequest(parent=PARENT, eval=wanted)).name
    before, after = evaluate(platform, name, base), evaluate(platform, name, tuned)
    request = evaluation_pb2.CompareRunsRequest(baseline=before.name, candidate=after.name)
    assert platform.evaluation.CompareRuns(request).n == 12
    return name


def decide(platform: Platform, eval_name: str, version: str) -> None:
    bound = evaluation_pb2.BoundDemand(latency_p95_seconds_max=60)
    policy = evaluation_pb2.GatePolicy(rules=[evaluation_pb2.GateRule(id="quick", eval=eval_name, bound=bound)])
    gate = platform.evaluation.CreateGatePolicy(
        evaluation_pb2.CreateGatePolicyRequest(parent=PARENT, gate_policy=policy)
    )
    request = evaluation_pb2.EvaluateGateRequest(gate_policy=gate.name, candidate=version)
    name = platform.evaluation.EvaluateGate(request).name

    def is_over() -> bool:
        verdict = platform.evaluation.GetVerdict(evaluation_pb2.GetVerdictRequest(name=name))
        return verdict.state != evaluation_pb2.Verdict.STATE_RUNNING

    eventually(is_over, 60, "the verdict")


def release(platform: Platform, version: str, dataset_version: str) -> None:
    model = version.split("/versions/")[0]
    alias = registry_pb2.SetAliasRequest(
        alias=registry_pb2.Alias(name=f"{model}/aliases/production", model_version=version)
    )
    platform.registry.SetAlias(alias)
    platform.registry.GetLineage(registry_pb2.GetLineageRequest(name=dataset_version))
    list(platform.datasets.ReadRows(ingestion_pb2.ReadRowsRequest(name=dataset_version)))
    platform.deployments.ListDeployments(inference_pb2.ListDeploymentsRequest(parent=PARENT))


def over_http(base: str, url: str) -> None:
    """A file and a streamed answer, as the OpenAI client sends them."""
    body = {"model": base, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8, "stream": True}
    ask(f"{url}/chat/completions", json.dumps(body).encode(), "application/json")
    ask(f"{url}/models", None, "")
    edge = uuid.uuid4().hex
    parts = [
        f'--{edge}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'.encode(),
        f'--{edge}\r\nContent-Disposition: form-data; name="file"; filename="rows.jsonl"\r\n\r\n'.encode(),
        chat_rows(20),
        f"\r\n--{edge}--\r\n".encode(),
    ]
    ask(f"{url}/files", b"".join(parts), f"multipart/form-data; boundary={edge}")


def ask(url: str, body: bytes | None, content_type: str) -> None:
    headers = {"Authorization": "Bearer any", "Content-Type": content_type}
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=60) as answer:
        assert answer.read()


@pytest.mark.parametrize(("dashboard", "panel"), PANELS, ids=[f"{d.uid}: {p.title}" for d, p in PANELS])
def test_a_panel_shows_what_it_promises(watched: Watched, dashboard: Dashboard, panel: Panel) -> None:
    for query in panel.queries:
        found = watched.series(watched.as_grafana_asks(query.expr))
        if panel.silent:
            assert not found, f"has numbers after all, although it {panel.silent}"
        else:
            assert found, query.expr


@pytest.mark.parametrize("recorded", all_recorded(), ids=lambda one: " ".join([one.name, *one.labels.values()]))
def test_a_recorded_series_is_recorded(watched: Watched, recorded: Recorded) -> None:
    chosen = ",".join(f'{label}="{value}"' for label, value in recorded.labels.items())
    found = watched.series(f"{recorded.name}{{{chosen}}}")
    assert bool(found) != bool(recorded.silent), recorded.expr


@pytest.mark.parametrize("alert", all_alerts(), ids=lambda one: " ".join([one.name, *one.labels.values()]))
def test_an_alert_is_understood_and_looks_at_what_is_there(watched: Watched, alert: Alert) -> None:
    """A misspelt series would never fire, and nobody would know."""
    watched.series(for_rules(alert.expr))
    missing = series_in(alert.expr) - watched.prometheus.names()
    assert bool(missing) == bool(alert.silent), missing


def test_prometheus_takes_every_rule_and_nobody_is_alarmed(watched: Watched) -> None:
    rules = watched.prometheus.rules()
    assert len(rules) == len(all_alerts()) + len(all_recorded())
    assert {rule["health"] for rule in rules} == {"ok"}, [rule for rule in rules if rule["health"] != "ok"]
    assert not [rule["name"] for rule in rules if rule.get("state") == "firing"]


def test_legends_name_labels_that_are_there(watched: Watched) -> None:
    for _, panel in PANELS:
        for query in panel.queries if not panel.silent else ():
            wanted = set(re.findall(r"{{(\w+)}}", query.legend))
            for one in watched.prometheus.over_time(watched.as_grafana_asks(query.expr)):
                assert wanted <= one["metric"].keys(), (panel.title, query.legend, one["metric"])


def test_every_variable_has_values_to_choose_from(watched: Watched) -> None:
    for dashboard in DASHBOARDS:
        for variable in dashboard.variables:
            found = watched.prometheus.over_time(f'{variable.series}{{namespace=~".*"}}')
            assert {one["metric"].get(variable.values_of) for one in found} - {None}, (dashboard.uid, variable.name)
