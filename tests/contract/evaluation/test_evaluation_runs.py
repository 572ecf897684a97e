"""A run samples every row once, grades it, and says what came out."""

from __future__ import annotations

from collections.abc import Callable

import grpc
import pytest

from feinschliff.v1 import common_pb2 as common
from feinschliff.v1 import evaluation_pb2 as pb
from feinschliff.v1.inference_pb2 import ChatRequest
from tests.contract.evaluation.conftest import Room, calls, exact, fuzzy
from tests.contract.evaluation.peers import (
    OTHER_VERSION,
    VERSION,
    Peers,
    conversations,
    number_of,
    refusing,
    right_answer,
    wrong_for,
)


async def test_a_run_grades_every_row_and_its_results_follow_from_the_items(room: Room, peers: Peers) -> None:
    peers.inference.reply = wrong_for(2, 7, 9)
    eval_ = await room.eval(exact(), fuzzy())
    run = await room.measured(eval_.name)

    assert run.state == pb.EvalRun.STATE_COMPLETED
    assert (run.progress.done, run.progress.total, run.progress.fraction, run.progress.unit) == (12, 12, 1.0, "items")
    by_name = {result.grader: result for result in run.results}
    assert (by_name["exact"].n, by_name["exact"].passed, by_name["exact"].mean) == (12, 9, 0.75)
    assert by_name["exact"].interval.level == 0.95
    assert (by_name["exact"].interval.low, by_name["exact"].interval.high) == pytest.approx((0.4677, 0.9111), abs=1e-4)
    assert 0.75 < by_name["near"].mean < 1
    assert by_name["near"].interval.low < by_name["near"].mean < by_name["near"].interval.high
    assert (run.overall.n, run.overall.passed, run.overall.mean) == (12, 9, 0.75)
    assert (run.usage.prompt_tokens, run.usage.completion_tokens, run.usage.total_tokens) == (120, 24, 144)
    assert run.identity.model_version == peers.inference.version
    assert not run.other_identities
    assert run.HasField("start_time")
    assert run.HasField("finish_time")
    assert sorted(peers.inference.asked()) == list(range(12))


async def test_an_item_keeps_row_prompt_answer_and_grades(room: Room, peers: Peers) -> None:
    peers.inference.reply = wrong_for(4)
    run = await room.measured((await room.eval()).name)
    items = await room.items(run.name)

    assert [item.name for item in items] == [f"{run.name}/items/{k + 1}" for k in range(12)]
    assert [item.line for item in items] == list(range(1, 13))
    fifth = await room.stub.GetOutputItem(pb.GetOutputItemRequest(name=f"{run.name}/items/5"))
    assert fifth == items[4]
    assert [(turn.role, turn.parts[0].text) for turn in fifth.prompt] == [
        (common.ROLE_SYSTEM, "Route the message."),
        (common.ROLE_USER, "message 4"),
    ]
    assert fifth.item["completion"] == "delivery"
    assert fifth.item["number"] == 4
    assert (fifth.sample, fifth.finish_reason) == ("nonsense", common.FINISH_REASON_STOP)
    assert (fifth.latency_seconds, fifth.usage.completion_tokens) == (0.25, 2)
    assert (fifth.grades[0].grader, fifth.grades[0].value, fifth.grades[0].passed) == ("exact", 0.0, False)
    assert "nonsense" in fifth.grades[0].why
    assert not fifth.passed
    assert [item.line for item in await room.items(run.name, "passed = false")] == [5]
    assert [item.line for item in await room.items(run.name, 'grader = "exact" AND value < 0.5 AND line > 2')] == [5]
    assert await room.items(run.name, "errored = true") == []


async def test_sampling_is_greedy_and_short_unless_eval_or_run_say_otherwise(room: Room, peers: Peers) -> None:
    eval_ = await room.eval(sampling=common.SamplingParams(max_tokens=16, seed=7))
    await room.measured(eval_.name, sampling=common.SamplingParams(temperature=0.5, stop=["\n"]), limit=1)
    await room.measured((await room.eval()).name, limit=1)

    first, second = (request.sampling for request in peers.inference.requests)
    assert (first.temperature, first.max_tokens, first.seed, list(first.stop)) == (0.5, 16, 7, ["\n"])
    assert (second.temperature, second.max_tokens) == (0.0, 64)
    assert second.HasField("temperature")
    assert [request.model for request in peers.inference.requests] == ["router", "router"]
    assert not peers.inference.requests[0].store


