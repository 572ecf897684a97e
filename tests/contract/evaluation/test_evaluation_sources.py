"""Runs over rows of their own, stored completions and examples; several answers per row; prompts as objects."""

from __future__ import annotations

from collections import Counter

import grpc
import pytest
from google.protobuf.struct_pb2 import Struct

from feinschliff.kit.errors import from_rpc_error
from feinschliff.v1 import common_pb2 as common
from feinschliff.v1 import evaluation_pb2 as pb
from feinschliff.v1 import ingestion_pb2
from tests.contract.evaluation.conftest import PARENT, Room, exact
from tests.contract.evaluation.peers import VERSION, Peers, number_of, right_answer


def struct(**values: object) -> Struct:
    made = Struct()
    made.update(values)
    return made


def turn(text: str, role: common.Role.ValueType = common.ROLE_USER) -> pb.TemplateMessage:
    return pb.TemplateMessage(role=role, text=text)


def message(role: common.Role.ValueType, text: str) -> common.Message:
    return common.Message(role=role, parts=[common.Part(text=text)])


def texts(run_item: pb.OutputItem) -> list[str]:
    return [one.parts[0].text for one in run_item.prompt]


async def test_rows_may_come_with_the_run_and_stay_with_it(room: Room, peers: Peers) -> None:
    eval_ = await room.eval(version="")
    rows = [struct(prompt=f"message {k}", completion="refund") for k in range(3)]
    run = await room.measured(eval_.name, rows=rows)
    assert (run.state, run.overall.n, run.overall.passed) == (pb.EvalRun.STATE_COMPLETED, 3, 1)
    assert [item.line for item in await room.items(run.name)] == [1, 2, 3]
    assert not run.rows
    other = await room.measured(eval_.name, rows=rows[:2])
    request = pb.CompareRunsRequest(baseline=run.name, candidate=other.name)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await room.stub.CompareRuns(request)
    assert from_rpc_error(error.value).reason == "COMPARISON_DATASETS_DIFFER"
    again = await room.measured(eval_.name, rows=rows)
    comparison = await room.stub.CompareRuns(pb.CompareRunsRequest(baseline=run.name, candidate=again.name))
    assert (comparison.n, comparison.ties) == (3, 3)
    twice = await room.measured(eval_.name, rows=[*rows, rows[0]])
    assert (twice.overall.n, twice.overall.clusters, run.overall.clusters) == (4, 3, 3)


async def test_stored_completions_are_graded_or_asked_again(room: Room, peers: Peers) -> None:
    for k, answer in enumerate(["refund", "nonsense", "billing", ""]):
        completion = ingestion_pb2.Completion(name=f"{PARENT}/completions/c{k}", model="router", metadata={"k": str(k)})
        completion.messages.append(message(common.ROLE_USER, f"message {k}"))
        if answer:
            completion.response.CopyFrom(message(common.ROLE_ASSISTANT, answer))
        peers.log.completions.append(completion)
    stored = pb.CompletionRows(filter='model = "router"')
    eval_ = await room.eval(exact(reference="refund"), version="")
    graded = await room.measured(eval_.name, model="", completions=stored)
    assert peers.inference.requests == []
    assert peers.log.filters[0] == stored.filter
    assert [item.sample for item in await room.items(graded.name)] == ["refund", "nonsense", "billing"]
    assert (graded.overall.n, graded.overall.passed, graded.answer_path) == (3, 1, "item.answer")

    fresh = await room.measured(eval_.name, completions=pb.CompletionRows(limit=2))
    assert [item.sample for item in await room.items(fresh.name)] == ["delivery", "billing"]
    assert fresh.completions.limit == 2


async def test_several_answers_per_row_give_pass_at_k_and_pass_all(room: Room, peers: Peers) -> None:
    asked: Counter[int] = Counter()

    def reply(request: object) -> str:
        number = number_of(request)  # type: ignore[arg-type]
        asked[number] += 1
        return right_answer(request) if number % 2 == 0 and asked[number] <= 2 else "wrong"  # type: ignore[arg-type]

    peers.inference.reply = reply
    sampling = common.SamplingParams(temperature=0.7, n=4, seed=11)
    run = await room.measured((await room.eval()).name, sampling=sampling, limit=4, concurrency=1)
    assert (run.progress.total, run.overall.n, run.overall.passed) == (16, 16, 4)
    assert dict(run.overall.pass_at) == pytest.approx({1: 0.25, 2: 5 / 12, 4: 0.5})
    assert dict(run.overall.pass_all) == pytest.approx({1: 0.25, 2: 1 / 12, 4: 0.0})
    assert run.overall.interval.low < 0.25 < run.overall.interval.high
    items = await room.items(run.name)
    assert [(item.line, item.sample_index) for item in items[:5]] == [(1, 0), (1, 1), (1, 2), (1, 3), (2, 0)]
    first_row = [request.sampling for request in peers.inference.requests if number_of(request) == 0]
    assert [one.seed for one in first_row] == [11, 12, 13, 14]
    assert not any(one.HasField("n") for one in first_row)
    comparison = await room.stub.CompareRuns(pb.CompareRunsRequest(baseline=run.name, candidate=run.name))
    assert (comparison.n, comparison.ties) == (4, 4)


