"""The completion log keeps its promises over gRPC, on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from feinschliff.ingestion import completion_store as tables
from feinschliff.kit.db import Database
from feinschliff.kit.errors import AlreadyExists, Conflict, Invalid, NotFound, Unserved
from feinschliff.v1 import common_pb2
from feinschliff.v1 import ingestion_pb2 as pb
from tests.contract.ingestion.log_room import BYTES_MAX, Log, completion, open_log, turn

NAME = "projects/p/completions/"
POLICY = "projects/p/completionPolicy"


@pytest.fixture
async def log(database_url: str) -> AsyncIterator[Log]:
    database = Database(database_url, "ingestion")
    database.upgrade()
    async with open_log(database) as opened:
        yield opened
    database.close()


def whole() -> pb.Completion:
    """An exchange with something in every field that a caller sets, and characters that databases stumble over."""
    arguments = Struct()
    arguments.update({"city": "Köln", "days": [1, 2.5, None, {"deep": True}]})
    call = common_pb2.ToolCall(id="c1", name="weather", arguments=arguments)
    return pb.Completion(
        model="projects/p/models/m@production",
        deployment="projects/p/deployments/d",
        identity=common_pb2.Identity(model_version="projects/p/models/m/versions/3", base_digest="sha256:" + "a" * 64),
        messages=[turn("NUL \x00 and \U0001f600 \u2028"), turn("be kind", common_pb2.ROLE_SYSTEM)],
        tools=[common_pb2.Tool(name="weather", parameters=arguments, strict=True)],
        sampling=common_pb2.SamplingParams(temperature=0.0, seed=2**62, stop=["\n"], logit_bias={7: -1.5}),
        response=common_pb2.Message(role=common_pb2.ROLE_ASSISTANT, parts=[common_pb2.Part(tool_call=call)]),
        finish_reason=common_pb2.FINISH_REASON_TOOL_CALLS,
        usage=common_pb2.TokenUsage(prompt_tokens=2**40, completion_tokens=2, total_tokens=2**40 + 2),
        latency_seconds=0.125,
        metadata={"team": "a b", "größe": "ß"},
        request_id="call-1",
        user="customer-7",
    )


async def test_what_is_recorded_is_read_back_whole(log: Log) -> None:
    sent = whole()
    stored = await log.call("RecordCompletion", parent="projects/p", completion_id="chatcmpl-1", completion=sent)
    assert stored == await log.call("GetCompletion", name=NAME + "chatcmpl-1")
    assert (stored.name, stored.create_time.ToDatetime(log.clock.at.tzinfo)) == (NAME + "chatcmpl-1", log.clock.at)
    assert (stored.expire_time.seconds - stored.create_time.seconds) == 30 * 86_400
    for field in ("name", "create_time", "expire_time", "etag"):
        stored.ClearField(field)
    assert stored == sent


async def test_the_same_request_records_once_and_another_body_is_refused(log: Log) -> None:
    answers = await asyncio.gather(*(log.record("a", request_id="r") for _ in range(6)))
    assert {one.name for one in answers} == {NAME + "a"}
    assert await log.ids() == ["a"]
    same = {"parent": "projects/p", "completion_id": "a"}
    other = await log.refused("RecordCompletion", **same, completion=completion("other"), request_id="r")
    assert (type(other), other.reason) == (Invalid, "REQUEST_ID_REUSED")
    taken = await log.refused("RecordCompletion", **same, completion=completion(), request_id="r2")
    assert (type(taken), taken.reason) == (AlreadyExists, "COMPLETION_EXISTS")
    made = await log.record()
    assert made.name.startswith(NAME + "chatcmpl-")


async def test_a_deleted_exchange_does_not_come_back_with_a_repeated_request(log: Log) -> None:
    await log.record("a", request_id="r")
    await log.call("DeleteCompletion", name=NAME + "a")
    again = {"parent": "projects/p", "completion_id": "a", "completion": completion(), "request_id": "r"}
    assert (await log.refused("RecordCompletion", **again)).reason == "COMPLETION_NOT_FOUND"
    assert await log.ids() == []


async def test_projects_do_not_see_each_other(log: Log) -> None:
    await log.record("a")
    await log.record("a", project="q", text="theirs")
    await log.call("AddFeedback", parent="projects/q/completions/a", feedback=pb.Feedback(value=1.0))
    await log.call("DeleteCompletion", name=NAME + "a")
    assert (await log.ids(), await log.ids(project="q")) == ([], ["a"])
    assert len((await log.call("ListFeedback", parent="projects/q/completions/-")).feedback) == 1
    assert not (await log.call("ListFeedback", parent="projects/p/completions/-")).feedback
    assert (await log.refused("ListFeedback", parent=NAME + "a")).reason == "COMPLETION_NOT_FOUND"


async def filled(log: Log) -> None:
    for number in range(7):
        await log.record(
            f"c{number}",
            model="pypi:tiny" if number % 2 else "pypi:other",
            user="anna" if number < 3 else "",
            metadata={"team": "a" if number < 4 else "b", "n": str(number)},
            finish_reason=common_pb2.FINISH_REASON_LENGTH if number == 6 else common_pb2.FINISH_REASON_STOP,
        )
        log.clock.move(minutes=1 if number % 2 else 0)  # some share their time: the id decides


async def test_pages_give_every_exchange_once_in_order(log: Log) -> None:
    await filled(log)
    ascending = [f"c{number}" for number in range(7)]
    for size in (1, 2, 3, 100):
        assert await log.ids(page_size=size, order_by="create_time") == ascending
        assert await log.ids(page_size=size) == ascending[::-1]


async def test_filters_find_what_they_say(log: Log) -> None:
    await filled(log)
    found = {
        'model = "pypi:tiny"': ["c1", "c3", "c5"],
        'metadata.team = "a" AND model = "pypi:other"': ["c0", "c2"],
        "finish_reason = LENGTH": ["c6"],
        "finish_reason = FINISH_REASON_LENGTH": ["c6"],
        "user = anna": ["c0", "c1", "c2"],
        'create_time >= "2026-03-01T12:02:00Z"': ["c4", "c5", "c6"],
        'metadata.missing = "x"': [],
    }
    for text, ids in found.items():
        assert await log.ids(filter=text, order_by="create_time") == ids, text
    page = await log.call("ListCompletions", parent="projects/p", filter="user = anna", page_size=1)
    assert page.total_size == 3
    for wrong, reason in (
        ({"filter": "messages = x"}, "FILTER_INVALID"),
        ({"order_by": "model"}, "ORDER_INVALID"),
        ({"page_token": "bm8"}, "PAGE_TOKEN_INVALID"),
    ):
        assert (await log.refused("ListCompletions", parent="projects/p", **wrong)).reason == reason


async def test_a_page_of_large_exchanges_ends_early_and_loses_none(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "PAGE_BYTES_MAX", 25_000)
    for number in range(5):
        await log.record(f"c{number}", text="x" * 10_000)
    first = await log.call("ListCompletions", parent="projects/p", page_size=5)
    assert (len(first.completions), first.total_size) == (2, 5)
    assert sorted(await log.ids(page_size=5)) == [f"c{number}" for number in range(5)]


async def test_only_metadata_changes_and_two_writers_notice_each_other(log: Log) -> None:
    read = await log.record("a", metadata={"k": "v"})

    async def change(method: str = "call", paths: list[str] | None = None, **fields: Any) -> Any:
        sent = pb.Completion(name=NAME + "a", **fields)
        mask = {"paths": paths or ["metadata"]}
        return await getattr(log, method)("UpdateCompletion", completion=sent, update_mask=mask)

    changed = await change(metadata={"new": "1"}, etag=read.etag)
    assert dict(changed.metadata) == {"new": "1"}
    assert changed.etag != read.etag
    stale = await change("refused", metadata={}, etag=read.etag)
    assert (type(stale), stale.reason) == (Conflict, "ETAG_MISMATCH")
    for path in ("messages", "model", "user", "name", "create_time"):
        others = {"model": "m", "messages": [turn("x")]}
        assert (await change("refused", [path], **others)).reason == "MASK_PATH_FORBIDDEN", path
    assert (await change("refused", metadata={"k": "v" * 513})).reason == "METADATA_INVALID"
    assert (await change("refused", metadata={str(n): "" for n in range(17)})).reason == "METADATA_INVALID"
    late = await log.refused("DeleteCompletion", name=NAME + "a", etag=read.etag)
    assert late.reason == "ETAG_MISMATCH"
    await log.call("DeleteCompletion", name=NAME + "a", etag=changed.etag)
    gone = await log.refused("GetCompletion", name=NAME + "a")
    assert (type(gone), gone.reason) == (NotFound, "COMPLETION_NOT_FOUND")


TOO_MUCH: tuple[tuple[dict[str, Any], str], ...] = (
    ({"text": "x" * BYTES_MAX}, "COMPLETION_TOO_LARGE"),
    ({"user": "x" * 65}, "TEXT_TOO_LONG"),
    ({"metadata": {"": "x"}}, "METADATA_INVALID"),
    ({"latency_seconds": -1.0}, "COMPLETION_INVALID"),
    ({"latency_seconds": float("nan")}, "COMPLETION_INVALID"),
    ({"messages": []}, "FIELDS_REQUIRED"),
)


async def test_what_the_log_does_not_take_is_refused_by_name(log: Log) -> None:
    for fields, reason in TOO_MUCH:
        refusal = await log.refused("RecordCompletion", parent="projects/p", completion=completion(**fields))
        assert refusal.reason == reason, fields
    assert await log.ids() == []


async def test_feedback_is_kept_with_its_exchange(log: Log) -> None:
    await log.record("a")
    await log.record("b")
    said = pb.Feedback(
        value=0.25,
        comment="wrong city",
        correction=turn("Köln", common_pb2.ROLE_ASSISTANT),
        author="u",
        labels={"k": "v"},
    )
    given = await asyncio.gather(
        *(log.call("AddFeedback", parent=NAME + "a", feedback=said, request_id="r") for _ in range(4))
    )
    assert len({one.name for one in given}) == 1
    log.clock.move(minutes=1)
    await log.call("AddFeedback", parent=NAME + "b", feedback=pb.Feedback(comment="fine"))
    listed = (await log.call("ListFeedback", parent=NAME + "a")).feedback
    assert list(listed) == [given[0]]
    kept = listed[0]
    assert (kept.value, kept.comment, kept.author, dict(kept.labels)) == (0.25, "wrong city", "u", {"k": "v"})
    assert kept.correction == said.correction
    assert kept.name.startswith(NAME + "a/feedback/")

    async def comments(filter: str = "", order_by: str = "") -> list[str]:
        page = await log.call("ListFeedback", parent=NAME + "-", filter=filter, order_by=order_by)
        return [one.comment for one in page.feedback]

    assert await comments() == ["fine", "wrong city"]
    assert await comments(order_by="create_time") == ["wrong city", "fine"]
    assert await comments("value < 0.5 AND labels.k = v") == ["wrong city"]
    await log.call("DeleteCompletion", name=NAME + "a")
    assert await comments() == ["fine"]


BAD_FEEDBACK: tuple[tuple[dict[str, Any], str], ...] = (
    ({"author": "u"}, "FEEDBACK_INVALID"),
    ({"value": 1.01}, "FEEDBACK_INVALID"),
    ({"value": float("nan")}, "FEEDBACK_INVALID"),
    ({"comment": "x" * 4097}, "TEXT_TOO_LONG"),
    ({"value": 1, "labels": {"k": "v" * 513}}, "LABELS_INVALID"),
    ({"correction": turn("x" * BYTES_MAX)}, "COMPLETION_TOO_LARGE"),
)


async def test_feedback_that_says_nothing_or_too_much_is_refused(log: Log) -> None:
    await log.record("a")
    for said, reason in BAD_FEEDBACK:
        refusal = await log.refused("AddFeedback", parent=NAME + "a", feedback=pb.Feedback(**said))
        assert refusal.reason == reason, said
    missing = await log.refused("AddFeedback", parent=NAME + "none", feedback=pb.Feedback(value=1))
    assert missing.reason == "COMPLETION_NOT_FOUND"


async def test_a_project_keeps_its_exchanges_as_long_as_its_policy_says(log: Log) -> None:
    for project in ("p", "q"):
        await log.record("old", project=project)
        await log.call("AddFeedback", parent=f"projects/{project}/completions/old", feedback=pb.Feedback(value=0))
    log.clock.move(days=2)
    await log.record("young")
    before = await log.call("GetCompletionPolicy", name=POLICY)
    assert (before.retention_days, before.sampled_fraction, before.HasField("retention_days")) == (30, 0.0, True)
    wanted = pb.CompletionPolicy(name=POLICY, retention_days=1, sampled_fraction=0.5, etag=before.etag)
    mask = {"paths": ["retention_days", "sampled_fraction"]}
    changed = await log.call("UpdateCompletionPolicy", completion_policy=wanted, update_mask=mask)
    assert (changed.retention_days, changed.sampled_fraction) == (1, 0.5)
    assert (await log.ids(), await log.ids(project="q")) == (["young"], ["old"])
    assert not (await log.call("ListFeedback", parent=NAME + "-")).feedback
    assert (await log.refused("GetCompletion", name=NAME + "old")).reason == "COMPLETION_NOT_FOUND"
    log.completions.sweep()
    assert log.metrics.value("feinschliff_ingestion_completions_expired_total") == 1
    stale = await log.refused("UpdateCompletionPolicy", completion_policy=wanted, update_mask=mask)
    assert (type(stale), stale.reason) == (Conflict, "ETAG_MISMATCH")
    for_ever = pb.CompletionPolicy(name=POLICY, retention_days=0)
    await log.call("UpdateCompletionPolicy", completion_policy=for_ever, update_mask={"paths": ["retention_days"]})
    log.clock.move(days=5000)
    log.completions.sweep()
    assert (await log.ids(), await log.ids(project="q")) == (["young"], [])
    assert not (await log.call("GetCompletion", name=NAME + "young")).HasField("expire_time")


async def test_a_policy_out_of_bounds_or_not_served_is_refused(log: Log) -> None:
    async def refused(**fields: Any) -> Any:
        wanted = pb.CompletionPolicy(name=POLICY, **fields)
        return await log.refused("UpdateCompletionPolicy", completion_policy=wanted, update_mask={"paths": [*fields]})

    assert (await refused(retention_days=3651)).reason == "POLICY_INVALID"
    assert (await refused(sampled_fraction=1.5)).reason == "POLICY_INVALID"
    for kind in ("person", "address"):
        unserved = await refused(redact=["email", kind])
        assert (type(unserved), unserved.reason) == (Unserved, "FIELD_UNSERVED")
    assert (await refused(redact=["phones"])).reason == "POLICY_INVALID"
    assert (await log.call("GetCompletionPolicy", name=POLICY)).retention_days == 30


async def test_old_requests_are_forgotten_and_recent_ones_are_not(log: Log) -> None:
    await log.record("a", request_id="r")
    log.completions.sweep()
    assert (await log.record("a", request_id="r")).name == NAME + "a"


async def test_an_exchange_is_of_its_own_time_however_late_it_comes(log: Log) -> None:
    async def at(id: str, **back: float) -> Any:
        taken = Timestamp()
        taken.FromDatetime(log.clock.at - timedelta(**back))
        wanted = {"parent": "projects/p", "completion_id": id, "completion": completion(), "exchange_time": taken}
        return await log.call("RecordCompletion", **wanted)

    late = await at("late", hours=5)
    assert late.create_time.ToDatetime(log.clock.at.tzinfo) == log.clock.at - timedelta(hours=5)
    await log.record("now")
    await at("later", hours=1)
    assert await log.ids() == ["now", "later", "late"]
    assert (await at("ahead", hours=-23)).create_time == (await log.record("other")).create_time
    for wrong in ({"hours": -25}, {"days": 3651}):
        with pytest.raises(Invalid) as refused:
            await at("wrong", **wrong)
        assert (refused.value.reason, refused.value.fields[0].field) == ("COMPLETION_INVALID", "exchange_time")
    with pytest.raises(NotFound):
        await at("gone", days=31)


async def test_what_a_project_does_not_want_to_keep_is_replaced_before_it_is_stored(log: Log) -> None:
    wanted = pb.CompletionPolicy(name=POLICY, redact=["email", "phone", "email"])
    changed = await log.call("UpdateCompletionPolicy", completion_policy=wanted, update_mask={"paths": ["redact"]})
    assert (list(changed.redact), changed.exchange_bytes_max) == (["email", "phone"], BYTES_MAX)
    said = "I am jane@example.com, +49 30 1234567, 10.0.0.1"
    arguments = Struct()
    arguments.update({"to": ["jane@example.com"], "name": "jane@example.com"})
    call = common_pb2.Part(tool_call=common_pb2.ToolCall(id="c", name="mail", arguments=arguments))
    answer = common_pb2.Message(role=common_pb2.ROLE_ASSISTANT, parts=[common_pb2.Part(text=said), call])
    for project in ("p", "q"):
        await log.record("x", project=project, text=said, response=answer, user="jane@example.com", request_id="r")
    stored = await log.record("x", text=said, response=answer, user="jane@example.com", request_id="r")
    left = "I am [EMAIL], [PHONE], 10.0.0.1"
    assert (stored.messages[0].parts[0].text, stored.response.parts[0].text) == (left, left)
    assert dict(stored.response.parts[1].tool_call.arguments) == {"to": ["[EMAIL]"], "name": "[EMAIL]"}
    assert (stored.response.parts[1].tool_call.name, stored.user) == ("mail", "jane@example.com")
    assert (await log.call("GetCompletion", name="projects/q/completions/x")).messages[0].parts[0].text == said
    feedback = pb.Feedback(comment="ask jane@example.com", correction=turn(said))
    given = await log.call("AddFeedback", parent=NAME + "x", feedback=feedback)
    assert (given.comment, given.correction.parts[0].text) == ("ask [EMAIL]", left)
