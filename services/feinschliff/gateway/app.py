"""The HTTP application: routes, and one answer for whatever can go wrong."""

from __future__ import annotations

import logging

import grpc
import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from feinschliff.gateway.edge import Edge
from feinschliff.gateway.errors import SERVER, ApiError, from_refusal
from feinschliff.gateway.routes import (
    chat,
    completions,
    embeddings,
    files,
    graders,
    health,
    jobs,
    models,
    moderations,
    stored,
)
from feinschliff.gateway.state import State
from feinschliff.gateway.streams import ClientGone
from feinschliff.kit.context import current_request_id
from feinschliff.kit.errors import Refusal, from_rpc_error

log = logging.getLogger(__name__)
CLIENT_CLOSED_REQUEST = 499


def create_app(state: State) -> ASGIApp:
    """The whole gateway as an ASGI application."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.gateway = state
    for route in (files, jobs, models, chat, completions, embeddings, moderations, stored, graders, health):
        app.include_router(route.router)
    app.add_exception_handler(ApiError, _on_api_error)
    app.add_exception_handler(Refusal, _on_refusal)
    app.add_exception_handler(grpc.RpcError, _on_rpc_error)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(ClientGone, _on_gone)
    app.add_exception_handler(ClientDisconnect, _on_gone)
    app.add_exception_handler(Exception, _on_fault)
    return Edge(app, state.metrics)


def _told(error: ApiError) -> Response:
    return Response(
        orjson.dumps(error.body), status_code=error.status, media_type="application/json", headers=error.headers
    )


async def _on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _told(error)


async def _on_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return _told(from_refusal(error))


async def _on_rpc_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, grpc.RpcError)
    return _told(from_refusal(from_rpc_error(error)))


async def _on_http(request: Request, error: Exception) -> Response:
    """What the router refuses: a path or a method that is not served."""
    assert isinstance(error, HTTPException)
    headers, where = dict(error.headers or {}), f"{request.method} {request.url.path[:200]}"
    if error.status_code == 405:
        message = f"Not allowed to {where}. Served here: {headers.get('Allow') or headers.get('allow', 'nothing')}."
        return _told(ApiError(405, message, code="method_not_supported", headers=headers))
    if error.status_code == 404:
        message = f"Unknown request URL: {where}. This version does not serve it; check the path and the base URL."
        return _told(ApiError(404, message, code="unknown_url"))
    return _told(ApiError(error.status_code, str(error.detail), headers=headers))


async def _on_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return _told(ApiError(400, "The request cannot be read.", code="invalid_value"))


async def _on_gone(request: Request, error: Exception) -> Response:
    """Nobody reads this answer; the status is for the log."""
    return Response(status_code=CLIENT_CLOSED_REQUEST)


async def _on_fault(request: Request, error: Exception) -> Response:
    """A fault of ours; the caller gets the id under which the log has its trace."""
    log.error("fault", exc_info=error)
    message = f"The server had an error. Its log has the details under request id {current_request_id()}."
    return _told(ApiError(500, message, type=SERVER, code="internal_error"))
