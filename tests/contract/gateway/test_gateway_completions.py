"""`/v1/completions` through the unmodified `openai` package."""

from __future__ import annotations

from typing import Any

import openai as sdk
import pytest
from openai import OpenAI

from feinschliff.v1 import inference_pb2 as pb
from tests.contract.gateway.harness import Gateway
from tests.contract.gateway.tuned import BASE


@pytest.fixture(autouse=True)
def _served(gateway: Gateway) -> None:
    gateway.backends.inference.serve()


def complete(client: OpenAI, prompt: Any = "once upon", **options: Any) -> Any:
    return client.completions.create(**{"model": BASE, "prompt": prompt, **options})


def refusal(client: OpenAI, prompt: Any = "once upon", **options: Any) -> tuple[int, str | None, str | None]:
    with pytest.raises(sdk.APIStatusError) as caught:
        complete(client, prompt, **options)
    return caught.value.status_code, caught.value.code, caught.value.param


def asked(gateway: Gateway) -> list[pb.CompleteRequest]:
    return gateway.backends.inference.completes


def test_a_completion_has_openais_shape(openai: OpenAI) -> None:
    answer = complete(openai)
    assert answer.id.startswith("cmpl-")
    assert (answer.object, answer.model, len(answer.choices)) == ("text_completion", BASE, 1)
    choice = answer.choices[0]
    assert (choice.index, choice.text, choice.finish_reason, choice.logprobs) == (0, "again", "length", None)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (2, 2, 4)
    assert answer.system_fingerprint == "fp_abababab_none_cdcdcdcd"


def test_what_is_asked_for_goes_on_as_it_is(openai: OpenAI, gateway: Gateway) -> None:
    complete(openai, temperature=0, top_p=0, max_tokens=7, seed=3, stop="END", echo=True, suffix="end", user="u")
    (request,) = asked(gateway)
    assert (request.text, request.echo, request.suffix) == ("once upon", True, "end")
    sampling = request.sampling
    assert (sampling.temperature, sampling.max_tokens, sampling.seed, list(sampling.stop)) == (0, 7, 3, ["END"])
    assert 0 < sampling.top_p < 1e-3
    complete(openai)
    silent = asked(gateway)[-1].sampling
    assert [field.name for field, _ in silent.ListFields()] == ["max_tokens"]
    assert not asked(gateway)[-1].HasField("best_of")
    assert silent.max_tokens == 16


def test_prompts_of_one_request_go_to_one_route_and_its_user_is_told(openai: OpenAI, gateway: Gateway) -> None:
    answer = complete(openai, prompt=["a", "b", "c"], user="u" * 70)
    assert {(one.project, one.user, one.route_key) for one in asked(gateway)} == {
        ("projects/default", "u" * 64, answer.id)
    }
    complete(openai, user="u")
    assert (asked(gateway)[-1].user, asked(gateway)[-1].route_key) == ("u", "")


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("one two", ["one two"]),
        (["a", "b b"], ["a", "b b"]),
        ([5, 6, 7], [[5, 6, 7]]),
        ([[5, 6], [7]], [[5, 6], [7]]),
    ],
)
def test_prompts_are_texts_or_tokens_one_or_many(
    openai: OpenAI, gateway: Gateway, prompt: Any, said: list[str | list[int]]
) -> None:
    answer = complete(openai, prompt, echo=True)
    assert [one.text or list(one.tokens.ids) for one in asked(gateway)] == said
    texts = [each if isinstance(each, str) else " ".join(map(str, each)) for each in said]
    assert [choice.text for choice in answer.choices] == [f"{text} again" for text in texts]
    assert [choice.index for choice in answer.choices] == list(range(len(said)))
    assert answer.usage.completion_tokens == 2 * len(said)


def test_many_prompts_are_answered_a_few_at_a_time(openai: OpenAI, gateway: Gateway) -> None:
    answer = complete(openai, [f"text {number}" for number in range(60)], echo=True)
    assert [choice.text for choice in answer.choices] == [f"text {number} again" for number in range(60)]
    assert 1 < gateway.backends.inference.at_once_max <= 16


def test_a_stream_brings_each_prompts_text_in_order_and_says_why_it_ended(openai: OpenAI) -> None:
    chunks = list(complete(openai, ["a", "b", "c"], echo=True, stream=True, stream_options={"include_usage": True}))
    assert {(chunk.object, chunk.id) for chunk in chunks} == {("text_completion", chunks[0].id)}
    *pieces, last = chunks
    for place, letter in enumerate("abc"):
        mine = [chunk.choices[0] for chunk in pieces if chunk.choices[0].index == place]
        assert "".join(choice.text for choice in mine) == f"{letter} again "
        assert [choice.finish_reason for choice in mine] == [None] * (len(mine) - 1) + ["stop"]
    assert last.choices == []
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (3, 6)
    assert all(chunk.usage is None for chunk in pieces)
    assert all(chunk.usage is None for chunk in complete(openai, stream=True))


