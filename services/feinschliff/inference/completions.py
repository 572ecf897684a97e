"""The calls that continue a text as it is, without a chat template."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from typing import NamedTuple

from feinschliff.inference import conversation as words
from feinschliff.inference import inputs, judging
from feinschliff.inference.answers import Answers
from feinschliff.inference.engine import Done, GenerationRequest
from feinschliff.inference.life import Sampling
from feinschliff.inference.models import Granted, Models
from feinschliff.inference.proto import Asked, refuse_unserved, to_sampling
from feinschliff.inference.requests import generation, refuse, sampling_violations
from feinschliff.kit.errors import Refusal, WrongState
from feinschliff.kit.threads import offload
from feinschliff.v1 import inference_pb2 as pb


class Prepared(NamedTuple):
    """A continuation that may begin, and the text that stands before it in the answer."""

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
        with self._counting_refusals():
            _read_wishes(request, "", "sampling")
            granted = await self._models.grant(request.model, seconds_left=seconds_left)
        return await self.on(granted, request)

    async def on(
        self, granted: Granted, request: pb.CompleteRequest, path: str = "", sampling_path: str = "sampling"
    ) -> pb.CompleteResponse:
        """The same on what is granted already; its lease is given back."""
        wanted, text = await self._prepare(granted, request, path, sampling_path)
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
        with self._counting_refusals():
            _read_wishes(request, "complete.", "complete.sampling")
            granted = await self._models.grant(request.model, seconds_left=seconds_left)
        wanted, echoed = await self._prepare(granted, request, "complete.", "complete.sampling")
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

    async def _prepare(self, granted: Granted, request: pb.CompleteRequest, path: str, sampling_path: str) -> Prepared:
        """What is refused gives the lease back."""
        try:
            with self._counting_refusals():
                sampling = _read_wishes(request, path, sampling_path)
                if facts := granted.lease.engine.head(granted.lease.adapter_digest):
                    raise judging.not_a_chat_model(request.model, facts)
                ids, echoed = await _prompt(request, granted, path)
                defaults, limit = granted.deployment.spec.defaults, granted.context_tokens
                wanted = generation(ids, sampling, defaults, granted.version, context_tokens=limit)
        except BaseException:
            granted.lease.give_back()
            raise
        return Prepared(wanted, echoed)

    @contextmanager
    def _counting_refusals(self) -> Iterator[None]:
        try:
            yield
        except Refusal:
            self._answers.count_refused()
            raise


def _read_wishes(request: pb.CompleteRequest, path: str, sampling_path: str) -> Sampling:
    """How tokens are drawn.

    Raises:
        Invalid: REQUEST_INVALID.
        Unserved: FIELD_UNSERVED.
    """
    asked = request.sampling
    unserved = {
        "n": asked.HasField("n") and asked.n != 1,
        "logprobs": asked.logprobs,
        "top_logprobs": bool(asked.top_logprobs),
        "response_format": asked.HasField("response_format"),
    }
    best_of = request.HasField("best_of") and request.best_of != 1
    refuse_unserved(
        [
            Asked(f"{path}best_of", best_of),
            Asked(f"{path}store", request.store),
            *(Asked(f"{sampling_path}.{name}", is_used) for name, is_used in unserved.items()),
        ]
    )
    sampling = to_sampling(asked, sampling_path)
    refuse(sampling_violations(sampling, sampling_path))
    return sampling


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
