"""Judges outside of this installation: servers that speak OpenAI's chat API, as the installation configures them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, TypeAdapter, ValidationError, field_validator

from feinschliff.evaluation.grading.headers import SecretHeaders, clean_secret
from feinschliff.evaluation.grading.posting import Post
from feinschliff.graders.grade import is_number
from feinschliff.graders.outside import Question, Reply

T = TypeVar("T")
TOKENS_MAX = 2**31 - 1


class OutsideJudge(BaseModel):
    """One judge; graders name it as their model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_url: str
    model: str = Field(min_length=1)
    api_key: SecretStr = SecretStr("")

    @field_validator("base_url")
    @classmethod
    def _is_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise ValueError("must be http(s)://host/v1")
        return url.rstrip("/")

    @field_validator("api_key")
    @classmethod
    def _can_be_sent(cls, key: SecretStr) -> SecretStr:
        return clean_secret(key)


_JUDGES = TypeAdapter(Mapping[str, OutsideJudge])
_HEADERS = TypeAdapter(Mapping[str, SecretHeaders])


def parse_judges(text: str) -> Mapping[str, OutsideJudge]:
    """Raises ValueError that repeats no secret."""
    return _parsed(_JUDGES, text)


def parse_headers(text: str) -> Mapping[str, SecretHeaders]:
    """Raises ValueError that repeats no secret."""
    return _parsed(_HEADERS, text)


def _parsed(adapter: TypeAdapter[Mapping[str, T]], text: str) -> Mapping[str, T]:
    if not text:
        return {}
    try:
        return adapter.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(step) for step in first["loc"])
        raise ValueError(f"{where or 'the whole'}: {first['msg']}") from None


class Unreadable(Exception):
    """The server's answer is no chat completion."""


def to_post(judge: OutsideJudge, question: Question, timeout_seconds: float) -> Post:
    """A chat completion with an answer that must follow the schema."""
    renamed = {"max_completions_tokens": "max_completion_tokens"}
    sampling = {renamed.get(key, key): value for key, value in question.sampling.items()}
    if "reasoning_effort" in sampling:  # models that think refuse a temperature
        sampling.pop("temperature", None)
    schema = {"name": question.schema_name, "schema": question.schema, "strict": True}
    body = {
        "model": judge.model,
        "messages": list(question.turns),
        "response_format": {"type": "json_schema", "json_schema": schema},
        **sampling,
    }
    key = judge.api_key.get_secret_value()
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return Post(f"{judge.base_url}/chat/completions", headers, body, timeout_seconds)


def from_answer(judge: OutsideJudge, answer: object) -> Reply:
    """What the judge said; a refusal in so many words is no answer.

    Raises:
        Unreadable
    """
    try:
        choice = answer["choices"][0]  # type: ignore[index]
        message, usage = choice["message"], answer.get("usage") or {}  # type: ignore[attr-defined]
        finish = "content_filter" if message.get("refusal") else str(choice.get("finish_reason") or "")
        text = message.get("content") or message.get("refusal") or ""
        identity = {"model_version": f"{urlsplit(judge.base_url).hostname}/{answer.get('model', judge.model)}"}  # type: ignore[attr-defined]
        tokens = (_count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens")))
    except (KeyError, IndexError, TypeError, AttributeError, ValueError):
        raise Unreadable(json.dumps(answer)[:200]) from None
    return Reply(str(text), finish, identity, *tokens)


def _count(value: object) -> int:
    """What a server says of its tokens, where that is a number at all."""
    return min(max(int(value), 0), TOKENS_MAX) if is_number(value) else 0
