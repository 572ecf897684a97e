"""`/v1/embeddings`: texts or tokens as vectors."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from feinschliff.gateway import ids
from feinschliff.gateway.answers import identity_headers
from feinschliff.gateway.bodies import read_json, reply
from feinschliff.gateway.embedding import EmbeddingBody, Part
from feinschliff.gateway.errors import SERVER, ApiError, answering, no_model
from feinschliff.gateway.models import Target
from feinschliff.gateway.state import Here, Project, State
from feinschliff.gateway.streams import while_connected
from feinschliff.v1 import inference_pb2 as pb

router = APIRouter()
ATTEMPTS_MAX = 3


@router.post("/v1/embeddings")
async def create(request: Request, here: Here, project: Project) -> Response:
    body = await read_json(request, EmbeddingBody, bytes_max=here.settings.gateway_body_bytes_max)
    answers = await while_connected(request, _answers(here, project, body))
    return reply(body.answer(answers), headers=identity_headers(answers[0].identity))


async def _answers(here: State, project: str, body: EmbeddingBody) -> list[pb.EmbedResponse]:
    """All parts by one model: where the shares of traffic, or an alias, move in between, all are asked again."""
    target = await here.models.resolve(project, body.model)
    for _ in range(ATTEMPTS_MAX):
        found = await _asked(here, project, body, target)
        if found is not None:
            return found
    message = "The model changed while it answered, again and again. Ask again."
    raise ApiError(503, message, type=SERVER, code="model_changed")


async def _asked(here: State, project: str, body: EmbeddingBody, target: Target) -> list[pb.EmbedResponse] | None:
    """One request after the other: the engine reads one pass at a time, whoever asks. None where models differ."""
    found = list[pb.EmbedResponse]()

    async def ask(part: Part) -> pb.EmbedResponse:
        return await here.clients.inference.Embed(part.request, timeout=here.settings.gateway_answer_seconds)

    for part in body.to_requests(target.model, ids.project_name(project), ids.new_embedding_id()):
        with answering(missing=no_model(body.model), param_of=body.param_of(part.start)):
            found.append(await here.loader.served(project, target, lambda part=part: ask(part)))  # type: ignore[misc]
        if found[-1].identity != found[0].identity:
            return None
    return found
