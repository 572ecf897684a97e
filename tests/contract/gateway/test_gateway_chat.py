"""`/v1/chat/completions` through the unmodified `openai` package."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import openai as sdk
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionChunk

from tests.contract.gateway.asking import ask
from tests.contract.gateway.harness import Gateway
from tests.contract.gateway.tuned import BASE, make_tuned
from tests.support.waiting import eventually


@pytest.fixture(autouse=True)
def _served(request: pytest.FixtureRequest) -> None:
    """The base is served already, unless a test says otherwise."""
    if "gateway" in request.fixturenames:
        gateway: Gateway = request.getfixturevalue("gateway")
        gateway.backends.inference.serve()


def test_an_answer_has_openais_shape(openai: OpenAI) -> None:
    answer = ask(openai)
    assert answer.id.startswith("chatcmpl-")
    assert (answer.object, answer.model, len(answer.choices)) == ("chat.completion", BASE, 1)
    choice = answer.choices[0]
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "stop", None)
    assert (choice.message.role, choice.message.content, choice.message.refusal) == (
        "assistant",
        "you said: hello there",
        None,
    )
    assert choice.message.tool_calls is None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (2, 4, 6)
    assert answer.system_fingerprint == "fp_abababab_none_cdcdcdcd"


def test_a_tuned_model_answers_under_its_own_name(openai: OpenAI, gateway: Gateway) -> None:
    tuned = make_tuned(openai, gateway)
    answer = ask(openai, model=tuned.name)
    assert answer.model == tuned.name
    assert gateway.backends.inference.requests[-1].model == tuned.version


def test_the_last_checkpoint_is_the_model_and_earlier_ones_are_refused_by_name(
    openai: OpenAI, gateway: Gateway
) -> None:
    tuned = make_tuned(openai, gateway)
    newest, older = openai.fine_tuning.jobs.checkpoints.list(tuned.job_id).data
    assert ask(openai, model=newest.fine_tuned_model_checkpoint).model == newest.fine_tuned_model_checkpoint
    with pytest.raises(sdk.BadRequestError) as caught:
        ask(openai, model=older.fine_tuned_model_checkpoint)
    assert (caught.value.code, caught.value.param) == ("checkpoint_not_served", "model")
    with pytest.raises(sdk.NotFoundError):
        ask(openai, model=f"{tuned.name}:ckpt-step-99")


def test_the_best_checkpoint_is_the_model_where_one_was_kept(openai: OpenAI, gateway: Gateway) -> None:
    tuned = make_tuned(openai, gateway)
    name = f"projects/default/trainingJobs/{tuned.job_id}"
    gateway.backends.training.jobs[name].best_checkpoint = f"{name}/checkpoints/2"
    assert ask(openai, model=f"{tuned.name}:ckpt-step-2").choices
    with pytest.raises(sdk.BadRequestError):
        ask(openai, model=f"{tuned.name}:ckpt-step-4")


def test_sampling_goes_on_as_it_was_asked_for(openai: OpenAI, gateway: Gateway) -> None:
    ask(openai, temperature=0, top_p=0.5, max_tokens=50, seed=-3, stop=["END", "\n"], user="u1")
    ask(openai, presence_penalty=-1.5, frequency_penalty=2, logit_bias={"5": 1, "70": -100})
    penalised = gateway.backends.inference.requests.pop().sampling
    assert (penalised.presence_penalty, penalised.frequency_penalty) == (-1.5, 2)
    assert dict(penalised.logit_bias) == {5: 1, 70: -100}
    request = gateway.backends.inference.requests[-1]
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.max_tokens, sampling.seed) == (0, 0.5, 50, -3)
    assert (list(sampling.stop), request.user) == (["END", "\n"], "u1")


def test_what_is_not_said_stays_unsaid(openai: OpenAI, gateway: Gateway) -> None:
    ask(openai, temperature=None, stop=None, seed=None)
    sampling = gateway.backends.inference.requests[-1].sampling
    assert [field.name for field, _ in sampling.ListFields()] == []


def test_a_stop_text_may_be_a_plain_string(openai: OpenAI) -> None:
    assert ask(openai, "one two three", stop=" three").choices[0].message.content == "you said: one two"


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_an_answer_cut_at_its_length_says_so(openai: OpenAI, name: str) -> None:
    options: dict[str, Any] = {name: 3}
    choice = ask(openai, **options).choices[0]
    assert (choice.message.content, choice.finish_reason) == ("you said: hello", "length")


def test_a_conversation_with_parts_and_tools_goes_on_whole(openai: OpenAI, gateway: Gateway) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"city": "Ulm"}'}}
    openai.chat.completions.create(
        model=BASE,
        messages=[
            {"role": "developer", "content": "be short"},
            {"role": "user", "content": [{"type": "text", "text": "wea"}, {"type": "text", "text": "ther?"}]},
            {"role": "assistant", "content": None, "tool_calls": [call]},  # type: ignore[list-item]
            {"role": "tool", "tool_call_id": "c1", "content": "rain"},
            {"role": "user", "content": "so?", "name": "ann"},
        ],
    )
    messages = gateway.backends.inference.requests[-1].messages
    assert [message.role for message in messages] == [2, 3, 4, 5, 3]
    assert [part.text for part in messages[1].parts] == ["wea", "ther?"]
    assert messages[2].parts[0].tool_call.arguments["city"] == "Ulm"
    assert (messages[3].parts[0].tool_result.tool_call_id, messages[3].parts[0].tool_result.text) == ("c1", "rain")
    assert messages[4].name == "ann"


def test_an_answer_can_be_sent_back_as_part_of_the_conversation(openai: OpenAI) -> None:
    first = ask(openai).choices[0].message
    again = openai.chat.completions.create(
        model=BASE, messages=[{"role": "user", "content": "x"}, first.model_dump(), {"role": "user", "content": "y"}]
    )
    assert again.choices[0].message.content == "you said: y"


def test_a_stream_brings_role_then_text_then_the_reason(openai: OpenAI) -> None:
    chunks: list[ChatCompletionChunk] = list(ask(openai, stream=True))
    assert {(chunk.id, chunk.object, chunk.model, chunk.created) for chunk in chunks} == {
        (chunks[0].id, "chat.completion.chunk", BASE, chunks[0].created)
    }
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "you said: hello there"
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks)


def test_a_stream_equals_the_whole_answer(openai: OpenAI) -> None:
    options: dict[str, Any] = {"max_tokens": 3, "stop": ["zzz"]}
    whole = ask(openai, "one two three four", **options)
    chunks = list(ask(openai, "one two three four", stream=True, stream_options={"include_usage": True}, **options))
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason == "length"
    assert chunks[-1].usage == whole.usage


def test_usage_comes_last_and_only_where_it_is_asked_for(openai: OpenAI) -> None:
    chunks = list(ask(openai, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert all("usage" in chunk.to_dict() and chunk.usage is None for chunk in chunks[:-1])


def test_a_stream_arrives_while_it_is_being_made(openai: OpenAI, gateway: Gateway) -> None:
    stream = ask(openai, "hang later", stream=True)
    pieces = [next(stream).choices[0].delta.content for _ in range(2)]
    assert pieces == ["", "you"]
    stream.close()
    assert gateway.backends.inference.cancelled.wait(10)


def test_the_async_client_streams_as_well(gateway: Gateway) -> None:
    async def text() -> str:
        async with AsyncOpenAI(api_key="any", base_url=f"{gateway.url}/v1", max_retries=0) as client:
            stream = await client.chat.completions.create(
                model=BASE, messages=[{"role": "user", "content": "hi"}], stream=True
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert asyncio.run(text()) == "you said: hi"


def test_a_client_that_leaves_stops_the_work(gateway: Gateway) -> None:
    client = gateway.client(timeout=0.3)
    with pytest.raises(sdk.APITimeoutError):
        ask(client, "hang")
    assert gateway.backends.inference.cancelled.wait(10)
    requests = "feinschliff_gateway_http_requests_in_flight"
    eventually(lambda: gateway.metrics.value(requests) == 0, what="the request's end")


def test_a_client_that_leaves_before_the_first_token_stops_the_work(gateway: Gateway) -> None:
    client = gateway.client(timeout=0.3)
    with pytest.raises(sdk.APITimeoutError):
        ask(client, "hang", stream=True)
    assert gateway.backends.inference.cancelled.wait(10)


def test_chats_however_they_end_leave_nothing_running(started: Callable[..., Gateway]) -> None:
    gateway = started()
    gateway.backends.inference.serve()
    client = gateway.client()
    ask(client)
    before = gateway.door.tasks()
    for _ in range(3):
        assert list(ask(client, stream=True))
        ask(client, "hang later", stream=True).close()
        with pytest.raises(sdk.APITimeoutError):
            ask(client.with_options(timeout=0.2), "hang")
        with pytest.raises(sdk.InternalServerError):
            ask(client, "crash")
        with pytest.raises(sdk.APIError):
            list(ask(client, "break", stream=True))
    eventually(lambda: gateway.door.tasks() <= before, what="the end of what the chats started")


def test_a_stream_that_breaks_off_ends_with_an_error_and_never_with_done(openai: OpenAI) -> None:
    stream = ask(openai, "break", stream=True)
    chunks = []
    with pytest.raises(sdk.APIError) as caught:
        chunks += list(stream)
    assert (caught.value.code, caught.value.type) == ("internal_error", "server_error")


def test_an_error_before_the_first_token_is_an_ordinary_one(openai: OpenAI) -> None:
    with pytest.raises(sdk.NotFoundError) as caught:
        ask(openai, model="gpt-4o", stream=True)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    with pytest.raises(sdk.RateLimitError):
        ask(openai, "busy", stream=True)


UNSERVED = [
    {"functions": [{"name": "f"}]},
    {"modalities": ["text", "audio"]},
    {"audio": {"voice": "x", "format": "mp3"}},
    {"web_search_options": {}},
]


@pytest.mark.parametrize("options", UNSERVED, ids=lambda options: "-".join(options))
def test_what_would_change_the_answer_and_is_not_served_is_refused_by_name(
    openai: OpenAI, gateway: Gateway, options: dict[str, Any]
) -> None:
    with pytest.raises(sdk.BadRequestError) as caught:
        ask(openai, **options)
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", next(iter(options)))
    assert gateway.backends.inference.requests == []


def test_what_changes_nothing_is_ignored(openai: OpenAI) -> None:
    answer = ask(
        openai,
        n=1,
        logprobs=False,
        presence_penalty=0,
        frequency_penalty=0.0,
        logit_bias={},
        response_format={"type": "text"},
        tools=[],
        tool_choice="auto",
        modalities=["text"],
        store=False,
        metadata={"a": "b"},
        parallel_tool_calls=True,
        service_tier="auto",
        safety_identifier="s",
        prompt_cache_key="k",
        prompt_cache_retention="24h",
        reasoning_effort="low",
        verbosity="low",
        prediction={"type": "content", "content": "x"},
    )
    assert answer.choices[0].message.content == "you said: hello there"


@pytest.mark.parametrize(
    ("options", "code", "param"),
    [
        ({"temperature": 2.1}, "decimal_above_max_value", "temperature"),
        ({"temperature": -0.1}, "decimal_below_min_value", "temperature"),
        ({"temperature": "hot"}, "invalid_type", "temperature"),
        ({"top_p": 1.5}, "decimal_above_max_value", "top_p"),
        ({"max_tokens": 0}, "integer_below_min_value", "max_tokens"),
        ({"max_completion_tokens": -1}, "integer_below_min_value", "max_completion_tokens"),
        ({"n": 0}, "integer_below_min_value", "n"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "array_above_max_length", "stop"),
        ({"stop": ["a", 3]}, "invalid_type", "stop[1]"),
        ({"seed": 2**63}, "invalid_value", "seed"),
        ({"top_logprobs": 3}, "invalid_value", "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "invalid_value", "stream_options"),
        ({"messages": []}, "empty_array", "messages"),
        ({"messages": "hello"}, "invalid_type", "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "invalid_value", "messages[0].role"),
        ({"messages": [{"content": "x"}]}, "missing_required_parameter", "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "missing_required_parameter", "messages[0].content"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "missing_required_parameter", "messages[0].tool_call_id"),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}],
                    }
                ]
            },
            "unsupported_parameter",
            "messages[0].content[1]",
        ),
        ({"messages": [{"role": "user", "content": "x", "colour": "red"}]}, "unknown_parameter", "messages[0].colour"),
        ({"extra_body": {"top_k": 5}}, "unknown_parameter", "top_k"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_wrong_request_is_refused_with_code_and_param(
    openai: OpenAI, gateway: Gateway, options: dict[str, Any], code: str, param: str
) -> None:
    with pytest.raises(sdk.BadRequestError) as caught:
        ask(openai, **options)
    assert (caught.value.code, caught.value.param) == (code, param), caught.value.message
    assert gateway.backends.inference.requests == []


def test_a_conversation_that_is_too_long_has_openais_code(openai: OpenAI) -> None:
    with pytest.raises(sdk.BadRequestError) as caught:
        ask(openai, "long")
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")
    with pytest.raises(sdk.BadRequestError) as caught:
        ask(openai, "long", max_tokens=9)
    assert caught.value.param == "max_completion_tokens"


def test_a_full_queue_is_429_with_a_time_to_come_back(openai: OpenAI) -> None:
    with pytest.raises(sdk.RateLimitError) as caught:
        ask(openai, "busy")
    assert (caught.value.code, caught.value.type) == ("rate_limit_exceeded", "requests")
    headers = caught.value.response.headers
    assert (headers["retry-after"], headers["retry-after-ms"], headers["x-should-retry"]) == ("3", "2500", "true")


def test_a_fault_of_ours_is_500_with_an_id_and_no_detail(openai: OpenAI) -> None:
    with pytest.raises(sdk.InternalServerError) as caught:
        ask(openai, "crash")
    assert (caught.value.status_code, caught.value.code, caught.value.type) == (500, "internal_error", "server_error")
    assert "error id" in caught.value.message
    assert "engine" not in caught.value.message
