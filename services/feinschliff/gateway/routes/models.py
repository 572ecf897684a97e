"""`/v1/models`: what a key can name."""

from __future__ import annotations

from fastapi import APIRouter, Response

from feinschliff.gateway.bodies import reply
from feinschliff.gateway.pages import listed
from feinschliff.gateway.state import Here, Project

router = APIRouter()


@router.get("/v1/models")
async def list_models(here: Here, project: Project) -> Response:
    return reply(listed(await here.models.all(project), has_more=False))


@router.get("/v1/models/{model:path}")
async def retrieve(model: str, here: Here, project: Project) -> Response:
    return reply(await here.models.show(project, model))


@router.delete("/v1/models/{model:path}")
async def delete(model: str, here: Here, project: Project) -> Response:
    await here.models.delete(project, model)
    return reply({"id": model, "object": "model", "deleted": True})