async def test_examples_stand_before_the_question_and_never_show_the_row_that_is_asked(room: Room) -> None:
    examples = pb.FewShot(count=2, answer="It is {{ item.completion }}.")
    run = await room.measured((await room.eval()).name, examples=examples, limit=3)
    items = await room.items(run.name)
    assert texts(items[0]) == [
        "Route the message.",
        *("message 1", "It is delivery.", "message 2", "It is billing."),
        "message 0",
    ]
    assert texts(items[2])[1:] == ["message 0", "It is refund.", "message 1", "It is delivery.", "message 2"]
    assert (run.examples.count, run.examples.dataset_version) == (2, VERSION)


async def test_a_prompt_is_stored_in_versions_and_runs_name_one(room: Room, peers: Peers) -> None:
    async def create(text: str, **fields: object) -> pb.Prompt:
        prompt = pb.Prompt(messages=[turn(text)], **fields)  # type: ignore[arg-type]
        request = pb.CreatePromptRequest(parent=PARENT, prompt_id="route", prompt=prompt)
        return await room.stub.CreatePrompt(request)

    tool = common.Tool(name="look_up", parameters=struct(type="object"))
    first = await create("Which? message {{ item.number }}", tools=[tool], sampling=common.SamplingParams(top_k=3))
    second = await create("What? message {{ item.number }}")
    assert [one.name.rsplit("/", 1)[1] for one in (first, second)] == ["1", "2"]
    assert len(first.sha256) == 64
    assert first.sha256 != second.sha256
    assert await room.stub.GetPrompt(pb.GetPromptRequest(name=first.name)) == first
    assert await room.stub.GetPrompt(pb.GetPromptRequest(name=f"{PARENT}/prompts/route")) == second
    newest = await room.stub.ListPrompts(pb.ListPromptsRequest(parent=PARENT))
    assert list(newest.prompts) == [second]
    versions = await room.stub.ListPrompts(pb.ListPromptsRequest(parent=f"{PARENT}/prompts/route", page_size=1))
    assert (list(versions.prompts), versions.total_size) == ([second], 2)

    eval_ = await room.eval(prompt=pb.PromptTemplate(prompt=second.name))
    run = await room.measured(eval_.name, prompt=pb.PromptTemplate(prompt=first.name), limit=1)
    await room.measured(eval_.name, limit=1)
    assert run.prompt.prompt == first.name
    asked = [(one.messages[0].parts[0].text, one.sampling.top_k, len(one.tools)) for one in peers.inference.requests]
    assert asked == [("Which? message 0", 3, 1), ("What? message 0", 0, 0)]
    assert peers.inference.requests[0].tools[0] == tool


async def test_rows_and_templates_are_checked_against_the_item_schema(room: Room, peers: Peers) -> None:
    schema = struct(type="object", properties={"number": {"type": "integer", "maximum": 10}}, required=["number"])
    prompt = pb.PromptTemplate(messages=pb.TemplateMessages(messages=[turn("message {{ item.number }}")]))
    eval_ = await room.eval(item_schema=schema, prompt=prompt)
    run = await room.measured(eval_.name)
    (item,) = await room.items(run.name, "errored = true")
    assert (item.line, item.error.reason) == (12, "ROW_INVALID")
    assert "item.number" in item.error.message
    assert eval_.item_schema["required"] == ["number"]

    async def refusal(**fields: object) -> tuple[str, str]:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await room.run(eval_.name, **fields)  # type: ignore[arg-type]
        refused = from_rpc_error(error.value)
        return refused.reason, refused.fields[0].field

    other = pb.PromptTemplate(messages=pb.TemplateMessages(messages=[turn("{{ item.nonsense }}")]))
    assert await refusal(prompt=other) == ("TEMPLATE_PATH_UNKNOWN", "eval_run.prompt")
    assert await refusal(rows=[struct(number=1), struct(number="x")]) == ("ROW_INVALID", "eval_run.rows[1]")
