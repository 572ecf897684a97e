"""`/v1/moderations`: texts before lists of words."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from pydantic import JsonValue

from feinschliff.gateway import ids
from feinschliff.gateway.bodies import read_json, reply
from feinschliff.gateway.errors import answering
from feinschliff.gateway.moderations import MODEL, ModerationBody, to_request, to_result
from feinschliff.gateway.state import Here, Project
from feinschliff.gateway.streams import while_connected
from feinschliff.v1 import inference_pb2 as pb

router = APIRouter()


@router.post("/v1/moderations")
async def create(request: Request, here: Here, project: Project) -> Response:
    body = await read_json(request, ModerationBody, bytes_max=here.settings.gateway_body_bytes_max)
    asked = to_request(body.texts())

    async def check() -> pb.CheckTextResponse:
        return await here.clients.inference.CheckText(asked, timeout=here.settings.gateway_answer_seconds)

    with answering():
        answer = await while_connected(request, check())
    results: list[JsonValue] = [to_result(checked) for checked in answer.results]
    return reply({"id": ids.new_moderation_id(), "model": MODEL, "results": results})
