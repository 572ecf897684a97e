"""The body of a text completion, what it asks of inference, and the answers as text completions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple, cast

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue

from feinschliff.gateway.answers import fingerprint, finish_of, usage_of
from feinschliff.gateway.bodies import Body, problem
from feinschliff.gateway.conversation import (
    SMALLEST_TOP_P,
    STOP_TEXTS_MAX,
    StreamOptions,
    as_stops,
    checked_biases,
    checked_seed,
)
from feinschliff.gateway.errors import ParamOf, invalid
from feinschliff.gateway.likelihoods import LEAST_LOGPROB, ShownTokens
from feinschliff.v1 import common_pb2
from feinschliff.v1 import inference_pb2 as pb

PROMPTS_MAX = 128
STREAMS_MAX = 16
"""Prompts answered at once: of a stream all; else the others wait their turn here, not in the engine's queue."""
MAX_TOKENS_DEFAULT = 16
USER_CHARACTERS_MAX = 64

Prompt = str | list[int]


def as_prompts(given: object) -> object:
    """A text, texts, tokens, or rows of tokens: as a list of texts and rows of tokens."""
    if isinstance(given, str):
        return [given]
    if not isinstance(given, list):
        raise problem("invalid_type", "expected a string, an array of strings, of tokens, or of arrays of tokens")
    if given and all(_is_token(one) for one in given):
        return [given]
    for one in given:
        if not isinstance(one, str) and not (isinstance(one, list) and all(_is_token(each) for each in one)):
            raise problem("invalid_type", "expected strings, tokens, or arrays of tokens")
    return given


def _is_token(one: object) -> bool:
    return isinstance(one, int) and not isinstance(one, bool) and 0 <= one < 2**31


Prompts = Annotated[list[Prompt], BeforeValidator(as_prompts)]


class CompletionBody(Body):
    """`POST /v1/completions`."""

    model: str = Field(min_length=1, max_length=1024)
    prompt: Annotated[Prompts, Field(min_length=1, max_length=PROMPTS_MAX)]
    suffix: str | None = None
    max_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    stop: Annotated[
        Annotated[list[Annotated[str, Field(min_length=1, max_length=256)]], Field(max_length=STOP_TEXTS_MAX)] | None,
        BeforeValidator(as_stops),
    ] = None
    seed: Annotated[int | None, AfterValidator(checked_seed)] = None
    echo: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    skip_guards: bool | None = None  # our own
    n: int | None = Field(None, ge=1, le=128)
    best_of: int | None = Field(None, ge=0, le=20)
    logprobs: int | None = Field(None, ge=0, le=5)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: Annotated[dict[str, float] | None, AfterValidator(checked_biases)] = None

    def check_served(self) -> None:
        """Raises ApiError 400 for the first parameter that does not go together with another."""
        if self.echo and self.suffix and self.logprobs is not None:
            raise invalid("echo", "With 'suffix', 'echo' and 'logprobs' do not go together.")
        if self.best_of and self.stream and self.best_of > self.choices:
            raise invalid("best_of", "'best_of' above 'n' cannot be streamed: which is best is known at the end.")
        if self.stream_options is not None and not self.stream:
            raise invalid("stream_options", "'stream_options' is only allowed when 'stream' is true.")
        if self.stream and len(self.prompt) > STREAMS_MAX:
            raise invalid("prompt", f"A stream answers at most {STREAMS_MAX} prompts; ask for the others apart.")

    def to_requests(self, model: str, project: str, answer_id: str) -> list[pb.CompleteRequest]:
        """One for each prompt, all for the same route of a deployment."""
        asked = [self._request(model, prompt) for prompt in self.prompt]
        for one in asked:
            one.project, one.user = project, (self.user or "")[:USER_CHARACTERS_MAX]
            one.route_key = answer_id[:USER_CHARACTERS_MAX] if len(asked) > 1 else ""
        return asked

    @property
    def choices(self) -> int:
        """Continuations of each prompt."""
        return self.n or 1

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def _request(self, model: str, prompt: Prompt) -> pb.CompleteRequest:
        request = pb.CompleteRequest(
            model=model,
            sampling=self._sampling(),
            suffix=self.suffix or "",
            echo=bool(self.echo),
            skip_guards=bool(self.skip_guards),
        )
        if isinstance(prompt, str):
            request.text = prompt
        else:
            request.tokens.ids.extend(prompt)
        if self.best_of:
            request.best_of = self.best_of
        return request

    def _sampling(self) -> common_pb2.SamplingParams:
        params = common_pb2.SamplingParams(stop=self.stop or [], max_tokens=self.max_tokens or MAX_TOKENS_DEFAULT)
        if self.temperature is not None:
            params.temperature = self.temperature
        if self.top_p is not None:
            params.top_p = max(self.top_p, SMALLEST_TOP_P)
        for name in ("seed", "n", "presence_penalty", "frequency_penalty"):
            if (value := getattr(self, name)) is not None:
                setattr(params, name, value)
        if self.logprobs is not None:
            params.logprobs, params.top_logprobs = True, self.logprobs
        for token, bias in (self.logit_bias or {}).items():
            params.logit_bias[int(token)] = bias
        return params


