"""What every call of every service gets from the chain."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator

import grpc
import pytest

from feinschliff.kit.context import current_deadline, current_request_id, current_trace
from feinschliff.kit.errors import (
    BY_CODE,
    FieldViolation,
    Internal,
    Invalid,
    NotFound,
    Refusal,
    TimedOut,
    Unavailable,
    Unserved,
    WrongState,
    from_rpc_error,
)
from feinschliff.kit.logs import JsonLines
from feinschliff.v1 import ingestion_pb2, ingestion_pb2_grpc, training_pb2, training_pb2_grpc
from tests.contract.kit.rooms import Open, eventually, opened, quick_settings

NAME = "projects/default/datasets/d"


@pytest.fixture
async def room() -> AsyncIterator[Open]:
    async with opened() as open_room:
        yield open_room


async def refused(call: object) -> Refusal:
    with pytest.raises(grpc.RpcError) as caught:
        await call
    return from_rpc_error(caught.value)


def stub(room: Open) -> ingestion_pb2_grpc.DatasetServiceStub:
    return ingestion_pb2_grpc.DatasetServiceStub(room.channel)


def get(room: Open, name: str = NAME, **options: object):
    return stub(room).GetDataset(ingestion_pb2.GetDatasetRequest(name=name), **options)


@pytest.mark.parametrize("kind", sorted(set(BY_CODE.values()), key=lambda kind: kind.__name__))
async def test_a_refusal_arrives_as_the_same_type_with_everything_in_it(room: Open, kind: type[Refusal]) -> None:
    sent = kind(
        "JOB_STATE_FORBIDS",
        "A QUEUED job, so früh, cannot.",
        fields=[FieldViolation("a.b[2]", "too big", "TOO_BIG")],
        advice=["Wait.", "Or cancel it."],
        retry_after_seconds=1.5,
        job="j",
        count=3,
    )

    def act() -> None:
        raise sent

    room.datasets.act = act
    got = await refused(get(room))
    assert type(got) is kind
    assert (got.reason, got.message) == (sent.reason, sent.message)
    assert got.fields == sent.fields
    assert got.advice == sent.advice
    assert got.retry_after_seconds == 1.5
    error_id = got.metadata.pop("error_id", "")
    assert bool(error_id) == (kind is Internal)
    assert got.metadata == {"job": "j", "count": "3"}


async def test_too_many_violations_are_cut_and_counted_and_still_arrive_at_a_client_with_default_limits(
    room: Open,
) -> None:
    fields = [FieldViolation(f"line[{n}]", "x" * 250, "BAD_ROLE") for n in range(1000)]

    def act() -> None:
        raise Invalid("ROWS_BAD", "1000 rows are bad.", fields=fields)

    room.datasets.act = act
    got = await refused(get(room))
    assert 5 <= len(got.fields) < 1000
    left_out = 1000 - len(got.fields)
    assert got.metadata["violations_left_out"] == str(left_out)
    assert f"({left_out} more" in got.message


async def test_an_unknown_exception_is_internal_with_an_id_and_tells_nothing_else(
    room: Open, caplog: pytest.LogCaptureFixture
) -> None:
    def act() -> None:
        raise RuntimeError("the password is hunter2")

    room.datasets.act = act
    with caplog.at_level(logging.INFO):
        got = await refused(get(room))
    assert isinstance(got, Internal)
    assert got.reason == "INTERNAL"
    assert "hunter2" not in got.message
    lines = [record for record in caplog.records if record.exc_info]
    assert len(lines) == 1, "logged once"
    assert vars(lines[0])["error_id"] == got.metadata["error_id"]


async def test_a_fault_that_a_handler_names_itself_gets_an_id_and_its_traceback_too(
    room: Open, caplog: pytest.LogCaptureFixture
) -> None:
    def act() -> None:
        raise Internal("GENERATION_FAILED", "The engine failed.")

    room.datasets.act = act
    with caplog.at_level(logging.INFO):
        got = await refused(get(room))
    assert got.reason == "GENERATION_FAILED"
    lines = [record for record in caplog.records if record.exc_info]
    assert [vars(line)["error_id"] for line in lines] == [got.metadata["error_id"]]


async def test_a_method_that_is_not_served_says_so(room: Open) -> None:
    got = await refused(stub(room).ListFormats(ingestion_pb2.ListFormatsRequest(parent="projects/default")))
    assert isinstance(got, Unserved)
    assert got.reason == "METHOD_UNSERVED"
    assert "feinschliff.v1.DatasetService/ListFormats" in got.message
    assert got.advice


async def test_an_unserved_stream_says_so(room: Open) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        async for _ in stub(room).ReadRows(ingestion_pb2.ReadRowsRequest(name=NAME + "/versions/1")):
            pass
    assert from_rpc_error(caught.value).reason == "METHOD_UNSERVED"


async def test_a_method_that_does_not_exist_says_so_and_is_counted_without_its_name(room: Open) -> None:
    got = await refused(room.channel.unary_unary("/feinschliff.v1.DatasetService/Nope")(b""))
    assert got.reason == "METHOD_UNSERVED"
    labels = {"grpc_type": "unary", "grpc_service": "unknown", "grpc_method": "unknown"}
    assert room.metrics.value("grpc_server_started_total", **labels) == 1


async def test_bytes_that_are_no_message_are_refused_with_a_reason(room: Open) -> None:
    call = room.channel.unary_unary("/feinschliff.v1.DatasetService/GetDataset")
    got = await refused(call(b"\xff\xff\xff"))
    assert isinstance(got, Invalid)
    assert got.reason == "REQUEST_MALFORMED"


async def test_missing_required_fields_are_named_and_the_handler_never_runs(room: Open) -> None:
    got = await refused(stub(room).CreateDataset(ingestion_pb2.CreateDatasetRequest()))
    assert isinstance(got, Invalid)
    assert got.reason == "FIELDS_REQUIRED"
    assert [field.field for field in got.fields] == ["parent", "dataset"]
    assert room.datasets.seen == []


async def test_output_only_fields_are_cleared(room: Open) -> None:
    dataset = ingestion_pb2.Dataset(display_name="mine", version_count=7, latest_version="forged")
    made = await stub(room).CreateDataset(
        ingestion_pb2.CreateDatasetRequest(parent="projects/default", dataset=dataset)
    )
    assert made == ingestion_pb2.Dataset(display_name="mine")


async def test_the_first_message_of_a_stream_is_held_to_its_required_fields(room: Open) -> None:
    header = ingestion_pb2.UploadHeader(filename="x.jsonl")
    messages = [ingestion_pb2.UploadDatasetVersionRequest(header=header)]
    got = await refused(stub(room).UploadDatasetVersion(iter(messages)))
    assert got.reason == "FIELDS_REQUIRED"
    assert [field.field for field in got.fields] == ["header.parent"]


async def test_later_messages_of_a_stream_pass(room: Open) -> None:
    header = ingestion_pb2.UploadHeader(parent=NAME)
    messages = [ingestion_pb2.UploadDatasetVersionRequest(header=header)]
    messages += [ingestion_pb2.UploadDatasetVersionRequest(chunk=b"x")] * 3
    assert (await stub(room).UploadDatasetVersion(iter(messages))).name == "done"
    assert len(room.datasets.seen) == 4
    labels = {
        "grpc_type": "client_stream",
        "grpc_service": "feinschliff.v1.DatasetService",
        "grpc_method": "UploadDatasetVersion",
    }
    assert room.metrics.value("grpc_server_msg_received_total", **labels) == 4


async def test_the_request_id_comes_back_and_is_seen_inside(room: Open) -> None:
    call = get(room, metadata=(("x-request-id", "req-7"),))
    assert (await call).description == "req-7"
    assert dict(await call.initial_metadata())["x-request-id"] == "req-7"


@pytest.mark.parametrize("sent", ["", "with space", "x" * 200, "line"])
async def test_a_request_id_is_made_where_none_or_a_wrong_one_comes(room: Open, sent: str) -> None:
    inside = (await get(room, metadata=(("x-request-id", sent),))).description
    assert inside == sent if sent == "line" else (inside != sent and len(inside) == 32)


async def test_a_refused_call_tells_its_request_id_too(room: Open) -> None:
    def act() -> None:
        raise NotFound("DATASET_UNKNOWN", "No such dataset.")

    room.datasets.act = act
    call = get(room, metadata=(("x-request-id", "req-8"),))
    await refused(call)
    assert dict(await call.trailing_metadata())["x-request-id"] == "req-8"


async def test_a_refusal_sends_no_headers_so_that_clients_may_retry(room: Open) -> None:
    def act() -> None:
        raise Unavailable("DATABASE_UNAVAILABLE", "Down.")

    room.datasets.act = act
    call = get(room)
    await refused(call)
    assert "x-request-id" not in dict(await call.initial_metadata())


async def test_a_call_without_a_deadline_gets_the_default() -> None:
    async with opened(settings=quick_settings(call_timeout_seconds=0.1)) as room:
        room.datasets.act = lambda: asyncio.Event().wait()
        got = await refused(get(room))
    assert isinstance(got, TimedOut)
    assert got.reason == "DEADLINE_EXCEEDED"
    assert got.metadata["seconds"] == "0.1"


async def test_a_callers_own_deadline_may_be_longer_than_the_default() -> None:
    async with opened(settings=quick_settings(call_timeout_seconds=0.05)) as room:
        room.datasets.act = lambda: asyncio.sleep(0.2)
        assert (await get(room, timeout=5)).name == NAME


async def test_the_deadline_is_known_inside(room: Open) -> None:
    seen: list[float | None] = []
    room.datasets.act = lambda: seen.append(current_deadline())
    await get(room, timeout=3)
    now = asyncio.get_running_loop().time()
    assert seen[0] is not None
    assert 0 < seen[0] - now < 3.1, "gRPC rounds deadlines up by some milliseconds"


async def test_a_clients_cancel_ends_the_work_counts_as_cancelled_and_is_no_error(
    room: Open, caplog: pytest.LogCaptureFixture
) -> None:
    watch = training_pb2_grpc.TrainingServiceStub(room.channel).WatchTrainingJob(
        training_pb2.WatchTrainingJobRequest(name="projects/default/trainingJobs/j")
    )
    with caplog.at_level(logging.INFO):
        await watch.read()
        watch.cancel()
        await asyncio.wait_for(room.training.left.wait(), 5)
        labels = {
            "grpc_type": "server_stream",
            "grpc_service": "feinschliff.v1.TrainingService",
            "grpc_method": "WatchTrainingJob",
            "grpc_code": "CANCELLED",
        }
        await eventually(lambda: room.metrics.value("grpc_server_handled_total", **labels) == 1, "counted")
    assert [record.levelname for record in caplog.records if record.levelno > logging.INFO] == []


async def test_a_cancelled_unary_call_stops_its_work(room: Open) -> None:
    begun, left = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.set()

    room.datasets.act = work
    call = get(room)
    waiting = asyncio.ensure_future(begun.wait())
    await asyncio.wait({waiting, asyncio.ensure_future(_settled(call))}, return_when=asyncio.FIRST_COMPLETED)
    call.cancel()
    await asyncio.wait_for(left.wait(), 5)


async def _settled(call: grpc.aio.Call) -> None:
    await call.code()


async def test_a_deadline_that_passes_counts_as_deadline_exceeded_not_as_cancelled(room: Open) -> None:
    room.datasets.act = lambda: asyncio.Event().wait()
    await refused(get(room, timeout=0.1))
    labels = {"grpc_type": "unary", "grpc_service": "feinschliff.v1.DatasetService", "grpc_method": "GetDataset"}
    await eventually(
        lambda: room.metrics.value("grpc_server_handled_total", **labels, grpc_code="DEADLINE_EXCEEDED") == 1,
        "counted as late",
    )


async def test_each_call_is_one_log_line_with_its_request_id(room: Open, caplog: pytest.LogCaptureFixture) -> None:
    def act() -> None:
        raise WrongState("JOB_STATE_FORBIDS", "No.")

    room.datasets.act = act
    lines: list[dict[str, object]] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(json.loads(JsonLines().format(record)))

    logger, keep = logging.getLogger("feinschliff.kit.layers"), Keep()
    logger.addHandler(keep)
    try:
        with caplog.at_level(logging.INFO):
            await refused(get(room, metadata=(("x-request-id", "req-9"),)))
    finally:
        logger.removeHandler(keep)
    assert [line["request_id"] for line in lines] == ["req-9"]
    line = lines[0]
    assert (line["method"], line["code"]) == ("feinschliff.v1.DatasetService/GetDataset", "FAILED_PRECONDITION")
    assert (line["reason"], line["room"]) == ("JOB_STATE_FORBIDS", "ingestion")
    assert len(str(line["trace_id"])) == 32


async def test_a_callers_trace_goes_on(room: Open) -> None:
    seen = []
    room.datasets.act = lambda: seen.append((current_trace(), current_request_id()))
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    await get(room, metadata=(("traceparent", f"00-{trace_id}-b7ad6b7169203331-01"),))
    trace = seen[0][0]
    assert trace is not None
    assert (trace.trace_id, trace.sampled) == (trace_id, True)
    assert trace.span_id != "b7ad6b7169203331"