def test_a_stream_that_breaks_off_says_so(openai: OpenAI) -> None:
    stream = complete(openai, ["fine", "break"], stream=True)
    with pytest.raises(sdk.APIError) as caught:
        list(stream)
    assert caught.value.code == "internal_error"


def test_a_stream_is_refused_before_it_begins(openai: OpenAI) -> None:
    assert refusal(openai, ["fine", "busy"], stream=True) == (429, "rate_limit_exceeded", None)
    assert refusal(openai, "x", model="nobody") == (404, "model_not_found", "model")


def test_what_is_wrong_is_named_by_its_place(openai: OpenAI) -> None:
    long = (400, "context_length_exceeded", "prompt")
    assert refusal(openai, "long") == refusal(openai, "long", stream=True) == long
    assert refusal(openai, ["fine", "long"]) == (400, "context_length_exceeded", "prompt[1]")
    assert refusal(openai, []) == (400, "empty_array", "prompt")
    assert refusal(openai, 5) == refusal(openai, [1.5]) == (400, "invalid_type", "prompt")
    assert refusal(openai, [["a"]]) == refusal(openai, [-1]) == (400, "invalid_type", "prompt")
    assert refusal(openai, ["x"] * 129)[:2] == (400, "array_above_max_length")
    assert refusal(openai, ["x"] * 17, stream=True) == (400, "invalid_value", "prompt")
    assert refusal(openai, stream_options={"include_usage": True})[2] == "stream_options"


def test_several_are_drawn_for_each_prompt_and_numbered_through(openai: OpenAI, gateway: Gateway) -> None:
    answer = complete(openai, ["a", "b"], n=3, best_of=5, echo=True)
    expected = [f"{letter} again{number}" for letter in "ab" for number in ("", " 1", " 2")]
    assert [(choice.index, choice.text) for choice in answer.choices] == list(enumerate(expected))
    assert [(one.sampling.n, one.best_of) for one in asked(gateway)] == [(3, 5)] * 2
    chunks = list(complete(openai, ["a", "b"], n=3, best_of=3, echo=True, stream=True))
    for place, text in enumerate(expected):
        mine = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == place]
        assert "".join(choice.text for choice in mine) == f"{text} "
        assert [choice.finish_reason for choice in mine] == [None] * (len(mine) - 1) + ["stop"]


def test_log_probabilities_come_as_arrays_of_the_tokens_that_are_shown(openai: OpenAI, gateway: Gateway) -> None:
    (choice,) = complete(openai, logprobs=2).choices
    likely = choice.logprobs
    assert (likely.tokens, likely.token_logprobs, likely.text_offset) == (["agai", "n"], [0.0, -0.5], [0, 4])
    assert likely.top_logprobs == [{"agai": 0.0, "x": -9999.0}, {"n": -0.5, "x": -9999.0}]
    sampling = asked(gateway)[-1].sampling
    assert (sampling.logprobs, sampling.top_logprobs) == (True, 2)
    pieces = [chunk.choices[0].logprobs for chunk in complete(openai, logprobs=0, stream=True)]
    assert [piece.tokens for piece in pieces] == [["agai", "n "], []]
    assert [offset for piece in pieces for offset in piece.text_offset] == [0, 4]


def test_an_echoed_prompt_has_log_probabilities_but_for_its_first_token_and_so_has_the_end(openai: OpenAI) -> None:
    likely = complete(openai, "schön!", echo=True, logprobs=1).choices[0].logprobs
    assert likely.tokens == ["schö", "n!", " aga", "in", "<end>"]
    assert likely.token_logprobs[:4] == [None, -0.5, 0.0, -0.5]
    assert likely.top_logprobs[0] is None
    assert likely.text_offset == [0, 4, 6, 10, 12]


def test_penalties_and_biases_go_on_as_they_are(openai: OpenAI, gateway: Gateway) -> None:
    complete(openai, presence_penalty=1, frequency_penalty=-0.5, logit_bias={"5": 2})
    sampling = asked(gateway)[-1].sampling
    assert (sampling.presence_penalty, sampling.frequency_penalty, dict(sampling.logit_bias)) == (1, -0.5, {5: 2})


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        ({"echo": True, "suffix": "s", "logprobs": 0}, (400, "invalid_value", "echo")),
        ({"best_of": 3, "stream": True}, (400, "invalid_value", "best_of")),
        ({"best_of": 21}, (400, "integer_above_max_value", "best_of")),
        ({"logprobs": 6}, (400, "integer_above_max_value", "logprobs")),
        ({"logit_bias": {"a": 1}}, (400, "invalid_value", "logit_bias")),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(
    openai: OpenAI, options: dict[str, Any], refused: tuple[int, str, str]
) -> None:
    assert refusal(openai, **options) == refused
