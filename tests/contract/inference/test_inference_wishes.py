"""What a call may want of its answers: how they are drawn, how likely each token was, and several of them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from feinschliff.inference.engine import Delta, Engine, GenerationRequest
from feinschliff.kit.errors import Invalid
from feinschliff.v1 import inference_pb2 as pb
from tests.contract.inference.adapters import Oracle
from tests.contract.inference.generating import generate, texts
from tests.contract.inference.site import LINGERING, Site, chat_request, text_of
from tests.support.waiting import eventually_async

PROMPT = list(range(3, 40))
DRAW: dict[str, Any] = {"temperature": 1.3, "max_tokens": 24}


def scored(engine: Engine, request: GenerationRequest) -> tuple[list[int], list[Any]]:
    events = generate(engine, [request])[0].events
    scores = [event.score for event in events[1:] if event.score is not None]  # type: ignore[union-attr]
    return [score.token_id for score in scores], scores


def test_a_seed_draws_the_same_whatever_else_is_in_the_batch(engine: Engine) -> None:
    kinds: list[dict[str, Any]] = [
        {},
        {"top_k": 5},
        {"top_p": 0.6},
        {"min_p": 0.2},
        {"repetition_penalty": 1.4, "presence_penalty": 0.5, "frequency_penalty": -0.3},
        {"logit_bias": {7: 4.0, 9: -100.0}},
    ]
    requests = [
        GenerationRequest(PROMPT[: 9 + place], max_tokens=30, temperature=1.2, seed=place, logprobs=2 * place, **kind)
        for place, kind in enumerate(kinds)
    ]
    alone = [texts(engine, [request])[0] for request in requests]
    assert texts(engine, requests) == alone
    assert len(set(alone)) == len(alone)


def test_penalties_and_bias_change_what_the_likeliest_token_is(engine: Engine) -> None:
    first, _ = scored(engine, GenerationRequest(PROMPT, max_tokens=12, logprobs=0))
    pushed, _ = scored(engine, GenerationRequest(PROMPT, max_tokens=12, logprobs=0, logit_bias={first[0]: -100.0}))
    assert pushed[0] != first[0]
    forced, _ = scored(engine, GenerationRequest(PROMPT, max_tokens=6, logprobs=0, logit_bias={99: 100.0}))
    assert forced == [99] * 6
    once, _ = scored(
        engine, GenerationRequest(PROMPT, max_tokens=40, logprobs=0, presence_penalty=2.0, frequency_penalty=2.0)
    )
    assert len(set(once)) > len(set(scored(engine, GenerationRequest(PROMPT, max_tokens=40, logprobs=0))[0]))


def test_log_probabilities_are_the_models_own_whatever_is_done_to_the_draw(engine: Engine, oracle: Oracle) -> None:
    wild = {"temperature": 1.7, "seed": 3, "repetition_penalty": 1.5, "logit_bias": {11: 3.0}}
    tokens, scores = scored(engine, GenerationRequest(PROMPT, "one", max_tokens=10, logprobs=4, **wild))
    assert len(tokens) == 10
    logps_TV = oracle.logits([*PROMPT, *tokens], "one")[len(PROMPT) - 1 : -1].log_softmax(-1)
    for score, logps_V in zip(scores, logps_TV, strict=True):
        assert score.logprob == pytest.approx(float(logps_V[score.token_id]), abs=1e-3)
        likeliest = torch.topk(logps_V, 4)
        assert [one.token_id for one in score.top] == likeliest.indices.tolist()
        assert [one.logprob for one in score.top] == pytest.approx(likeliest.values.tolist(), abs=1e-3)


def test_nothing_is_scored_where_nobody_asks(engine: Engine) -> None:
    asks, silent = generate(
        engine, [GenerationRequest(PROMPT, max_tokens=5, logprobs=1), GenerationRequest(PROMPT, max_tokens=5)]
    )
    assert asks.text == silent.text
    assert all(event.score for event in asks.events if isinstance(event, Delta))
    assert not any(getattr(event, "score", None) for event in silent.events)


async def streamed(site: Site, request: pb.ChatRequest) -> list[pb.ChatDelta]:
    call = site.chats.ChatStream(pb.ChatStreamRequest(chat=request), timeout=60)
    return [one.delta async for one in call if one.HasField("delta")]


async def test_every_token_of_an_answer_has_its_log_probability(site: Site) -> None:
    await site.create()
    answer = await site.chat(site.base, max_tokens=20, logprobs=True, top_logprobs=3)
    (choice,) = answer.choices
    assert choice.message == answer.message
    assert len(choice.logprobs) == answer.usage.completion_tokens == 20
    assert b"".join(one.utf8 for one in choice.logprobs).decode(errors="replace").startswith(text_of(answer)[:10])
    for one in choice.logprobs:
        assert one.logprob <= 0
        assert one.top[0].token_id == one.token_id  # greedy
        assert one.top[0].logprob == one.logprob
        assert sum(math.exp(other.logprob) for other in one.top) <= 1
        assert len(one.top) == 3
    deltas = await streamed(site, chat_request(site.base, max_tokens=20, logprobs=True, top_logprobs=3))
    assert [one for delta in deltas for one in delta.logprobs] == list(choice.logprobs)
    assert not (await site.chat(site.base)).choices


async def test_several_answers_differ_and_the_first_is_the_only_one_of_its_seed(site: Site) -> None:
    await site.create()
    alone = await site.chat(site.base, seed=5, **DRAW)
    answer = await site.chat(site.base, seed=5, n=4, **DRAW)
    said = ["".join(part.text for part in choice.message.parts) for choice in answer.choices]
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert len(set(said)) == 4
    assert said[0] == text_of(answer) == text_of(alone)
    assert answer.usage.prompt_tokens == alone.usage.prompt_tokens
    assert answer.usage.completion_tokens <= 4 * 24
    assert answer.usage.completion_tokens > alone.usage.completion_tokens
    again = await site.chat(site.base, seed=5, n=4, **DRAW)
    assert list(again.choices) == list(answer.choices)
    deltas = await streamed(site, chat_request(site.base, seed=5, n=4, **DRAW))
    for index, text in enumerate(said):
        mine = [delta for delta in deltas if delta.index == index]
        assert "".join(delta.text for delta in mine) == text
        assert [bool(delta.finish_reason) for delta in mine] == [False] * (len(mine) - 1) + [True]


async def test_more_answers_than_places_wait_for_each_other(site: Site) -> None:
    await site.stop()
    await site.start(inference_rows_max=2, inference_queue_max=0)
    await site.create()
    answer = await site.chat(site.base, n=5, seed=1, **{**DRAW, "max_tokens": 6})
    assert len(answer.choices) == 5
    assert site.metric("requests_in_flight") == 0


async def test_a_caller_who_goes_ends_all_answers(site: Site) -> None:
    await site.create()
    request = chat_request(site.base, n=3, **LINGERING)
    call = site.chats.ChatStream(pb.ChatStreamRequest(chat=request))
    for _ in range(6):
        await call.read()
    call.cancel()

    async def nothing_runs() -> bool:
        return site.metric("requests_in_flight") == 0

    await eventually_async(nothing_runs, 10, "the places to be free")
    assert site.metric("requests_total", finish="cancelled") == 3
    assert (await site.chat(site.base)).usage.completion_tokens == 8


async def test_wishes_out_of_range_are_refused_by_their_path(site: Site) -> None:
    await site.create()
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"n": 129}, "n"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logit_bias": {512: 1.0}}, "logit_bias[512]"),
    ]
    for sampling, field in wrong:
        refusal = await site.refused(site.base, **sampling)
        assert isinstance(refusal, Invalid)
        assert [violation.field for violation in refusal.fields] == [f"sampling.{field}"]
