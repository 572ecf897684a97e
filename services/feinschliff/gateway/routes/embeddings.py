"""`/v1/embeddings`: texts or tokens as vectors."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from feinschliff.gateway.answers import identity_headers
from feinschliff.gateway.bodies import read_json, reply
from feinschliff.gateway.embedding import EmbeddingBody, Part
from feinschliff.gateway.errors import answering, no_model
from feinschliff.gateway.state import Here, Project, State
from feinschliff.gateway.streams import while_connected
from feinschliff.v1 import inference_pb2 as pb

router = APIRouter()


@router.post("/v1/embeddings")
async def create(request: Request, here: Here, project: Project) -> Response:
    body = await read_json(request, EmbeddingBody, bytes_max=here.settings.gateway_body_bytes_max)
    answers = await while_connected(request, _answers(here, project, body))
    return reply(body.answer(answers), headers=identity_headers(answers[0].identity))


async def _answers(here: State, project: str, body: EmbeddingBody) -> list[pb.EmbedResponse]:
    """One request after the other: the engine reads one pass at a time, whoever asks."""
    target, found = await here.models.resolve(project, body.model), list[pb.EmbedResponse]()

    async def ask(part: Part) -> pb.EmbedResponse:
        return await here.clients.inference.Embed(part.request, timeout=here.settings.gateway_answer_seconds)

    for part in body.to_requests(target.model):
        with answering(missing=no_model(body.model), param_of=body.param_of(part.start)):
            found.append(await here.loader.served(project, target, lambda part=part: ask(part)))  # type: ignore[misc]
    return found
