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
from feinschliff.inference.callers import Caller, project_of
from feinschliff.inference.chatting import Chatting, Prepared, begun, gathered
from feinschliff.inference.completions import Completions
from feinschliff.inference.dialects import dialect_of
from feinschliff.inference.guards.bounds import guard_violations
from feinschliff.inference.guards.guarding import Guards
from feinschliff.inference.guards.proto import from_finding, to_guards
from feinschliff.inference.inputs import refuse_unknown_ids
from feinschliff.inference.models import Granted, Models
from feinschliff.inference.preparing import prepare
from feinschliff.inference.proto import timestamp
from feinschliff.inference.recorder import Recorder, refuse_unloggable
from feinschliff.inference.requests import refuse
from feinschliff.inference.shadows import Shadows
from feinschliff.inference.texts import Texts
from feinschliff.inference.tools import Toolbox, tool_violations
from feinschliff.inference.wishes import to_tools
from feinschliff.kit.clock import Clock
from feinschliff.kit.errors import FieldViolation, Invalid, Refusal
from feinschliff.kit.threads import offload
from feinschliff.v1 import common_pb2, inference_pb2_grpc
from feinschliff.v1 import inference_pb2 as pb

Context = grpc.aio.ServicerContext[Any, Any]


class InferenceService(inference_pb2_grpc.InferenceServiceServicer):
    """Chat, texts, classes and tokens; what this version does not serve answers UNIMPLEMENTED."""

    def __init__(
        self,
        models: Models,
        answers: Answers,
        guards: Guards,
        completions: Completions,
        shadows: Shadows,
        recorder: Recorder,
        clock: Clock,
    ) -> None:
        self._shadows = shadows
        self._models = models
        self._answers = answers
        self._recorder = recorder
        self._clock = clock
        self._guards = guards
        self._completions = completions
        self._texts = Texts(models, answers)

    async def Chat(self, request: pb.ChatRequest, context: Context) -> pb.ChatResponse:
        created, began = self._clock.now(), time.monotonic()
        prepared = await self._prepare(request, context, "")
        chat, entry = (
            Chatting(prepared, self._answers),
            self._recorder.begin(request, prepared.granted, prepared.masked),
        )
        async with aclosing(chat.deltas()) as deltas:
            choices = await gathered(deltas)
        first = choices[0]
        answer = pb.ChatResponse(
            identity=words.from_identity(prepared.granted.identity),
            message=first.message,
            finish_reason=first.finish_reason,
            usage=chat.usage,
            choices=choices if len(choices) > 1 or first.logprobs else [],
            guards=map(from_finding, prepared.guarded.findings),
            latency_seconds=time.monotonic() - began,
            create_time=timestamp(created),
        )
        answer.completion = await entry.keep(answer.finish_reason, answer.usage, answer.message)
        return answer

    async def ChatStream(self, request: pb.ChatStreamRequest, context: Context) -> AsyncIterator[pb.ChatStreamResponse]:
        prepared = await self._prepare(request.chat, context, "chat.")
        chat, reason = Chatting(prepared, self._answers), common_pb2.FINISH_REASON_UNSPECIFIED
        entry = self._recorder.begin(request.chat, prepared.granted, prepared.masked)
        async with begun(chat.deltas()) as (first, deltas):
            yield pb.ChatStreamResponse(identity=words.from_identity(prepared.granted.identity))
            delta = await first
            while delta is not None:
                reason = delta.finish_reason if delta.index == 0 and delta.finish_reason else reason
                entry.hear(delta)
                yield pb.ChatStreamResponse(delta=delta)
                delta = await anext(deltas, None)
        name = await entry.keep(reason, chat.usage)
        found = map(from_finding, prepared.guarded.findings)
        end = pb.StreamEnd(finish_reason=reason, usage=chat.usage, completion=name, guards=found)
        yield pb.ChatStreamResponse(end=end)

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
        conversation, is_chat = request.conversation, request.HasField("conversation")
        with (await self._granted(request, context)).lease as lease:
            engine = lease.engine
            if is_chat:
                messages = words.to_messages(conversation.messages, "conversation.messages")
                box, opens = Toolbox(tuple(to_tools(conversation.tools))), conversation.add_generation_prompt
                refuse(list(tool_violations(box, "conversation.")))
                if box.is_used:
                    dialect_of(engine.facts.chat_template)
                ids = await offload(engine.encode_chat, messages, box.for_template, opens)
                rendered = await offload(engine.render_chat, messages, box.for_template, opens)
            else:
                ids, rendered = await offload(engine.encode_text, request.text), request.text
            tokens = [engine.decode([one], skip_special_tokens=False) for one in ids]
            template = common_pb2.ChatTemplateRef(hash=engine.facts.template_hash.removeprefix("sha256:"))
        return pb.TokenizeResponse(
            ids=ids, tokens=tokens, rendered=rendered, chat_template=template if is_chat else None
        )

    async def Detokenize(self, request: pb.DetokenizeRequest, context: Context) -> pb.DetokenizeResponse:
        with (await self._granted(request, context)).lease as lease:
            refuse_unknown_ids(request.ids, lease.engine.facts.vocabulary_tokens, "ids")
            skip = request.skip_special_tokens
            text = await offload(lease.engine.decode, list(request.ids), skip_special_tokens=skip)
        return pb.DetokenizeResponse(text=text)

    async def CheckText(self, request: pb.CheckTextRequest, context: Context) -> pb.CheckTextResponse:
        judging.refuse_texts(request.texts, 0)
        if request.deployment and request.guards:
            message = "Name a deployment or give guards, not both."
            raise Invalid("REQUEST_INVALID", message, fields=[FieldViolation("guards", message, "FIELD_FORBIDDEN")])
        if request.deployment:
            guards = (await self._models.deployment(request.deployment)).spec.guards
        else:
            guards = to_guards(request.guards, "guards")
            refuse(await offload(guard_violations, guards, "guards"))
            missing = "Name a deployment, or give the guards to run."
            refuse([] if guards else [FieldViolation("guards", missing, "FIELD_MISSING")])
        left = context.time_remaining()
        guarded = self._guards.over(guards, request.deployment, skip=False, seconds_left=left)
        return pb.CheckTextResponse(
            results=[
                pb.CheckedText(flagged=one.is_blocked, guards=map(from_finding, one.findings))
                for one in await guarded.check(request.texts)
            ]
        )

    async def _granted(self, request: pb.TokenizeRequest | pb.DetokenizeRequest, context: Context) -> Granted:
        caller = Caller(project_of(request))
        return await self._models.grant(request.model, seconds_left=context.time_remaining(), caller=caller)

    async def _prepare(self, request: pb.ChatRequest, context: Context, path: str) -> Prepared:
        try:
            refuse_unloggable(request, path)
            left = context.time_remaining()
            prepared = await prepare(self._models, self._guards, request, path, seconds_left=left)
        except Refusal:
            self._answers.count_refused()
            raise
        if request.model == prepared.granted.deployment.name:
            self._shadows.copy_after(prepared.granted, prepared.requests[0])
        return prepared
