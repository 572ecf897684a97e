"""`/v1/embeddings` through the unmodified `openai` package."""

from __future__ import annotations

from typing import Any

import openai as sdk
import pytest
from openai import OpenAI

from tests.contract.gateway.harness import Gateway
from tests.contract.gateway.texting import vector_of
from tests.contract.gateway.tuned import BASE


@pytest.fixture(autouse=True)
def _served(gateway: Gateway) -> None:
    gateway.backends.inference.serve()


def embed(client: OpenAI, given: Any = "hello there", **options: Any) -> Any:
    return client.embeddings.create(**{"model": BASE, "input": given, **options})


def refusal(client: OpenAI, given: Any = "hello", **options: Any) -> tuple[int, str | None, str | None]:
    with pytest.raises(sdk.APIStatusError) as caught:
        embed(client, given, **options)
    return caught.value.status_code, caught.value.code, caught.value.param


@pytest.mark.parametrize("options", [{}, {"encoding_format": "float"}], ids=["base64", "float"])
def test_a_text_becomes_a_vector(openai: OpenAI, options: dict[str, Any]) -> None:
    answer = embed(openai, **options)
    assert (answer.object, answer.model, len(answer.data)) == ("list", BASE, 1)
    (one,) = answer.data
    assert (one.object, one.index, list(one.embedding)) == ("embedding", 0, vector_of("hello there"))
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (2, 2)


def test_base64_is_little_endian_floats(openai: OpenAI) -> None:
    answer = embed(openai, encoding_format="base64")
    assert answer.data[0].embedding == "AAAwQQAAAD8AAATC"


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (["a b", "c"], ["a b", "c"]),
        ([5, 6], ["5 6"]),
        ([[5, 6], [7]], ["5 6", "7"]),
        (["a", [7], "b"], ["a", "7", "b"]),
    ],
)
def test_inputs_are_texts_or_tokens_one_or_many(openai: OpenAI, given: Any, names: list[str]) -> None:
    answer = embed(openai, given)
    assert [list(one.embedding) for one in answer.data] == [vector_of(name) for name in names]
    assert [one.index for one in answer.data] == list(range(len(names)))


def test_many_inputs_come_back_in_their_order(openai: OpenAI, gateway: Gateway) -> None:
    texts = [f"text {number}" for number in range(600)]
    answer = embed(openai, texts)
    assert [list(one.embedding) for one in answer.data] == [vector_of(text) for text in texts]
    assert answer.usage.prompt_tokens == 1200
    assert [len(one.texts) for one in gateway.backends.inference.embeds] == [256, 256, 88]


def test_parts_of_one_request_go_to_one_route_and_its_user_is_told(openai: OpenAI, gateway: Gateway) -> None:
    for _ in range(2):
        embed(openai, ["text"] * 300, user="u")
    embeds = gateway.backends.inference.embeds
    assert {(one.project, one.user) for one in embeds} == {("projects/default", "u")}
    first, second, third, fourth = (one.route_key for one in embeds)
    assert (first, third) == (second, fourth)
    assert first != third


def test_a_model_that_changes_between_two_parts_is_asked_for_all_of_them_again(
    openai: OpenAI, gateway: Gateway
) -> None:
    texts = [f"text {number}" for number in range(300)]
    gateway.backends.inference.versions = ["1", "2", "2", "2"]
    answer = embed(openai, texts)
    assert [list(one.embedding) for one in answer.data] == [vector_of(text) for text in texts]
    assert [len(one.texts) for one in gateway.backends.inference.embeds] == [256, 44, 256, 44]
    gateway.backends.inference.versions = [str(number) for number in range(6)]
    assert refusal(openai, texts)[:2] == (503, "model_changed")


def test_dimensions_go_on_as_they_are(openai: OpenAI, gateway: Gateway) -> None:
    assert len(embed(openai, dimensions=2).data[0].embedding) == 2
    assert gateway.backends.inference.embeds[-1].dimensions == 2
    assert refusal(openai, dimensions=5) == (400, "invalid_value", "dimensions")
    assert refusal(openai, dimensions=0)[0] == 400


def test_what_is_wrong_is_named_by_its_place(openai: OpenAI) -> None:
    assert refusal(openai, "") == (400, "invalid_value", "input")
    texts = [f"text {number}" for number in range(299)]
    assert refusal(openai, [*texts, ""]) == (400, "invalid_value", "input[299]")
    assert refusal(openai, []) == (400, "empty_array", "input")
    assert refusal(openai, ["x"] * 2049)[:2] == (400, "array_above_max_length")
    assert refusal(openai, {"a": 1}) == (400, "invalid_type", "input")
    assert refusal(openai, encoding_format="int8") == (400, "invalid_value", "encoding_format")
    assert refusal(openai, model="nobody") == (404, "model_not_found", "model")