async def test_a_prompt_template_is_filled_from_the_row_and_a_run_may_bring_its_own(room: Room, peers: Peers) -> None:
    def prompt(text: str) -> pb.PromptTemplate:
        turn = pb.TemplateMessage(role=common.ROLE_USER, text=text)
        return pb.PromptTemplate(messages=pb.TemplateMessages(messages=[turn]))

    eval_ = await room.eval(prompt=prompt("Which of 3? {{ item.messages[1].content }}"))
    run = await room.measured(eval_.name, limit=2, concurrency=1)
    other = await room.measured(eval_.name, limit=2, concurrency=1, prompt=prompt("Row {{ item.number }}"))

    texts = [request.messages[0].parts[0].text for request in peers.inference.requests]
    assert texts == ["Which of 3? message 0", "Which of 3? message 1", "Row 0", "Row 1"]
    assert run.state == other.state == pb.EvalRun.STATE_COMPLETED
    assert not run.HasField("prompt")
    assert other.prompt.messages.messages[0].text == "Row {{ item.number }}"


async def test_the_test_rows_count_where_there_are_some_and_others_on_request(room: Room, peers: Peers) -> None:
    rows = conversations(9)
    peers.ingestion.versions[OTHER_VERSION] = {"train": rows[:6], "validation": [], "test": rows[6:]}
    eval_ = await room.eval(version=OTHER_VERSION)

    assert [item.line for item in await room.items((await room.measured(eval_.name)).name)] == [7, 8, 9]
    train = await room.measured(eval_.name, split=common.SPLIT_TRAIN, limit=4)
    assert [item.line for item in await room.items(train.name)] == [1, 2, 3, 4]
    assert (train.split, train.progress.total) == (common.SPLIT_TRAIN, 4)


async def test_no_more_calls_run_at_once_than_the_run_says(room: Room, peers: Peers) -> None:
    peers.inference.gate.clear()
    run = await room.run((await room.eval()).name, concurrency=3)
    await calls(peers, 3)
    peers.inference.gate.set()
    await room.over(run.name)
    assert peers.inference.most_running == 3


async def test_an_answer_that_cannot_be_graded_is_counted_apart(room: Room, peers: Peers) -> None:
    peers.inference.reply = lambda request: '{"intent": "refund"}' if number_of(request) % 3 == 0 else "no json"
    eval_ = await room.eval(exact("json", input="{{ sample.output_json.intent }}"), exact("text"))
    run = await room.measured(eval_.name)

    by_name = {result.grader: result for result in run.results}
    assert (by_name["json"].n, by_name["json"].ungradable, by_name["json"].mean) == (4, 8, 1.0)
    assert (by_name["text"].n, by_name["text"].ungradable, by_name["text"].mean) == (12, 0, 0.0)
    item = (await room.items(run.name))[1]
    assert not item.grades[0].HasField("value")
    assert item.grades[0].error.kind == pb.GraderError.KIND_TEMPLATE
    assert "output_json" in item.grades[0].why


async def test_one_answer_has_a_mean_but_no_interval(room: Room) -> None:
    run = await room.measured((await room.eval()).name, limit=1)
    assert (run.overall.n, run.overall.mean) == (1, 1.0)
    assert not run.overall.HasField("interval")


async def test_a_row_without_what_the_prompt_needs_is_an_error_of_that_item_alone(room: Room, peers: Peers) -> None:
    rows = conversations(4)
    rows[2] = {"line": 3, "other": "form", "completion": "billing"}
    peers.ingestion.versions[VERSION] = {"train": rows}
    run = await room.measured((await room.eval()).name)

    assert run.state == pb.EvalRun.STATE_COMPLETED
    assert (run.overall.n, run.overall.errored, run.overall.mean) == (3, 1, 1.0)
    (item,) = await room.items(run.name, "errored = true")
    assert (item.line, item.error.reason) == (3, "PROMPT_UNRESOLVED")
    assert "item.prompt" in item.error.message
    assert not item.grades
    assert not item.HasField("message")


async def test_a_refusal_that_will_not_pass_is_an_error_of_that_item_alone(room: Room, peers: Peers) -> None:
    peers.inference.reply = refusing(
        grpc.StatusCode.INVALID_ARGUMENT, "CONTEXT_TOO_LONG", when=lambda number: number == 5
    )
    run = await room.measured((await room.eval()).name)
    assert (run.overall.n, run.overall.errored) == (11, 1)
    assert (await room.items(run.name, "errored = true"))[0].error.reason == "CONTEXT_TOO_LONG"
    assert peers.inference.asked().count(5) == 1


