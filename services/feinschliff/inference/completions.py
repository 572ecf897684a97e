"""The calls that continue a text as it is, without a chat template."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import NamedTuple

from feinschliff.inference import conversation as words
from feinschliff.inference import inputs, judging
from feinschliff.inference.answers import Answers
from feinschliff.inference.engine import Done, GenerationRequest
from feinschliff.inference.models import Granted, Models
from feinschliff.inference.proto import Asked, refuse_unserved, to_sampling
from feinschliff.inference.requests import generation, refuse, sampling_violations
from feinschliff.kit.errors import Refusal, WrongState
from feinschliff.kit.threads import offload
from feinschliff.v1 import inference_pb2 as pb


class Prepared(NamedTuple):
    """A continuation that may begin, and the text that stands before it in the answer."""

    granted: Granted
    request: GenerationRequest
    echoed: str


class Completions:
    """Continues texts."""

    def __init__(self, models: Models, answers: Answers) -> None:
        self._models = models
        self._answers = answers

    async def whole(self, request: pb.CompleteRequest, seconds_left: float | None) -> pb.CompleteResponse:
        """One continuation.

        Raises:
            Invalid: REQUEST_INVALID, TOKEN_ID_UNKNOWN, CONTEXT_LENGTH_EXCEEDED.
            Unserved: FIELD_UNSERVED.
            WrongState: NOT_A_CHAT_MODEL, INFILL_UNSUPPORTED.
        """
        granted, wanted, text = await self._prepare(request, seconds_left, "")
        async with aclosing(self._answers.stream(granted.lease, wanted)) as events:
            async for event in events:
                text += event.text
                if isinstance(event, Done):
                    break
        assert isinstance(event, Done)
        return pb.CompleteResponse(
            identity=words.from_identity(granted.identity),
            choices=[pb.CompletionChoice(text=text, finish_reason=words.finish_reason(event.finish))],
            usage=words.usage(len(wanted.prompt_ids), event.completion_tokens),
        )

    async def stream(
        self, request: pb.CompleteRequest, seconds_left: float | None
    ) -> AsyncGenerator[pb.CompleteStreamResponse]:
        """The same in pieces; refused as `whole` is, with paths below `complete`."""
        granted, wanted, echoed = await self._prepare(request, seconds_left, "complete.")
        async with aclosing(self._answers.stream(granted.lease, wanted)) as events:
            yield pb.CompleteStreamResponse(identity=words.from_identity(granted.identity))
            if echoed:
                yield pb.CompleteStreamResponse(delta=pb.CompleteDelta(text=echoed))
            async for event in events:
                if event.text:
                    yield pb.CompleteStreamResponse(delta=pb.CompleteDelta(text=event.text))
                if isinstance(event, Done):
                    reason = words.finish_reason(event.finish)
                    tokens = words.usage(len(wanted.prompt_ids), event.completion_tokens)
                    yield pb.CompleteStreamResponse(end=pb.StreamEnd(finish_reason=reason, usage=tokens))

    async def _prepare(self, request: pb.CompleteRequest, seconds_left: float | None, path: str) -> Prepared:
        try:
            best_of = Asked(f"{path}best_of", request.HasField("best_of") and request.best_of != 1)
            refuse_unserved([best_of, Asked(f"{path}store", request.store)])
            sampling = to_sampling(request.sampling, f"{path}sampling")
            refuse(sampling_violations(sampling, f"{path}sampling"))
            granted = await self._models.grant(request.model, seconds_left=seconds_left)
            try:
                if facts := granted.lease.engine.head(granted.lease.adapter_digest):
                    raise judging.not_a_chat_model(request.model, facts)
                ids, echoed = await _prompt(request, granted, path)
                defaults, limit = granted.deployment.spec.defaults, granted.context_tokens
                wanted = generation(ids, sampling, defaults, granted.version, context_tokens=limit)
            except BaseException:
                granted.lease.give_back()
                raise
        except Refusal:
            self._answers.count_refused()
            raise
        return Prepared(granted, wanted, echoed)


class _Prompt(NamedTuple):
    """What the model reads, and what is repeated before its continuation."""

    token_ids: list[int]
    echoed: str


async def _prompt(request: pb.CompleteRequest, granted: Granted, path: str) -> _Prompt:
    engine, echoed = granted.lease.engine, ""
    match request.WhichOneof("input"):
        case "text":
            path += "text"
            ids = await offload(engine.encode_text, request.text)
            echoed = request.text if request.echo else ""
        case "tokens":
            path += "tokens.ids"
            ids = list(request.tokens.ids)
            inputs.refuse_unknown_ids(ids, engine.facts.vocabulary_tokens, path)
            echoed = await offload(engine.decode, ids, skip_special_tokens=False) if request.echo else ""
        case _:
            raise inputs.missing_input(f"{path}text")
    inputs.refuse_wordless(ids, path)
    if request.suffix:
        ids = await _around_a_gap(request, granted, ids)
    inputs.refuse_full(len(ids), granted.context_tokens, path)
    return _Prompt(ids, echoed)


async def _around_a_gap(request: pb.CompleteRequest, granted: Granted, before: list[int]) -> list[int]:
    """Raises WrongState INFILL_UNSUPPORTED where the model cannot fill in the middle."""
    engine = granted.lease.engine
    gap = engine.facts.gap
    if gap is None:
        raise WrongState(
            "INFILL_UNSUPPORTED",
            f"{request.model} cannot fill in the middle: its tokenizer has no tokens for it.",
            advice=["Leave out the suffix, or name a model that was trained to fill in the middle."],
            model=request.model,
        )
    return gap.around(before, await offload(engine.encode_text, request.suffix))
