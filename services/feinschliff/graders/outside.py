"""What graders ask that lies outside of them: models and web servers, as whoever grades provides them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from feinschliff.graders.grade import Fault


class CannotAsk(Exception):
    """Nothing usable came back; the grade is then None, with this as its reason."""

    def __init__(self, fault: Fault, why: str) -> None:
        super().__init__(why)
        self.fault = fault


class Question(NamedTuple):
    """To a judging model: turns as `{"role", "content"}`, and the JSON schema that its answer must follow."""

    model: str
    turns: Sequence[Mapping[str, str]]
    schema: Mapping[str, object]
    schema_name: str
    sampling: Mapping[str, object]


class Reply(NamedTuple):
    """What a judging model said, what it was, and what it cost."""

    text: str
    finish_reason: str
    identity: Mapping[str, str]
    prompt_tokens: int
    completion_tokens: int


class Likelihood(NamedTuple):
    """How likely a text is after a prompt: nats, summed over its tokens."""

    logprob: float
    tokens: int


class Call(NamedTuple):
    """A POST to a web server of the user's."""

    url: str
    headers_secret: str
    requests_per_second: float
    timeout_seconds: float
    body: Mapping[str, object]


class Outside(Protocol):
    """All of them raise CannotAsk."""

    async def judge(self, question: Question) -> Reply: ...

    async def embed(self, model: str, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """One vector per text; an empty `model` is the installation's."""
        ...

    async def likelihoods(self, model: str, prompt: str, texts: Sequence[str]) -> Sequence[Likelihood]:
        """Of each text after the prompt; an empty `model` is the one that is being measured."""
        ...

    async def post(self, call: Call) -> object:
        """The server's answer as JSON values."""
        ...
