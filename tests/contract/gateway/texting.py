"""Inference behind the gateway, its calls about texts: it continues a text with what the text says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from feinschliff.kit.errors import Exhausted, FieldViolation, Invalid, WrongState
from feinschliff.v1 import common_pb2 as common
from feinschliff.v1 import inference_pb2 as pb
from tests.contract.gateway.inference import Inference

Context = grpc.aio.ServicerContext[Any, Any]


class TextInference(Inference):
    """Beside chats; words in a text make it busy, refuse it, or break off."""

    def reset(self) -> None:
        super().reset()
        self.completes: list[pb.CompleteRequest] = []
        self.embeds: list[pb.EmbedRequest] = []
        self.versions: list[str] = []  # of the next calls for vectors; then the model itself
        self.at_once = self.at_once_max = 0

    async def Complete(self, request: pb.CompleteRequest, context: Context) -> pb.CompleteResponse:
        self.at_once += 1
        self.at_once_max = max(self.at_once, self.at_once_max)
        try:
            await asyncio.sleep(0.01)
            text, usage = self._continued(request, "")
        finally:
            self.at_once -= 1
        before = text.removesuffix(" again") if request.echo else ""
        choices = [
            pb.CompletionChoice(
                index=index,
                text=f"{text}{number_of(index)}",
                finish_reason=common.FINISH_REASON_LENGTH,
                logprobs=spelled(f"{text.removeprefix(before)}{number_of(index)}") if request.sampling.logprobs else [],
                prompt_logprobs=spelled(before)[:-1] if request.sampling.logprobs and request.echo else [],
            )
            for index in range(request.sampling.n or 1)
        ]
        return pb.CompleteResponse(identity=_identity(request.model), choices=choices, usage=usage)

    async def CompleteStream(
        self, request: pb.CompleteStreamRequest, context: Context
    ) -> AsyncIterator[pb.CompleteStreamResponse]:
        text, usage = self._continued(request.complete, "complete.")
        yield pb.CompleteStreamResponse(identity=_identity(request.complete.model))
        asked = request.complete.sampling
        for index in range(asked.n or 1):
            for word in f"{text}{number_of(index)}".split(" "):
                logprobs = spelled(f"{word} ") if asked.logprobs else []
                yield pb.CompleteStreamResponse(delta=pb.CompleteDelta(index=index, text=f"{word} ", logprobs=logprobs))
                await asyncio.sleep(0)
                if word == "break":
                    raise RuntimeError("the engine fell over")
            last = pb.CompleteDelta(index=index, finish_reason=common.FINISH_REASON_STOP)
            yield pb.CompleteStreamResponse(delta=last)
        end = pb.StreamEnd(finish_reason=common.FINISH_REASON_STOP, usage=usage)
        yield pb.CompleteStreamResponse(end=end)

    async def Embed(self, request: pb.EmbedRequest, context: Context) -> pb.EmbedResponse:
        """Vectors of three numbers that tell the texts apart."""
        self.embeds.append(request)
        names = list(request.texts) or [" ".join(map(str, row.ids)) for row in request.tokens]
        path = "texts" if request.texts else "tokens"
        if empty := [place for place, name in enumerate(names) if not name]:
            raise Invalid("REQUEST_INVALID", "Empty.", fields=[FieldViolation(f"{path}[{empty[0]}]", "Empty.")])
        if request.dimensions > 3:
            raise Invalid("DIMENSIONS_UNSUPPORTED", "Too long.", fields=[FieldViolation("dimensions", "Too long.")])
        vectors = [vector_of(name)[: request.dimensions or 3] for name in names]
        count = sum(len(name.split()) for name in names)
        return pb.EmbedResponse(
            identity=_identity(self.versions.pop(0) if self.versions else request.model),
            embeddings=[pb.Embedding(values=vector) for vector in vectors],
            usage=common.TokenUsage(prompt_tokens=count, total_tokens=count),
        )

    def _continued(self, request: pb.CompleteRequest, path: str) -> tuple[str, common.TokenUsage]:
        self.completes.append(request)
        if not any(one.base_model == request.model for one in self.deployments.values()):
            raise WrongState("MODEL_NOT_LOADED", f"No deployment holds {request.model}.", model=request.model)
        said = request.text or " ".join(map(str, request.tokens.ids))
        if said == "busy":
            raise Exhausted("QUEUE_FULL", "The queue is full.", retry_after_seconds=2.5)
        if said == "long":
            field = FieldViolation(f"{path}text", "Too long.", "CONTEXT_LENGTH_EXCEEDED")
            raise Invalid("CONTEXT_LENGTH_EXCEEDED", "Too long.", fields=[field])
        text = f"{said} again" if request.echo else "again"
        if said == "break":
            text = "one break two"
        count = len(said.split())
        return text, common.TokenUsage(prompt_tokens=count, completion_tokens=2, total_tokens=count + 2)


def number_of(index: int) -> str:
    return f" {index}" if index else ""


def spelled(text: str) -> list[common.TokenLogprob]:
    """Four characters a token, and at the end one that is not shown."""
    pieces = [text[at : at + 4] for at in range(0, len(text), 4)]
    likely = [
        common.TokenLogprob(
            token=piece,
            logprob=-0.5 * number,
            utf8=piece.encode(),
            top=[common.TokenLogprob(token=piece, logprob=-0.5 * number), common.TokenLogprob(token="x", logprob=-9e9)],
        )
        for number, piece in enumerate(pieces)
    ]
    return [*likely, common.TokenLogprob(token="<end>", logprob=-1.0, utf8=b"<end>")]


def vector_of(text: str) -> list[float]:
    return [float(len(text)), 0.5, -float(sum(text.encode()) % 97)]


def _identity(model: str) -> common.Identity:
    return common.Identity(model_version=model, base_digest="sha256:" + "ab" * 32, template_hash="cd" * 32)
