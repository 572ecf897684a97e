"""A search for a better prompt tries prompts on train rows and is judged on rows that it did not see."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from feinschliff.kit.errors import from_rpc_error
from feinschliff.v1 import common_pb2 as common
from feinschliff.v1 import evaluation_pb2 as pb
from feinschliff.v1.inference_pb2 import ChatRequest
from tests.contract.evaluation.conftest import PARENT, Room, calls
from tests.contract.evaluation.peers import INTENTS, VERSION, Peers, conversations
from tests.support.waiting import eventually_async

GOOD = "Answer with one word: refund, delivery or billing."
TEMPLATE = pb.PromptTemplate(
    messages=pb.TemplateMessages(
        messages=[pb.TemplateMessage(role=common.ROLE_USER, text="{{ item.messages[1].content }}")]
    )
)


def reply(request: ChatRequest) -> str:
    """Proposes GOOD as the second proposal; is right under it, and wrong for odd rows under anything else."""
    texts = [one.parts[0].text for one in request.messages]
    if texts[0].startswith("You improve instructions"):
        return f" {GOOD} {{{{ item.x }}}}\n" if "Be brief" in texts[1] else "Be brief."
    number = int(texts[-1].rsplit(" ", 1)[1])
    return INTENTS[number % 3] if texts[0].startswith(GOOD) or number % 4 == 0 or "Be brief." in texts else "?"


async def ended(room: Room, name: str) -> pb.PromptOptimization:
    over = (pb.PromptOptimization.STATE_QUEUED, pb.PromptOptimization.STATE_RUNNING)

    async def look() -> pb.PromptOptimization | None:
        seen = await room.stub.GetPromptOptimization(pb.GetPromptOptimizationRequest(name=name))
        return None if seen.state in over else seen

    found = await eventually_async(look, 60, f"the end of {name}")
    assert found is not None
    return found


async def optimize(room: Room, eval_: str, **fields: object) -> pb.PromptOptimization:
    wanted = pb.PromptOptimization(eval=eval_, model="router", **fields)  # type: ignore[arg-type]
    return await room.stub.OptimizePrompt(
        pb.OptimizePromptRequest(parent=PARENT, prompt_optimization_id="better", prompt_optimization=wanted)
    )


@pytest.fixture
def split_rows(peers: Peers) -> None:
    rows = conversations(30)
    peers.ingestion.versions[VERSION] = {"train": rows[:12], "test": rows[12:]}


async def test_the_best_prompt_is_found_stored_and_judged_on_rows_held_back(
    room: Room, peers: Peers, split_rows: None
) -> None:
    peers.inference.reply = reply
    eval_ = await room.eval(prompt=TEMPLATE)
    made = await optimize(room, eval_.name, candidates_max=6)
    found = await ended(room, made.name)
    assert (found.state, found.failure.reason) == (pb.PromptOptimization.STATE_SUCCEEDED, "")
    assert found.best_prompt.startswith(f"{PARENT}/prompts/better/versions/")
    best = await room.stub.GetPrompt(pb.GetPromptRequest(name=found.best_prompt))
    assert [turn.role for turn in best.messages] == [common.ROLE_SYSTEM, common.ROLE_USER]
    assert "{{" not in best.messages[0].text
    comparison = found.comparison
    assert (comparison.n, comparison.candidate_mean, comparison.verdict) == (18, 1.0, pb.RunComparison.VERDICT_BETTER)
    judged = await room.items(comparison.candidate)
    assert {item.line for item in judged} == set(range(13, 31))
    assert found.usage.prompt_tokens > comparison.n * 2 * 10
    searched = (await room.stub.ListEvalRuns(pb.ListEvalRunsRequest(parent=eval_.name))).eval_runs
    assert {run.split for run in searched} == {common.SPLIT_TRAIN, common.SPLIT_TEST}
    assert {run.labels["prompt_optimization"] for run in searched} == {"better"}
    watched = room.stub.WatchPromptOptimization(pb.WatchPromptOptimizationRequest(name=made.name))
    events = [event async for event in watched]
    assert [event.prompt_optimization for event in events] == [found]
    listed = await room.stub.ListPromptOptimizations(pb.ListPromptOptimizationsRequest(parent=PARENT))
    assert list(listed.prompt_optimizations) == [found]


async def test_a_run_that_somebody_else_made_under_the_name_is_not_taken_for_a_measurement(
    room: Room, peers: Peers, split_rows: None
) -> None:
    peers.inference.reply = reply
    eval_ = await room.eval(prompt=TEMPLATE)
    planted = pb.EvalRun(model="router", split=common.SPLIT_TRAIN, labels={"prompt_optimization": "better"})
    await room.stub.CreateEvalRun(pb.CreateEvalRunRequest(parent=eval_.name, eval_run_id="better-1", eval_run=planted))
    found = await ended(room, (await optimize(room, eval_.name)).name)
    assert (found.state, found.failure.reason) == (pb.PromptOptimization.STATE_FAILED, "OPTIMIZATION_RUN_FOREIGN")


async def test_a_search_is_stopped_with_its_run_and_survives_its_room(
    room: Room, peers: Peers, split_rows: None
) -> None:
    peers.inference.reply = reply
    peers.inference.gate.clear()
    eval_ = await room.eval(prompt=TEMPLATE)
    made = await optimize(room, eval_.name, examples_max=2)
    await calls(peers, 4)
    await room.stop()
    await room.start()
    await calls(peers, 4)
    request = pb.CancelPromptOptimizationRequest(name=made.name)
    stopped = await room.stub.CancelPromptOptimization(request)
    assert stopped.state == pb.PromptOptimization.STATE_CANCELLED
    assert await room.stub.CancelPromptOptimization(request) == stopped
    await asyncio.wait_for(calls(peers, 0), 30)
    runs = (await room.stub.ListEvalRuns(pb.ListEvalRunsRequest(parent=eval_.name))).eval_runs
    assert len(runs) == 1
    assert (await room.over(runs[0].name)).state == pb.EvalRun.STATE_CANCELLED


async def test_a_search_needs_rows_to_judge_by_and_words_to_improve(room: Room, peers: Peers) -> None:
    async def refusal(eval_: str, **fields: object) -> str:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await optimize(room, eval_, **fields)
        return from_rpc_error(error.value).reason

    assert await refusal((await room.eval(prompt=TEMPLATE)).name) == "OPTIMIZATION_ROWS_MISSING"
    rows = conversations(8)
    peers.ingestion.versions[VERSION] = {"train": rows[:6], "test": rows[6:]}
    assert await refusal((await room.eval()).name) == "OPTIMIZATION_PROMPT_MISSING"
    assert await refusal((await room.eval(prompt=TEMPLATE)).name, candidates_max=1) == "OPTIMIZATION_INVALID"
    missing = f"{PARENT}/prompts/none/versions/1"
    assert await refusal((await room.eval()).name, start_prompt=missing) == "PROMPT_NOT_FOUND"