def param_of(place: int, prompts: int) -> ParamOf:
    """Paths in the HTTP body for paths in the request that continues prompt `place` of so many."""

    def find(path: str) -> str | None:
        ours = path.removeprefix("complete.")
        if ours.startswith("sampling."):
            return {"sampling.top_logprobs": "logprobs"}.get(ours, ours.removeprefix("sampling."))
        if ours.startswith(("text", "tokens")):
            return (
                "prompt" + (f"[{place}]" if prompts > 1 else "") + ours.removeprefix("text").removeprefix("tokens.ids")
            )
        return ours or None

    return find


@dataclass(frozen=True)
class TextEnvelope:
    """What all pieces of one answer share; `model` is the name as it was asked for."""

    id: str
    created: int
    model: str

    def completion(self, answers: Sequence[pb.CompleteResponse], *, logprobs: bool) -> dict[str, JsonValue]:
        """Choices of the first prompt first."""
        choices: list[JsonValue] = []
        for choice in (choice for answer in answers for choice in answer.choices):
            told = TextLikelihoods() if logprobs else None
            likely = told.push(choice.text, choice.logprobs, choice.prompt_logprobs, is_last=True) if told else None
            choices.append(text_choice(len(choices), choice.text, finish_of(choice.finish_reason), likely))
        total = sum_of([answer.usage for answer in answers])
        return self.of(choices, answers[0].identity) | {"usage": usage_of(total)}

    def of(self, choices: list[JsonValue], identity: common_pb2.Identity) -> dict[str, JsonValue]:
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": choices,
            "system_fingerprint": fingerprint(identity),
        }


def text_choice(place: int, text: str, finish: str | None, logprobs: JsonValue = None) -> dict[str, JsonValue]:
    return {"index": place, "text": text, "logprobs": logprobs, "finish_reason": finish}


class TextLikelihoods:
    """Follows one continuation: how likely its shown tokens were, as arrays side by side.

    Behind an echoed prompt every token that was generated is told, the one that ended the answer too: programs that
    measure texts so (lm-eval) ask for one token more than the text and leave out the last.
    """

    def __init__(self) -> None:
        self._shown = ShownTokens()
        self._offset = 0  # characters of the tokens told
        self._echoes = False

    def push(
        self,
        text: str,
        logprobs: Sequence[common_pb2.TokenLogprob],
        prompt_logprobs: Sequence[common_pb2.TokenLogprob] = (),
        *,
        is_last: bool = False,
    ) -> JsonValue:
        """Of the tokens that this piece shows; an echoed prompt's come first, its very first without a number."""
        self._echoes = self._echoes or bool(prompt_logprobs)
        arrays = _Arrays([], [], [], [])
        for one in prompt_logprobs:
            self._tell(one, arrays)
        if prompt_logprobs:
            arrays.token_logprobs[0] = arrays.top_logprobs[0] = None
            text = text.encode()[sum(len(one.utf8) for one in prompt_logprobs) :].decode(errors="ignore")
        for one in self._shown.push(text, logprobs):
            self._tell(one, arrays)
        for one in self._shown.rest() if is_last and self._echoes else ():
            self._tell(one, arrays)
        return cast(dict[str, JsonValue], arrays._asdict())

    def _tell(self, one: common_pb2.TokenLogprob, arrays: _Arrays) -> None:
        likeliest: dict[str, JsonValue] = {each.token: max(each.logprob, LEAST_LOGPROB) for each in one.top}
        arrays.add(one.token, max(one.logprob, LEAST_LOGPROB), likeliest, self._offset)
        self._offset += len(one.utf8.decode(errors="ignore"))


class _Arrays(NamedTuple):
    tokens: list[JsonValue]
    token_logprobs: list[JsonValue]
    top_logprobs: list[JsonValue]
    text_offset: list[JsonValue]

    def add(self, *token: JsonValue) -> None:
        for array, value in zip(self, token, strict=True):
            array.append(value)


def sum_of(usages: Sequence[common_pb2.TokenUsage]) -> common_pb2.TokenUsage:
    return common_pb2.TokenUsage(
        prompt_tokens=sum(one.prompt_tokens for one in usages),
        completion_tokens=sum(one.completion_tokens for one in usages),
        cached_tokens=sum(one.cached_tokens for one in usages),
        reasoning_tokens=sum(one.reasoning_tokens for one in usages),
        total_tokens=sum(one.total_tokens for one in usages),
    )
