"""The door of inference: translate, call, translate back."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc

from feinschliff.inference import conversation as words
from feinschliff.inference import judging
from feinschliff.inference.answers import Answers
from feinschliff.inference.chatting import Chatting, Prepared, gathered
from feinschliff.inference.completions import Completions
from feinschliff.inference.inputs import refuse_unknown_ids
from feinschliff.inference.models import Models
from feinschliff.inference.proto import Asked, refuse_unserved, timestamp
from feinschliff.inference.recorder import Recorder, refuse_unloggable
from feinschliff.inference.requests import generation, refuse, sampling_violations, unknown_biases
from feinschliff.inference.several import drawn_apart
from feinschliff.inference.texts import Texts
from feinschliff.inference.wishes import read_sampling, read_wishes, wish_violations
from feinschliff.kit.clock import Clock
from feinschliff.kit.errors import Refusal
from feinschliff.kit.threads import offload
from feinschliff.v1 import common_pb2, inference_pb2_grpc
from feinschliff.v1 import inference_pb2 as pb

Context = grpc.aio.ServicerContext[Any, Any]


class InferenceService(inference_pb2_grpc.InferenceServiceServicer):
    """Chat, texts, classes and tokens; what this version does not serve answers UNIMPLEMENTED."""

    def __init__(self, models: Models, answers: Answers, recorder: Recorder, clock: Clock) -> None:
        self._models = models
        self._answers = answers
        self._recorder = recorder
        self._clock = clock
        self._completions = Completions(models, answers)
        self._texts = Texts(models, answers)

    async def Chat(self, request: pb.ChatRequest, context: Context) -> pb.ChatResponse:
        created, began = self._clock.now(), time.monotonic()
        prepared = await self._prepare(request, context, "")
        chat, entry = Chatting(prepared, self._answers), self._recorder.begin(request, prepared.granted)
        async with aclosing(chat.deltas()) as deltas:
            choices = await gathered(deltas)
        first = choices[0]
        answer = pb.ChatResponse(
            identity=words.from_identity(prepared.granted.identity),
            message=first.message,
            finish_reason=first.finish_reason,
            usage=chat.usage,
            choices=choices if len(choices) > 1 or first.logprobs else [],
            latency_seconds=time.monotonic() - began,
            create_time=timestamp(created),
        )
        answer.completion = await entry.keep(answer.finish_reason, answer.usage, answer.message)
        return answer

    async def ChatStream(self, request: pb.ChatStreamRequest, context: Context) -> AsyncIterator[pb.ChatStreamResponse]:
        prepared = await self._prepare(request.chat, context, "chat.")
        chat, reason = Chatting(prepared, self._answers), common_pb2.FINISH_REASON_UNSPECIFIED
        entry = self._recorder.begin(request.chat, prepared.granted)
        async with aclosing(chat.deltas()) as deltas:
            yield pb.ChatStreamResponse(identity=words.from_identity(prepared.granted.identity))
            async for delta in deltas:
                reason = delta.finish_reason if delta.index == 0 else reason
                entry.hear(delta)
                yield pb.ChatStreamResponse(delta=delta)
        name = await entry.keep(reason, chat.usage)
        yield pb.ChatStreamResponse(end=pb.StreamEnd(finish_reason=reason, usage=chat.usage, completion=name))

    async def Complete(self, request: pb.CompleteRequest, context: Context) -> pb.CompleteResponse:
        return await self._completions.whole(request, context.time_remaining())

    async def CompleteStream(
        self, request: pb.CompleteStreamRequest, context: Context
    ) -> AsyncIterator[pb.CompleteStreamResponse]:
        async with aclosing(self._completions.stream(request.complete, context.time_remaining())) as responses:
            async for response in responses:
                yield response

    async def Score(self, request: pb.ScoreRequest, context: Context) -> pb.ScoreResponse:
        return await self._texts.score(request, context.time_remaining())

    async def Embed(self, request: pb.EmbedRequest, context: Context) -> pb.EmbedResponse:
        return await self._texts.embed(request, context.time_remaining())

    async def Classify(self, request: pb.ClassifyRequest, context: Context) -> pb.ClassifyResponse:
        return await self._texts.classify(request, context.time_remaining())

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
            refuse_unknown_ids(request.ids, lease.engine.facts.vocabulary_tokens, "ids")
            skip = request.skip_special_tokens
            text = await offload(lease.engine.decode, list(request.ids), skip_special_tokens=skip)
        return pb.DetokenizeResponse(text=text)

    async def _prepare(self, request: pb.ChatRequest, context: Context, path: str) -> Prepared:
        try:
            words.refuse_unserved_wishes(request)
            refuse_unloggable(request, path)
            sampling = read_sampling(request.sampling)
            wrong = sampling_violations(sampling, f"{path}sampling")
            refuse([*wrong, *wish_violations(request.sampling, f"{path}sampling")])
            wishes = read_wishes(request.sampling, f"{path}sampling")
            messages = words.to_messages(request.messages, f"{path}messages")
            granted = await self._models.grant(request.model, seconds_left=context.time_remaining())
            try:
                if facts := granted.lease.engine.head(granted.lease.adapter_digest):
                    raise judging.not_a_chat_model(request.model, facts)
                size = granted.lease.engine.facts.vocabulary_tokens
                refuse(unknown_biases(sampling, size, f"{path}sampling"))
                grammar = await offload(granted.lease.engine.grammar, wishes.form) if wishes.form else None
                prompt_ids = await offload(granted.lease.engine.encode_chat, messages)
                defaults, limit = granted.deployment.spec.defaults, granted.context_tokens
                wanted = generation(
                    prompt_ids,
                    sampling,
                    defaults,
                    granted.version,
                    context_tokens=limit,
                    logprobs=wishes.logprobs,
                    grammar=grammar,
                )
            except BaseException:
                granted.lease.give_back()
                raise
        except Refusal:
            self._answers.count_refused()
            raise
        return Prepared(granted, drawn_apart(wanted, wishes.answers))
