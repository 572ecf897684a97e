"""One question to a chat model."""

from __future__ import annotations

from typing import Any

from openai import OpenAI

from tests.contract.gateway.tuned import BASE


def ask(client: OpenAI, text: str = "hello there", **options: Any) -> Any:
    return client.chat.completions.create(**{"model": BASE, "messages": [{"role": "user", "content": text}], **options})
