"""The door of inference: translate, call, translate back."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, NamedTuple

import grpc

from feinschliff.inference import conversation as words
from feinschliff.inference import judging
from feinschliff.inference.answers import Answers
from feinschliff.inference.engine import Done, GenerationRequest
from feinschliff.inference.models import Granted, Models
from feinschliff.inference.proto import Asked, refuse_unserved, timestamp, to_sampling
from feinschliff.inference.recorder import Recorder, refuse_unloggable
from feinschliff.inference.requests import generation, refuse, sampling_violations
from feinschliff.kit.clock import Clock
from feinschliff.kit.errors import FieldViolation, Invalid, Refusal
from feinschliff.kit.threads import offload
from feinschliff.v1 import common_pb2, inference_pb2_grpc
from feinschliff.v1 import inference_pb2 as pb

Context = grpc.aio.ServicerContext[Any, Any]


class Prepared(NamedTuple):
    """A chat that may begin."""

    granted: Granted
    request: GenerationRequest


class InferenceService(inference_pb2_grpc.InferenceServiceServicer):
    """Chat, classes and tokens; what this version does not serve answers UNIMPLEMENTED."""

    def __init__(self, models: Models, answers: Answers, recorder: Recorder, clock: Clock) -> None:
        self._models = models
        self._answers = answers
        self._recorder = recorder
        self._clock = clock

    async def Chat(self, request: pb.ChatRequest, context: Context) -> pb.ChatResponse:
        created, began = self._clock.now(), time.monotonic()
        granted, wanted = await self._prepare(request, context, "")
        entry = self._recorder.begin(request, granted)
        identity, text = granted.identity, ""
        async with aclosing(self._answers.stream(granted.lease, wanted)) as events:
            async for event in events:
                text += event.text
                if isinstance(event, Done):
                    break
        assert isinstance(event, Done)
        answer = pb.ChatResponse(
            identity=words.from_identity(identity),
            message=words.answer_message(text),
            finish_reason=words.finish_reason(event.finish),
            usage=words.usage(len(wanted.prompt_ids), event.completion_tokens),
            latency_seconds=time.monotonic() - began,
            create_time=timestamp(created),
        )
        answer.completion = await entry.keep(answer.finish_reason, answer.usage, answer.message)
        return answer

    async def ChatStream(self, request: pb.ChatStreamRequest, context: Context) -> AsyncIterator[pb.ChatStreamResponse]:
        granted, wanted = await self._prepare(request.chat, context, "chat.")
        entry = self._recorder.begin(request.chat, granted)
        identity = granted.identity
        async with aclosing(self._answers.stream(granted.lease, wanted)) as events:
            yield pb.ChatStreamResponse(identity=words.from_identity(identity))
            async for event in events:
                if event.text:
                    delta = pb.ChatDelta(text=event.text)
                    entry.hear(delta)
                    yield pb.ChatStreamResponse(delta=delta)
                if isinstance(event, Done):
                    reason = words.finish_reason(event.finish)
                    tokens = words.usage(len(wanted.prompt_ids), event.completion_tokens)
                    name = await entry.keep(reason, tokens)
                    yield pb.ChatStreamResponse(end=pb.StreamEnd(finish_reason=reason, usage=tokens, completion=name))

    async def Classify(self, request: pb.ClassifyRequest, context: Context) -> pb.ClassifyResponse:
        judging.refuse_texts(request.texts, request.top)
        granted = await self._models.grant(request.model, seconds_left=context.time_remaining())
        with granted.lease as lease:
            engine, digest = lease.engine, lease.adapter_digest
            facts = engine.head(digest)
            if facts is None:
                raise judging.not_a_classifier(request.model)
            rows = await offload(engine.encode_for_head, list(request.texts), facts)
            lengths = [len(row) for row in rows]
            judging.refuse_lengths(lengths, granted.context_tokens)
            judged: dict[int, list[float]] = {}
            for places in judging.passes(lengths, virtual_tokens=engine.virtual_tokens(digest)):
                found = await offload(engine.judge, [rows[place] for place in places], digest)
                judged.update(zip(places, found, strict=True))
        self._answers.count_read(sum(lengths))
        return pb.ClassifyResponse(
            identity=words.from_identity(granted.identity),
            classifications=[words.classification(judged[place], facts, request.top) for place in range(len(rows))],
            usage=words.usage(sum(lengths), 0),
        )

    async def Tokenize(self, request: pb.TokenizeRequest, context: Context) -> pb.TokenizeResponse:
        conversation = request.conversation
        is_chat = request.HasField("conversation")
        refuse_unserved(
            [
                Asked("conversation.tools", bool(conversation.tools)),
                Asked("conversation.add_generation_prompt", is_chat and not conversation.add_generation_prompt),
            ]
        )
        with (await self._models.grant(request.model, seconds_left=context.time_remaining())).lease as lease:
            engine = lease.engine
            if is_chat:
                messages = words.to_messages(conversation.messages, "conversation.messages")
                ids = await offload(engine.encode_chat, messages)
                rendered = await offload(engine.render_chat, messages)
            else:
                ids, rendered = await offload(engine.encode_text, request.text), request.text
            tokens = [engine.decode([one], skip_special_tokens=False) for one in ids]
            template = common_pb2.ChatTemplateRef(hash=engine.facts.template_hash.removeprefix("sha256:"))
        return pb.TokenizeResponse(
            ids=ids, tokens=tokens, rendered=rendered, chat_template=template if is_chat else None
        )

    async def Detokenize(self, request: pb.DetokenizeRequest, context: Context) -> pb.DetokenizeResponse:
        with (await self._models.grant(request.model, seconds_left=context.time_remaining())).lease as lease:
            size = lease.engine.facts.vocabulary_tokens
            if wrong := [place for place, token in enumerate(request.ids) if not 0 <= token < size]:
                message = f"Token ids of this model are 0 to {size - 1}; ids[{wrong[0]}] is {request.ids[wrong[0]]}."
                fields = [FieldViolation(f"ids[{place}]", message, "OUT_OF_RANGE") for place in wrong]
                raise Invalid("TOKEN_ID_UNKNOWN", message, fields=fields, vocabulary_tokens=size)
            skip = request.skip_special_tokens
            text = await offload(lease.engine.decode, list(request.ids), skip_special_tokens=skip)
        return pb.DetokenizeResponse(text=text)

    async def _prepare(self, request: pb.ChatRequest, context: Context, path: str) -> Prepared:
        try:
            words.refuse_unserved_wishes(request)
            refuse_unloggable(request, path)
            sampling = to_sampling(request.sampling, f"{path}sampling")
            refuse(sampling_violations(sampling, f"{path}sampling"))
            messages = words.to_messages(request.messages, f"{path}messages")
            granted = await self._models.grant(request.model, seconds_left=context.time_remaining())
            try:
                if facts := granted.lease.engine.head(granted.lease.adapter_digest):
                    raise judging.not_a_chat_model(request.model, facts)
                prompt_ids = await offload(granted.lease.engine.encode_chat, messages)
                defaults, limit = granted.deployment.spec.defaults, granted.context_tokens
                wanted = generation(prompt_ids, sampling, defaults, granted.version, context_tokens=limit)
            except BaseException:
                granted.lease.give_back()
                raise
        except Refusal:
            self._answers.count_refused()
            raise
        return Prepared(granted, wanted)