async def test_a_run_without_any_answer_fails_and_says_why(room: Room, peers: Peers) -> None:
    peers.inference.reply = refusing(grpc.StatusCode.INVALID_ARGUMENT, "CONTEXT_TOO_LONG")
    run = await room.measured((await room.eval()).name)
    assert (run.state, run.failure.reason) == (pb.EvalRun.STATE_FAILED, "ALL_ITEMS_ERRORED")
    assert "CONTEXT_TOO_LONG" in run.failure.message
    assert run.overall.errored == 12
    assert not run.overall.HasField("mean")


async def test_answers_that_lie_in_the_rows_are_graded_without_a_model(room: Room, peers: Peers) -> None:
    rows = [{**row, "reply": "refund"} for row in conversations(12)]
    peers.ingestion.versions[VERSION] = {"train": rows}
    eval_ = await room.eval()
    run = await room.measured(eval_.name, model="", answer_path="item.reply")
    assert run.state == pb.EvalRun.STATE_COMPLETED
    assert run.overall.mean == pytest.approx(4 / 12)
    assert peers.inference.requests == []
    assert (await room.measured(eval_.name, model="")).overall.mean == 1.0


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (grpc.StatusCode.UNAVAILABLE, "SERVER_STOPPING"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL"),
        (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_NOT_LOADED"),
        (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_LOADED"),
    ],
)
async def test_a_run_waits_out_what_passes(room: Room, peers: Peers, code: grpc.StatusCode, reason: str) -> None:
    peers.inference.reply = refusing(code, reason, when=lambda number: len(peers.inference.requests) < 6)
    run = await room.measured((await room.eval()).name)
    assert (run.state, run.overall.n, run.overall.errored) == (pb.EvalRun.STATE_COMPLETED, 12, 0)


async def test_a_run_fails_with_the_reason_once_its_patience_is_over(
    other_room: Callable[..., Room], peers: Peers
) -> None:
    room = other_room(evaluation_patience_seconds=0.3)
    await room.start()

    peers.inference.reply = refusing(
        grpc.StatusCode.FAILED_PRECONDITION, "MODEL_NOT_LOADED", when=lambda number: number >= 4
    )
    run = await room.measured((await room.eval()).name)
    assert (run.state, run.failure.reason, run.failure.retryable) == (
        pb.EvalRun.STATE_FAILED,
        "MODEL_NOT_LOADED",
        True,
    )
    assert [item.line for item in await room.items(run.name)] == [1, 2, 3, 4]
    assert run.overall.n == 4


async def test_a_broken_call_is_tried_a_few_times_and_then_given_up(room: Room, peers: Peers) -> None:
    peers.inference.reply = refusing(grpc.StatusCode.INTERNAL, "INTERNAL", when=lambda number: number == 3)
    run = await room.measured((await room.eval()).name)
    assert (run.overall.n, run.overall.errored) == (11, 1)
    assert peers.inference.asked().count(3) == 3


async def test_inference_may_go_away_and_come_back(room: Room, peers: Peers) -> None:
    peers.inference.gate.clear()
    run = await room.run((await room.eval()).name)
    await calls(peers, 4)
    peers.inference_down()
    peers.inference.gate.set()
    peers.inference_up()
    ended = await room.over(run.name)
    assert (ended.state, ended.overall.n, ended.overall.errored) == (pb.EvalRun.STATE_COMPLETED, 12, 0)


@pytest.mark.parametrize("broken_after", [0, 5, 11])
async def test_a_stream_of_rows_that_breaks_is_taken_up_where_it_broke(
    room: Room, peers: Peers, broken_after: int
) -> None:
    eval_ = await room.eval()
    peers.ingestion.break_after = broken_after
    run = await room.measured(eval_.name)
    assert (run.state, run.overall.n) == (pb.EvalRun.STATE_COMPLETED, 12)
    assert peers.ingestion.streams >= 2
    assert sorted(peers.inference.asked()) == list(range(12))


async def test_rows_that_were_announced_and_do_not_come_fail_the_run(room: Room, peers: Peers) -> None:
    peers.ingestion.announced = 15
    run = await room.measured((await room.eval()).name)
    assert (run.state, run.failure.reason) == (pb.EvalRun.STATE_FAILED, "DATASET_ROWS_MISSING")
    assert "gave 12 rows; 15 were announced" in run.failure.message
    assert not run.failure.retryable


async def test_a_model_that_changes_on_the_way_is_noticed(room: Room, peers: Peers) -> None:
    def reply(request: ChatRequest) -> str:
        peers.inference.version = f"projects/default/models/router/versions/{1 + number_of(request) // 6}"
        return right_answer(request)

    peers.inference.reply = reply
    run = await room.measured((await room.eval()).name, concurrency=1)
    assert run.identity.model_version.endswith("/1")
    assert [identity.model_version[-1] for identity in run.other_identities] == ["2"]
