"""Runs survive stops and kills, are stopped on request, and can be watched without a gap."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from feinschliff.evaluation.evaluations import Evaluations
from feinschliff.evaluation.runs.runs import Runs
from feinschliff.kit.clock import SystemClock
from feinschliff.kit.db import Database
from feinschliff.kit.names import new_id
from feinschliff.kit.watch import Wake
from feinschliff.v1 import evaluation_pb2 as pb
from feinschliff.v1 import evaluation_pb2_grpc
from tests.contract.evaluation.conftest import FINAL, PARENT, Room, Settings, calls, exact, fuzzy
from tests.contract.evaluation.peers import VERSION, Peers, wrong_for
from tests.support.ports import free_port
from tests.support.processes import RoomProcess, room_process
from tests.support.waiting import eventually, eventually_async

MakeRoom = Callable[..., Room]


async def watched(room: Room, run: str, cursor: int = 0) -> list[pb.WatchEvalRunResponse]:
    return [event async for event in room.stub.WatchEvalRun(pb.WatchEvalRunRequest(name=run, cursor=cursor))]


async def check_each_row_once(room: Room, run: str, rows: int = 12) -> None:
    items = await room.items(run)
    assert [item.line for item in items] == list(range(1, rows + 1))
    assert [item.name.rsplit("/", 1)[1] for item in items] == [str(k + 1) for k in range(rows)]


async def test_a_stopped_room_hands_its_run_to_the_next_which_goes_on(other_room: MakeRoom, peers: Peers) -> None:
    first = other_room()
    await first.start()
    peers.inference.reply, peers.inference.shut_at = wrong_for(1, 10), 5
    run = await first.run((await first.eval(exact(), fuzzy())).name, concurrency=2)
    await first.done(run.name, 3)
    await calls(peers, 2)
    before = {item.line: item for item in await first.items(run.name)}
    await first.stop()
    peers.inference.gate.set()
    assert 3 <= len(before) < 12

    second = other_room()
    await second.start()
    ended = await second.over(run.name)
    assert (ended.state, ended.overall.n, ended.overall.passed) == (pb.EvalRun.STATE_COMPLETED, 12, 10)
    await check_each_row_once(second, run.name)
    after = {item.line: item for item in await second.items(run.name)}
    assert {line: after[line] for line in before} == before
    asked = Counter(peers.inference.asked())
    assert all(asked[line - 1] == 1 for line in before)


async def test_a_room_on_postgres_ends_a_handed_over_run_alike(
    other_room: MakeRoom, peers: Peers, postgres_url: str
) -> None:
    first, second = other_room(database_url=postgres_url), other_room(database_url=postgres_url)
    await first.start()
    peers.inference.reply = wrong_for(1, 10)
    run = await first.run((await first.eval(exact(), fuzzy())).name, concurrency=2)
    await first.done(run.name, 3)
    await first.stop()
    await second.start()
    ended = await second.over(run.name)
    assert (ended.state, ended.overall.n, ended.overall.passed) == (pb.EvalRun.STATE_COMPLETED, 12, 10)
    await check_each_row_once(second, run.name)
    assert [item.line for item in await second.items(run.name, 'passed = false AND grader = "near"')] == [2, 11]
    assert (await watched(second, run.name))[-1].eval_run == ended


async def test_two_rooms_on_one_database_share_the_work_without_doing_it_twice(
    other_room: MakeRoom, peers: Peers
) -> None:
    first, second = other_room(evaluation_runs_at_once=1), other_room(evaluation_runs_at_once=1)
    await first.start()
    await second.start()
    eval_ = await first.eval()
    runs = [await first.run(eval_.name) for _ in range(4)]
    for run in runs:
        assert (await second.over(run.name)).overall.n == 12
        await check_each_row_once(first, run.name)
    assert set(Counter(peers.inference.asked()).values()) == {4}


async def test_more_runs_than_places_wait_in_the_order_they_came(other_room: MakeRoom, peers: Peers) -> None:
    room = other_room(evaluation_runs_at_once=1)
    await room.start()
    peers.inference.gate.clear()
    eval_ = await room.eval()
    first, second = await room.run(eval_.name), await room.run(eval_.name)
    await calls(peers, 4)
    assert (await room.get(first.name)).state == pb.EvalRun.STATE_RUNNING
    assert (await room.get(second.name)).state == pb.EvalRun.STATE_QUEUED
    peers.inference.gate.set()
    assert (await room.over(second.name)).state == pb.EvalRun.STATE_COMPLETED
    assert (await room.get(first.name)).state == pb.EvalRun.STATE_COMPLETED


@pytest.fixture
def process(settings: Settings, tmp_path: Path) -> Iterator[Callable[..., RoomProcess]]:
    made: list[RoomProcess] = []
    port = free_port()

    def make(failpoints: str = "") -> RoomProcess:
        values = settings(evaluation_port=port, evaluation_lease_seconds=0.5).model_dump(
            mode="json", exclude_defaults=True
        )
        environment = {f"FEINSCHLIFF_{name.upper()}": str(value) for name, value in values.items()}
        environment["FEINSCHLIFF_FAILPOINTS"] = failpoints
        made.append(room_process("evaluation", port, environment, tmp_path, is_forked=True))
        return made[-1]

    yield make
    for one in made:
        one.close()


def create_run(address: str) -> str:
    with grpc.insecure_channel(address) as channel:
        stub = evaluation_pb2_grpc.EvaluationServiceStub(channel)
        wanted = pb.Eval(dataset_version=VERSION, graders=[exact(), fuzzy()])
        eval_ = stub.CreateEval(pb.CreateEvalRequest(parent=PARENT, eval_id="killed", eval=wanted))
        request = pb.CreateEvalRunRequest(parent=eval_.name, eval_run_id="one", eval_run=pb.EvalRun(model="router"))
        return str(stub.CreateEvalRun(request).name)


def final_run(address: str, name: str) -> tuple[pb.EvalRun, list[pb.OutputItem]]:
    with grpc.insecure_channel(address) as channel:
        stub = evaluation_pb2_grpc.EvaluationServiceStub(channel)

        def look() -> pb.EvalRun | None:
            run = stub.GetEvalRun(pb.GetEvalRunRequest(name=name))
            return run if run.state in FINAL else None

        run = eventually(look, 20, "the end of the run")
        items = stub.ListOutputItems(pb.ListOutputItemsRequest(parent=name, page_size=100)).output_items
        assert run is not None
        return run, list(items)


@pytest.mark.parametrize(
    "failpoint",
    [
        "evaluation.before_item=kill@1",
        "evaluation.before_item=kill@7",
        "evaluation.after_item=kill@1",
        "evaluation.after_item=kill@6",
        "evaluation.after_item=kill@12",
        "evaluation.before_finish=kill@1",
    ],
)
def test_a_killed_run_continues_and_ends_as_an_undisturbed_one(
    process: Callable[..., RoomProcess], peers: Peers, failpoint: str
) -> None:
    peers.inference.reply = wrong_for(0, 5, 11)
    killed = process(failpoint)
    killed.start_and_wait()
    name = create_run(killed.address)
    assert killed.running is not None
    assert killed.running.wait(20) == -signal.SIGKILL

    again = process()
    again.start_and_wait()
    run, items = final_run(again.address, name)
    assert (run.state, run.overall.n, run.overall.passed) == (pb.EvalRun.STATE_COMPLETED, 12, 9)
    assert [item.line for item in items] == list(range(1, 13))
    assert [item.passed for item in items] == [k not in (0, 5, 11) for k in range(12)]
    assert all(len(item.grades) == 2 for item in items)
    assert set(peers.inference.asked()) == set(range(12))


async def test_a_cancelled_run_stops_and_keeps_what_is_done(room: Room, peers: Peers) -> None:
    peers.inference.shut_at = 5
    run = await room.run((await room.eval()).name, concurrency=1)
    await calls(peers, 1)
    await room.done(run.name, 4)
    asked = await room.stub.CancelEvalRun(pb.CancelEvalRunRequest(name=run.name))
    assert asked.state in (pb.EvalRun.STATE_CANCELLING, pb.EvalRun.STATE_CANCELLED)
    ended = await room.over(run.name)
    await calls(peers, 0)

    assert ended.state == pb.EvalRun.STATE_CANCELLED
    items = await room.items(run.name)
    assert len(items) == 4
    assert (ended.overall.n, ended.progress.done) == (len(items), len(items))
    again = await room.stub.CancelEvalRun(pb.CancelEvalRunRequest(name=run.name))
    assert again == ended
    peers.inference.gate.set()
    assert (await room.measured((await room.eval()).name)).state == pb.EvalRun.STATE_COMPLETED


async def test_a_run_that_waits_is_cancelled_at_once(other_room: MakeRoom, peers: Peers) -> None:
    room = other_room(evaluation_runs_at_once=1)
    await room.start()
    peers.inference.gate.clear()
    eval_ = await room.eval()
    await room.run(eval_.name)
    await calls(peers, 4)
    waiting = await room.run(eval_.name)
    ended = await room.stub.CancelEvalRun(pb.CancelEvalRunRequest(name=waiting.name))
    assert (ended.state, ended.progress.done) == (pb.EvalRun.STATE_CANCELLED, 0)
    assert len(peers.inference.requests) == 4


async def test_a_run_that_is_over_cannot_be_cancelled(room: Room) -> None:
    run = await room.measured((await room.eval()).name, limit=1)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await room.stub.CancelEvalRun(pb.CancelEvalRunRequest(name=run.name))
    assert error.value.code() == grpc.StatusCode.FAILED_PRECONDITION


async def test_a_run_whose_room_died_while_it_stopped_is_ended_by_the_next(other_room: MakeRoom, peers: Peers) -> None:
    first = other_room()
    await first.start()
    peers.inference.gate.clear()
    run = await first.run((await first.eval()).name)
    await calls(peers, 4)
    await first.stop()
    database = Database(first.settings.database_url_for("evaluation"), "evaluation")
    evaluations = Evaluations(database, SystemClock(), new_id)
    Runs(database, evaluations, SystemClock(), Wake(), new_id).cancel(run.name)
    database.close()
    asked = len(peers.inference.requests)

    second = other_room()
    await second.start()
    assert (await second.over(run.name)).state == pb.EvalRun.STATE_CANCELLED
    assert len(peers.inference.requests) == asked


async def test_a_watch_begins_with_the_present_and_ends_with_the_end(room: Room, peers: Peers) -> None:
    peers.inference.gate.clear()
    run = await room.run((await room.eval()).name)
    await calls(peers, 4)
    watching = asyncio.create_task(watched(room, run.name))
    peers.inference.gate.set()
    events = await asyncio.wait_for(watching, 20)

    cursors = [event.cursor for event in events]
    assert cursors == sorted(set(cursors))
    assert events[-1].eval_run.state == pb.EvalRun.STATE_COMPLETED
    done = [event.eval_run.progress.done for event in events]
    assert done == sorted(done)
    assert done[-1] == 12
    assert all(event.eval_run.overall.n == event.eval_run.progress.done for event in events)


async def test_a_watch_goes_on_behind_its_cursor_without_loss_or_double(other_room: MakeRoom, peers: Peers) -> None:
    first = other_room()
    await first.start()
    peers.inference.gate.clear()
    run = await first.run((await first.eval()).name)
    await calls(peers, 4)
    watch = first.stub.WatchEvalRun(pb.WatchEvalRunRequest(name=run.name))
    seen = await watch.read()
    assert isinstance(seen, pb.WatchEvalRunResponse)
    assert seen.eval_run.state == pb.EvalRun.STATE_RUNNING
    await first.stop()
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await watch.read()
    assert error.value.code() == grpc.StatusCode.UNAVAILABLE

    peers.inference.gate.set()
    second = other_room()
    await second.start()
    events = await asyncio.wait_for(watched(second, run.name, seen.cursor), 20)
    cursors = [event.cursor for event in events]
    assert cursors == sorted(set(cursors))
    assert cursors[0] > seen.cursor
    assert events[-1].eval_run.state == pb.EvalRun.STATE_COMPLETED
    assert await watched(second, run.name, events[-1].cursor) == []
    (present,) = await watched(second, run.name)
    assert present == events[-1]


async def test_a_watch_of_nothing_is_refused(room: Room) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await watched(room, "projects/default/evals/none/runs/none")
    assert error.value.code() == grpc.StatusCode.NOT_FOUND


async def test_what_is_counted_can_be_read_at_the_metrics_port(room: Room, peers: Peers) -> None:
    peers.inference.reply = wrong_for(3)
    await room.measured((await room.eval()).name)
    assert room.running is not None
    port = room.running.metrics_ports["evaluation"]

    async def page() -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
        text = (await reader.read()).decode()
        writer.close()
        await writer.wait_closed()
        return text

    async def counted() -> bool:
        return 'feinschliff_evaluation_runs{state="completed"} 1.0' in await page()

    await eventually_async(counted, 30, "the gauge of completed runs")
    text = await page()
    assert 'feinschliff_evaluation_items_total{outcome="passed"} 11.0' in text
    assert 'feinschliff_evaluation_items_total{outcome="failed"} 1.0' in text
    assert "feinschliff_evaluation_sampled_tokens_total 24.0" in text
    assert 'feinschliff_evaluation_grader_seconds_count{grader="string_check"} 12.0' in text
    assert 'feinschliff_evaluation_runs_finished_total{state="completed"} 1.0' in text
    assert "grpc_server_handled_total" in text
