"""`/v1/fine_tuning/alpha/graders`: check a grader, and try it on one answer."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from feinschliff.gateway import ids
from feinschliff.gateway.bodies import read_json, reply
from feinschliff.gateway.errors import answering
from feinschliff.gateway.graders import GraderBody, TrialBody, param_of, to_trial, with_models
from feinschliff.gateway.state import Here, Project
from feinschliff.gateway.streams import while_connected
from feinschliff.graders import wire
from feinschliff.v1 import evaluation_pb2 as pb

router = APIRouter()


@router.post("/v1/fine_tuning/alpha/graders/validate")
async def validate(request: Request, here: Here, project: Project) -> Response:
    body = await read_json(request, GraderBody, bytes_max=here.settings.gateway_body_bytes_max)
    with answering(param_of=param_of):
        grader = body.to_grader()
        await with_models(project, grader, here.models)
        asked = pb.ValidateGraderRequest(parent=ids.project_name(project), grader=grader)
        checked = await here.clients.evaluation.ValidateGrader(asked)
    return reply({"grader": wire.from_message(checked)})  # type: ignore[dict-item]


@router.post("/v1/fine_tuning/alpha/graders/run")
async def run(request: Request, here: Here, project: Project) -> Response:
    body = await read_json(request, TrialBody, bytes_max=here.settings.gateway_body_bytes_max)
    with answering(param_of=param_of):
        grader = body.to_grader()
        named_by_inference, named = await with_models(project, grader, here.models)
        asked = body.to_request(ids.project_name(project), named_by_inference)

        async def call() -> pb.RunGraderResponse:
            return await here.clients.evaluation.RunGrader(asked, timeout=here.settings.gateway_answer_seconds)

        response = await while_connected(request, call())
    return reply(to_trial(grader, response, named))
