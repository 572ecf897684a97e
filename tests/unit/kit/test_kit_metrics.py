"""The catalogue, and metrics by room."""

import re

import pytest

from feinschliff.kit.catalogue import ALL, CATALOGUE
from feinschliff.kit.metrics import Metrics

UNITS = ("_total", "_seconds", "_bytes", "_tokens", "_jobs", "_requests", "_sequences", "_per_second")
THINGS = ("_in_flight", "_healthy", "jobs", "models", "versions", "runs", "deployments", "_bases", "_adapters")
THINGS += ("watchers", "workers", "slots", "slots_used", "_pending", "_step", "_steps", "_loss", "_rate", "_norm")
THINGS += ("_away", "_losses")


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_every_name_tells_its_owner_and_its_unit(name: str) -> None:
    spec = CATALOGUE[name]
    owners = "|".join((*ALL, "room"))
    assert re.fullmatch(rf"grpc_(server|client)_[a-z_]+|feinschliff_({owners})_[a-z_]+", name)
    assert (spec.kind == "counter") == name.endswith("_total")
    assert name.endswith((*UNITS, *THINGS))
    assert spec.help.endswith(".")
    assert (spec.kind == "histogram") == bool(spec.buckets)
    assert list(spec.buckets) == sorted(set(spec.buckets))
    assert not spec.starts or len(spec.labels) == 1


@pytest.mark.parametrize("room", ALL)
def test_every_room_has_its_own_and_the_shared_ones(room: str) -> None:
    text = _exposition(Metrics(room))
    assert "grpc_server_handled" in text
    others = [other for other in ALL if other != room]
    assert not [other for other in others if f"feinschliff_{other}_" in text]


def test_what_may_happen_is_there_before_it_happens() -> None:
    """A series that begins at 1 shows Prometheus no rise."""
    text = _exposition(Metrics("training"))
    assert 'feinschliff_training_jobs_finished_total{state="failed"} 0.0' in text
    assert 'feinschliff_training_job_seconds_count{state="failed"} 0.0' in text


def _exposition(metrics: Metrics) -> str:
    from prometheus_client import generate_latest

    return generate_latest(metrics.registry).decode()


def test_two_rooms_in_a_process_count_apart() -> None:
    one, two = Metrics("training"), Metrics("training")
    one.counter("feinschliff_training_steps_total").inc(3)
    assert one.value("feinschliff_training_steps_total") == 3
    assert two.value("feinschliff_training_steps_total") == 0


def test_what_is_not_declared_for_the_room_is_refused() -> None:
    metrics = Metrics("training")
    with pytest.raises(KeyError, match="training"):
        metrics.counter("feinschliff_ingestion_uploads_total")
    with pytest.raises(KeyError):
        metrics.counter("feinschliff_training_stpes_total")
    with pytest.raises(KeyError):
        metrics.gauge("feinschliff_training_steps_total")


def test_a_label_that_is_not_declared_is_refused() -> None:
    with pytest.raises(ValueError, match="label"):
        Metrics("training").gauge("feinschliff_training_jobs").labels(job="j")
