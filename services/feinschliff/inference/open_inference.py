"""The door for clients of the Open Inference Protocol: the same models, asked by tensors."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from importlib.metadata import version as release_of
from typing import Any, TypeVar

import grpc

from feinschliff.formats.heads import HeadFacts
from feinschliff.inference import tensors
from feinschliff.inference.completions import Completions
from feinschliff.inference.conversation import FINISH_WORDS
from feinschliff.inference.models import Granted, Models
from feinschliff.inference.naming import named, versions_of
from feinschliff.inference.requests import refuse
from feinschliff.inference.tensors import EMBEDDING, LABEL, PROBABILITY, TEXT, VALUE, Infer, Outputs
from feinschliff.inference.texts import Texts
from feinschliff.kit.errors import FieldViolation
from feinschliff.kit.health import Readiness
from feinschliff.v1 import inference_pb2, open_inference_pb2_grpc
from feinschliff.v1 import open_inference_pb2 as pb

Context = grpc.aio.ServicerContext[Any, Any]
T = TypeVar("T")
CONTINUED_MAX = 128
AT_ONCE_MAX = 16
"""Texts of one call that are continued at once; the others wait here, not in the engine's queue."""


class OpenInference(open_inference_pb2_grpc.GRPCInferenceServiceServicer):
    """Says what is ready, and runs models on texts."""

    def __init__(self, models: Models, texts: Texts, completions: Completions, readiness: Readiness) -> None:
        self._models = models
        self._texts = texts
        self._completions = completions
        self._readiness = readiness

    async def ServerLive(self, request: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._readiness.is_ready)

    async def ServerMetadata(self, request: pb.ServerMetadataRequest, context: Context) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name="feinschliff", version=release_of("feinschliff"))

    async def ModelReady(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:
        return pb.ModelReadyResponse(ready=await self._models.is_ready(self._model(request.name, request.version)))

    async def ModelMetadata(self, request: pb.ModelMetadataRequest, context: Context) -> pb.ModelMetadataResponse:
        granted = await self._models.at_once(self._model(request.name, request.version))
        with granted.lease as lease:
            facts, dimensions = lease.engine.head(lease.adapter_digest), lease.engine.facts.dimensions
        vectors = [tensors.metadata(EMBEDDING, [-1, dimensions[-1]])] if dimensions else []
        return pb.ModelMetadataResponse(
            name=request.name,
            versions=versions_of(request.name, self._models.deployments()),
            platform=granted.deployment.spec.engine,
            inputs=[tensors.metadata(TEXT, [-1])],
            outputs=[*_outputs_of(facts), *vectors],
        )

    async def ModelInfer(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:
        asked = tensors.read_infer(request)
        granted = await self._models.grant(
            self._model(request.model_name, request.model_version),
            seconds_left=context.time_remaining(),
            needs_vectors=EMBEDDING in asked.wanted,
        )
        with granted.lease as lease:
            facts = lease.engine.head(lease.adapter_digest)
            known = [one.name for one in _outputs_of(facts)]
            tensors.refuse_outputs(asked.wanted, [*known, EMBEDDING])
            wanted = asked.wanted or known
            identity = granted.identity
            response = pb.ModelInferResponse(
                model_name=request.model_name, model_version=identity.model_version, id=request.id
            )
            response.parameters["adapter_digest"].string_param = identity.adapter_digest
            response.parameters["base_digest"].string_param = identity.base_digest
            outputs, read, said = Outputs(response, is_raw=asked.is_raw), 0, 0
            if TEXT in wanted:
                read, said = await self._continue(granted, asked, outputs, context.time_remaining())
            elif set(wanted) & set(known):
                read = await self._judge(granted, asked, wanted, outputs)
            if EMBEDDING in wanted:
                tokens = await self._embed(granted, asked, outputs)
                read = read or tokens
        response.parameters["prompt_tokens"].int64_param = read
        response.parameters["completion_tokens"].int64_param = said
        return response

    async def _continue(
        self, granted: Granted, asked: Infer, outputs: Outputs, seconds_left: float | None
    ) -> tuple[int, int]:
        if len(asked.texts) > CONTINUED_MAX:
            message = f"At most {CONTINUED_MAX} texts are continued at once, not {len(asked.texts)}."
            refuse([FieldViolation("inputs[0].shape", message, "OUT_OF_RANGE")])
        places = asyncio.Semaphore(AT_ONCE_MAX)

        async def one(text: str) -> inference_pb2.CompleteResponse:
            model = granted.identity.model_version
            request = inference_pb2.CompleteRequest(model=model, sampling=asked.sampling, text=text)
            async with places:
                return await self._completions.on(
                    self._models.again(granted),
                    request,
                    "inputs[0].",
                    "parameters",
                    seconds_left=seconds_left,
                    as_turn=asked.is_chat,
                )

        answers = await _together([one(text) for text in asked.texts])
        choices = [answer.choices[0] for answer in answers]
        tensor = outputs.add_texts(TEXT, [len(choices)], [choice.text for choice in choices])
        finish = ",".join(FINISH_WORDS[choice.finish_reason] for choice in choices)
        tensor.parameters["finish_reason"].string_param = finish
        usages = [answer.usage for answer in answers]
        return sum(one.prompt_tokens for one in usages), sum(one.completion_tokens for one in usages)

    async def _judge(self, granted: Granted, asked: Infer, wanted: Sequence[str], outputs: Outputs) -> int:
        request = inference_pb2.ClassifyRequest(model=granted.identity.model_version, texts=asked.texts, top=asked.top)
        answer = await self._texts.classify_on(self._models.again(granted), request)
        judged = answer.classifications
        shape = [len(judged), len(judged[0].scores)]
        if LABEL in wanted:
            outputs.add_texts(LABEL, shape, [score.label for one in judged for score in one.scores])
        if PROBABILITY in wanted:
            outputs.add_numbers(PROBABILITY, shape, [score.probability for one in judged for score in one.scores])
        if VALUE in wanted:
            outputs.add_numbers(VALUE, [len(judged)], [one.value for one in judged])
        return answer.usage.prompt_tokens

    async def _embed(self, granted: Granted, asked: Infer, outputs: Outputs) -> int:
        request = inference_pb2.EmbedRequest(
            model=granted.identity.model_version, texts=asked.texts, dimensions=asked.dimensions
        )
        answer = await self._texts.embed_on(self._models.again(granted), request)
        vectors = [one.values for one in answer.embeddings]
        shape = [len(vectors), len(vectors[0])]
        outputs.add_numbers(EMBEDDING, shape, [number for vector in vectors for number in vector])
        return answer.usage.prompt_tokens

    def _model(self, name: str, version: str) -> str:
        return named(name, version, self._models.deployments())


def _outputs_of(facts: HeadFacts | None) -> list[pb.ModelMetadataResponse.TensorMetadata]:
    """What a model says of texts, beside their vectors."""
    if facts is None:
        return [tensors.metadata(TEXT, [-1])]
    if facts.kind == "regress":
        return [tensors.metadata(VALUE, [-1])]
    return [tensors.metadata(LABEL, [-1, -1]), tensors.metadata(PROBABILITY, [-1, -1])]


async def _together(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results in order; the first that fails ends the others."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
