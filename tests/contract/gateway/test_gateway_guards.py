"""What guards do to a chat, and moderation, through the unmodified `openai` package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openai as sdk
import pytest
from openai import OpenAI

from feinschliff.detectors import words
from feinschliff.gateway.moderations import LISTS
from tests.contract.gateway.asking import ask
from tests.contract.gateway.harness import Gateway
from tests.contract.gateway.tuned import BASE


@pytest.fixture(autouse=True)
def _served(gateway: Gateway) -> None:
    gateway.backends.inference.serve()


@pytest.mark.parametrize("stream", [False, True])
def test_a_blocked_conversation_is_an_error_of_the_request(openai: OpenAI, stream: bool) -> None:
    with pytest.raises(sdk.BadRequestError) as caught:
        ask(openai, "forbidden", stream=stream)
    assert (caught.value.code, caught.value.param) == ("content_filter", "messages[0]")
    assert "guard 'g'" in caught.value.message


def test_an_answer_that_a_guard_ended_says_so(openai: OpenAI) -> None:
    (choice,) = ask(openai, "say what a guard ends").choices
    assert (choice.finish_reason, choice.message.content) == ("content_filter", "you said:")
    chunks = list(ask(openai, "say what a guard ends", stream=True))
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "content_filter"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "you said:"


def test_moderation_says_what_lists_of_words_can_say_and_nothing_else(openai: OpenAI) -> None:
    answer = openai.moderations.create(input=["all is well", "hate and threat"])
    assert answer.id.startswith("modr-")
    assert answer.model == "feinschliff-words"
    fine, bad = answer.results
    assert (fine.flagged, bad.flagged) == (False, True)
    assert (fine.categories.hate, fine.category_scores.hate) == (False, 0.0)
    assert (bad.categories.hate, bad.category_scores.hate, bad.categories.harassment) == (True, 1.0, False)
    assert bad.categories.harassment_threatening
    for result in answer.results:
        assert result.categories.sexual_minors is None
        assert result.category_scores.illicit is None
        assert result.category_applied_input_types.sexual_minors == []
        assert result.category_applied_input_types.hate == ["text"]


def test_moderation_takes_one_text_and_parts(openai: OpenAI) -> None:
    (one,) = openai.moderations.create(input="violence", model="omni-moderation-latest").results
    (part,) = openai.moderations.create(input=[{"type": "text", "text": "violence"}]).results
    assert one.categories.violence
    assert part.categories.violence


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"input": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]}, "input"),
        ({"input": []}, "input"),
        ({"input": "x", "model": "gpt-x"}, "model"),
    ],
)
def test_moderation_refuses_what_it_cannot_judge(openai: OpenAI, options: dict[str, Any], param: str) -> None:
    with pytest.raises(sdk.BadRequestError) as caught:
        openai.moderations.create(**options)
    assert caught.value.param == param


def test_every_list_of_words_judges_a_category() -> None:
    assert set(LISTS.values()) - {None} == set(words.NAMES)


def test_guards_are_skipped_by_a_key_that_may_and_by_no_other(started: Callable[..., Gateway]) -> None:
    gateway = started(gateway_api_keys="sk-all=default,sk-may=default:skip_guards")
    inference = gateway.backends.inference
    inference.serve()
    may, others = gateway.client("sk-may"), gateway.client("sk-all")
    ask(others)
    ask(may, extra_body={"skip_guards": True})
    ask(others, extra_body={"skip_guards": False})
    assert [one.skip_guards for one in inference.requests] == [False, True, False]
    may.completions.create(model=BASE, prompt="x", extra_body={"skip_guards": True})
    assert [one.skip_guards for one in inference.completes] == [True]
    for refuse in (ask, lambda client, **more: client.completions.create(model=BASE, prompt="x", **more)):
        with pytest.raises(sdk.PermissionDeniedError) as caught:
            refuse(others, extra_body={"skip_guards": True})
        assert (caught.value.code, caught.value.param) == ("permission_denied", "skip_guards")
    assert (len(inference.requests), len(inference.completes)) == (3, 1)
