"""Trace context, clocks, and what counts as the same request."""

from datetime import UTC, datetime, timedelta

import pytest

from feinschliff.kit.client import service_config
from feinschliff.kit.clock import ManualClock, SystemClock
from feinschliff.kit.idempotency import digest_of
from feinschliff.kit.tracing import Trace, new_trace, parse_traceparent
from tests.unit.kit.messages import message

HEADER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_traceparent_is_read_and_written_back() -> None:
    trace = parse_traceparent(HEADER)
    assert trace == Trace("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", sampled=True)
    assert trace is not None
    assert trace.header() == HEADER


def test_a_newer_version_with_more_in_it_is_read() -> None:
    assert parse_traceparent("01" + HEADER[2:] + "-more") is not None


@pytest.mark.parametrize(
    "header",
    [
        "",
        "nonsense",
        HEADER.upper(),
        HEADER + "-more",
        "ff" + HEADER[2:],
        "00-" + "0" * 32 + "-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-" + "0" * 16 + "-01",
        HEADER[:-1],
    ],
)
def test_a_header_that_breaks_the_standard_is_ignored(header: str) -> None:
    assert parse_traceparent(header) is None


def test_a_child_keeps_the_trace_and_gets_its_own_span() -> None:
    trace = new_trace()
    child = trace.child()
    assert child.trace_id == trace.trace_id
    assert child.span_id != trace.span_id
    assert parse_traceparent(child.header()) == child


def test_the_manual_clock_moves_only_when_told() -> None:
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    before = (clock.now(), clock.monotonic())
    assert (clock.now(), clock.monotonic()) == before
    clock.advance(2.5)
    assert clock.now() - before[0] == timedelta(seconds=2.5)
    assert clock.monotonic() - before[1] == 2.5
    clock.jump(-60)
    assert clock.monotonic() - before[1] == 2.5
    assert clock.now() - before[0] == timedelta(seconds=-57.5)


def test_the_system_clock_is_utc() -> None:
    clock = SystemClock()
    assert clock.now().utcoffset() == timedelta(0)
    assert clock.monotonic() <= clock.monotonic()


def test_the_digest_ignores_the_request_id_and_nothing_else() -> None:
    one = message("Job", name="a", note="x")
    assert digest_of(one, without=["note"]) == digest_of(message("Job", name="a", note="y"), without=["note"])
    assert digest_of(one, without=["note"]) != digest_of(message("Job", name="b"), without=["note"])
    assert one == message("Job", name="a", note="x"), "the request is untouched"


def test_the_digest_does_not_depend_on_the_order_in_maps() -> None:
    pairs = [(f"k{n}", str(n)) for n in range(50)]
    forward, backward = message("Job"), message("Job")
    for key, value in pairs:
        forward.labels[key] = value
    for key, value in reversed(pairs):
        backward.labels[key] = value
    assert digest_of(forward, without=[]) == digest_of(backward, without=[])


def test_retries_are_data_for_safe_methods_only() -> None:
    import json

    from feinschliff.v1 import ingestion_pb2

    config = json.loads(service_config([ingestion_pb2.DESCRIPTOR.services_by_name["DatasetService"]]))
    methods = {name["method"] for name in config["methodConfig"][0]["name"]}
    assert {"GetDataset", "ListDatasets", "WatchDatasetVersion", "ReadRows", "CreateDataset"} <= methods
    assert not {"UpdateDataset", "DeleteDataset", "UploadDatasetVersion", "AbortUpload"} & methods
