"""Who decides what is kept, how a streamed answer is put together again, and that no answer waits for a disk."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any, cast

import grpc
import pytest

from feinschliff.formats.exchanges import EXCHANGE_BYTES_MAX, content_bytes, content_of
from feinschliff.formats.records import Message
from feinschliff.inference.conversation import to_messages
from feinschliff.inference.life import Deployment, Spec, State, Status
from feinschliff.inference.policies import BELIEVED_SECONDS, Policies
from feinschliff.inference.recorder import (
    Heard,
    Kept,
    Recorder,
    as_chat,
    is_kept,
    named,
    refuse_foreign,
    refuse_unloggable,
    turn_of,
)
from feinschliff.inference.segments import Segment
from feinschliff.inference.spool import Spool
from feinschliff.kit.clock import ManualClock
from feinschliff.kit.errors import Invalid
from feinschliff.kit.metrics import Metrics
from feinschliff.v1 import common_pb2, inference_pb2, ingestion_pb2
from tests.unit.inference.builders import BASE, MOMENT, PROJECT

NAME = "projects/theirs/completions/chatcmpl-1"
DEPLOYMENT = Deployment(
    f"{PROJECT}/deployments/d", Spec(base_model=BASE), Status(state=State.READY), 1, 1, MOMENT, MOMENT
)
SHARED = "feinschliff_inference_completions_dropped_total"


@pytest.mark.parametrize(
    ("store", "refuses", "share", "draw", "kept"),
    [
        (True, False, 0.0, 0.99, True),
        (False, False, 1.0, 0.0, False),
        (None, False, 0.5, 0.49, True),
        (None, False, 0.5, 0.5, False),
        (None, False, 0.0, 0.0, False),
        (None, False, 1.0, 0.999999, True),
        (True, True, 1.0, 0.0, False),
        (None, True, 1.0, 0.0, False),
    ],
)
def test_who_decides(store: bool | None, refuses: bool, share: float, draw: float, kept: bool) -> None:
    request = inference_pb2.ChatRequest(store=store)
    assert is_kept(request, Spec(base_model=BASE, refuse_store=refuses), share, draw) is kept


def test_the_caller_names_it_or_the_deployments_project_does() -> None:
    assert named(inference_pb2.ChatRequest(completion=NAME), DEPLOYMENT) == Kept("theirs", "chatcmpl-1")
    first, second = (named(inference_pb2.ChatRequest(), DEPLOYMENT) for _ in range(2))
    assert (first.project, first.completion[:9]) == ("default", "chatcmpl-")
    assert first.completion != second.completion


@pytest.mark.parametrize(
    ("wrong", "fields"),
    [
        ({"metadata": {str(n): "" for n in range(17)}}, ["chat.metadata"]),
        ({"metadata": {"k" * 65: ""}}, ["chat.metadata"]),
        ({"metadata": {"": ""}, "user": "u" * 65}, ["chat.metadata", "chat.user"]),
        ({"completion": "projects/p"}, ["chat.completion"]),
    ],
)
def test_what_the_log_could_not_take_is_refused_with_its_path(wrong: dict[str, Any], fields: list[str]) -> None:
    refuse_unloggable(inference_pb2.ChatRequest(metadata={"k": "v" * 512}, user="u" * 64, completion=NAME), "chat.")
    with pytest.raises(Invalid) as caught:
        refuse_unloggable(inference_pb2.ChatRequest(**wrong), "chat.")
    assert [one.field for one in caught.value.fields] == fields


def test_nobody_writes_into_another_projects_log() -> None:
    for make in (inference_pb2.ChatRequest, inference_pb2.CompleteRequest):
        refuse_unloggable(make(completion=NAME, project="projects/theirs"), "")
        refuse_foreign(make(completion=NAME), "projects/theirs", "")
        refuse_foreign(make(), PROJECT, "")
        for project in (PROJECT, "projects/their"):
            for refuse in (
                lambda: refuse_unloggable(make(completion=NAME, project=project), "chat."),  # noqa: B023
                lambda: refuse_foreign(make(completion=NAME), project, "chat."),  # noqa: B023
            ):
                with pytest.raises(Invalid) as caught:
                    refuse()
                assert (caught.value.reason, caught.value.fields[0].field) == ("PROJECT_MISMATCH", "chat.completion")


def heard(*deltas: inference_pb2.ChatDelta) -> common_pb2.Message:
    made = Heard()
    for one in deltas:
        made.add(one)
    return made.message()


def test_a_streamed_answer_is_put_together_again() -> None:
    delta, call = inference_pb2.ChatDelta, inference_pb2.ToolCallDelta
    message = heard(
        delta(text="I "),
        delta(index=1, text="another answer"),
        delta(text="look."),
        delta(tool_call=call(index=1, id="c2", name="broken", arguments_text='{"city"')),
        delta(tool_call=call(index=0, id="c1", name="weather", arguments_text='{"city": ')),
        delta(tool_call=call(index=0, arguments_text='"Köln"}')),
    )
    assert message.role == common_pb2.ROLE_ASSISTANT
    text, first, second = message.parts
    assert text.text == "I look."
    assert (first.tool_call.id, first.tool_call.name, dict(first.tool_call.arguments)) == (
        "c1",
        "weather",
        {"city": "Köln"},
    )
    assert (second.tool_call.invalid_arguments, second.tool_call.HasField("arguments")) == ('{"city"', False)
    assert [part.text for part in heard().parts] == [""]
    assert [part.WhichOneof("content") for part in heard(delta(tool_call=call(id="c", name="f"))).parts] == [
        "tool_call"
    ]


def test_what_guards_changed_is_told_as_the_api_has_it() -> None:
    arguments = '{"city":"Köln"}'
    turns = [
        common_pb2.Message(role=common_pb2.ROLE_USER, parts=[common_pb2.Part(text="hi")], name="anna"),
        turn_of(
            Message(
                role="assistant",
                content=None,
                tool_calls=[{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": arguments}}],
            )
        ),
        common_pb2.Message(
            role=common_pb2.ROLE_TOOL,
            parts=[common_pb2.Part(tool_result=common_pb2.ToolResult(tool_call_id="c1", text="rain"))],
        ),
    ]
    assert dict(turns[1].parts[0].tool_call.arguments) == {"city": "Köln"}
    assert [turn_of(one) for one in to_messages(turns, "messages")] == turns


async def test_an_answer_does_not_wait_for_a_disk_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hangs, append = threading.Event(), Segment.append

    def slow(self: Segment, frames: bytes) -> None:
        hangs.wait(20)
        append(self, frames)

    monkeypatch.setattr(Segment, "append", slow)
    metrics = Metrics("inference")
    spool = Spool(tmp_path, bytes_max=1 << 20, changed=lambda: None)
    recorder = Recorder(spool, Policies(cast(Any, None), ManualClock()), metrics, clock=ManualClock())
    began = time.monotonic()
    for _ in range(3):
        assert await recorder.store(Kept("theirs", "chatcmpl-1"), ingestion_pb2.Completion(model="m")) == NAME
    assert time.monotonic() - began < 5
    assert not hangs.is_set()
    hangs.set()
    await asyncio.to_thread(spool.close)
    found = Spool(tmp_path, bytes_max=1 << 20, changed=lambda: None)
    segment = found.take()
    assert segment is not None
    assert len(list(segment.records())) == 3
    found.close()


async def test_a_disk_that_breaks_after_the_answer_went_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes = threading.Event()

    def breaks(self: Segment, frames: bytes) -> None:
        goes.wait(20)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Segment, "append", breaks)
    metrics = Metrics("inference")
    spool = Spool(tmp_path, bytes_max=1 << 20, changed=lambda: None)
    recorder = Recorder(spool, Policies(cast(Any, None), ManualClock()), metrics, clock=ManualClock())
    assert await recorder.store(Kept("theirs", "chatcmpl-1"), ingestion_pb2.Completion(model="m")) == NAME
    goes.set()
    async with asyncio.timeout(20):
        while metrics.value(SHARED, reason="disk") != 1:
            await asyncio.sleep(0.01)
    assert await recorder.store(Kept("theirs", "chatcmpl-2"), ingestion_pb2.Completion(model="m")) == ""
    assert metrics.value(SHARED, reason="disk") == 2
    assert spool.size_bytes == 0
    await asyncio.to_thread(spool.close)


async def spooled(tmp_path: Path, *completions: ingestion_pb2.Completion, bytes_max: int = 0) -> tuple[list[str], Any]:
    """What is told of each, and what lies in the spool."""
    log, metrics = Log(), Metrics("inference")
    log.bytes_max = bytes_max
    policies = Policies(cast(Any, log), ManualClock())
    policies.fraction("theirs")
    policies.refresh()
    spool = Spool(tmp_path, bytes_max=1 << 24, changed=lambda: None)
    recorder = Recorder(spool, policies, metrics, clock=ManualClock())
    told = [await recorder.store(Kept("theirs", "chatcmpl-1"), one, MOMENT) for one in completions]
    segment = spool.take()
    records = [] if segment is None else [one.payload for one in segment.records()]
    await asyncio.to_thread(spool.close)
    return told, ([ingestion_pb2.RecordCompletionRequest.FromString(one) for one in records], metrics)


async def test_an_exchange_is_told_with_its_own_time(tmp_path: Path) -> None:
    _, ((record,), _) = await spooled(tmp_path, ingestion_pb2.Completion(model="m"))
    assert record.exchange_time.ToDatetime(MOMENT.tzinfo) == MOMENT


async def test_what_the_log_would_not_take_has_no_name_and_holds_nobody_up(tmp_path: Path) -> None:
    def exchange(characters: int) -> ingestion_pb2.Completion:
        part = common_pb2.Part(text="\n" * characters)
        return ingestion_pb2.Completion(model="m", messages=[common_pb2.Message(parts=[part])])

    bound = content_bytes(content_of(exchange(1000)))
    told, (records, metrics) = await spooled(tmp_path, exchange(1001), exchange(1000), bytes_max=bound)
    assert told == ["", NAME]
    assert [one.completion for one in records] == [exchange(1000)]
    assert metrics.value(SHARED, reason="too_large") == 1


async def test_until_the_log_has_said_more_it_takes_two_mebibytes(tmp_path: Path) -> None:
    part = common_pb2.Part(text="x" * EXCHANGE_BYTES_MAX)
    large = ingestion_pb2.Completion(model="m", messages=[common_pb2.Message(parts=[part])])
    assert (await spooled(tmp_path, large))[0] == [""]
    assert (await spooled(tmp_path, large, bytes_max=2 * EXCHANGE_BYTES_MAX))[0] == [NAME]


def test_a_text_that_is_continued_is_kept_as_a_turn() -> None:
    request = inference_pb2.CompleteRequest(
        model="m", text="secret", store=True, user="u", metadata={"a": "b"}, completion=NAME
    )
    chat = as_chat(request, "[MASKED]")
    assert [part.text for turn in chat.messages for part in turn.parts] == ["[MASKED]"]
    assert (chat.store, chat.user, dict(chat.metadata), chat.completion) == (True, "u", {"a": "b"}, NAME)
    assert not as_chat(inference_pb2.CompleteRequest(text="x"), "x").HasField("store")


class Log:
    """Ingestion, as far as policies need it."""

    def __init__(self) -> None:
        self.fractions: dict[str, float] = {}
        self.asked: list[str] = []
        self.is_down = False
        self.bytes_max = 0

    def GetCompletionPolicy(
        self, request: ingestion_pb2.GetCompletionPolicyRequest, timeout: float
    ) -> ingestion_pb2.CompletionPolicy:
        self.asked.append(request.name)
        if self.is_down:
            raise grpc.RpcError("down")
        project = request.name.split("/")[1]
        return ingestion_pb2.CompletionPolicy(
            sampled_fraction=self.fractions.get(project, 0.0), exchange_bytes_max=self.bytes_max
        )


def test_a_policy_is_asked_for_beside_the_calls_and_believed_for_a_while() -> None:
    log, clock = Log(), ManualClock()
    policies = Policies(cast(Any, log), clock)
    log.fractions["p"] = 0.5
    assert policies.fraction("p") == 0.0
    assert log.asked == []
    policies.refresh()
    assert [policies.fraction("p") for _ in range(3)] == [0.5] * 3
    policies.refresh()
    assert log.asked == ["projects/p/completionPolicy"]
    clock.advance(BELIEVED_SECONDS)
    log.is_down = True
    assert policies.fraction("p") == 0.5
    policies.refresh()
    assert policies.fraction("p") == 0.5
    log.is_down, log.fractions["p"] = False, 0.0
    policies.refresh()
    assert policies.fraction("p") == 0.0
