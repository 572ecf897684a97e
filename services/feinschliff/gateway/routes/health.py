"""`/healthz` and `/readyz`: for machines, without a key."""

from __future__ import annotations

import orjson
from fastapi import APIRouter, Response

from feinschliff.gateway.bodies import reply
from feinschliff.gateway.state import Here

router = APIRouter()


@router.get("/healthz")
async def live() -> Response:
    """The loop turns."""
    return reply({"status": "live"})


@router.get("/readyz")
async def ready(here: Here) -> Response:
    """503 while a service behind the door does not answer, naming it."""
    failing = dict(here.readiness.failing)
    if not failing:
        return reply({"status": "ready"})
    body = orjson.dumps({"status": "not ready", "failing": failing})
    return Response(body, status_code=503, media_type="application/json", headers={"retry-after": "1"})
