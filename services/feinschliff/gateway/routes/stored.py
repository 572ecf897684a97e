"""`/v1/chat/completions`, the stored ones: listed, read, tagged, removed, and judged."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from google.protobuf.field_mask_pb2 import FieldMask

from feinschliff.gateway import ids
from feinschliff.gateway.bodies import read_json, reply
from feinschliff.gateway.errors import ApiError, answering, no_completion
from feinschliff.gateway.pages import Item, ServicePage, page_of, query_of, unknown_cursor
from feinschliff.gateway.state import Here, Project, State
from feinschliff.gateway.stored import (
    FeedbackBody,
    MetadataBody,
    filter_of,
    from_time,
    param_of,
    to_completion,
    to_feedback,
    to_messages,
)
from feinschliff.v1 import ingestion_pb2 as pb

router = APIRouter()
SHOWN, PAGE_MAX = 20, 100
"""Items on a page that names no limit, and at most."""


@router.get("/v1/chat/completions")
async def list_completions(request: Request, here: Here, project: Project) -> Response:
    query = query_of(request, default=SHOWN, maximum=PAGE_MAX, order="asc")
    is_ascending = query.order == "asc"
    wanted = filter_of(await _served(here, project, request.query_params.get("model", "")), request.query_params)
    if query.after:
        try:
            seen = await _stored(here, project, query.after)
        except ApiError as error:
            raise unknown_cursor(query.after) if error.status == 404 else error from error
        wanted = " AND ".join(filter(None, (wanted, from_time(seen, is_ascending=is_ascending))))

    async def fetch(token: str, size: int) -> ServicePage:
        asked = pb.ListCompletionsRequest(
            parent=ids.project_name(project),
            page_size=size,
            page_token=token,
            filter=wanted,
            order_by="create_time" if is_ascending else "create_time desc",
        )
        with answering():
            page = await here.clients.completions.ListCompletions(asked)
        shown = await here.models.shown(project, {one.model for one in page.completions})
        return ServicePage([to_completion(one, shown[one.model]) for one in page.completions], page.next_page_token)

    return reply(await page_of(fetch, query))


@router.get("/v1/chat/completions/{completion_id}")
async def retrieve(completion_id: str, here: Here, project: Project) -> Response:
    return reply(await _shown(here, project, await _stored(here, project, completion_id)))


@router.post("/v1/chat/completions/{completion_id}")
async def update(completion_id: str, request: Request, here: Here, project: Project) -> Response:
    body = await read_json(request, MetadataBody, bytes_max=here.settings.gateway_body_bytes_max)
    changed = pb.Completion(name=_name(project, completion_id), metadata=body.metadata or {})
    asked = pb.UpdateCompletionRequest(completion=changed, update_mask=FieldMask(paths=["metadata"]))
    with answering(missing=no_completion(completion_id), param_of=param_of):
        stored = await here.clients.completions.UpdateCompletion(asked)
    return reply(await _shown(here, project, stored))


@router.delete("/v1/chat/completions/{completion_id}")
async def delete(completion_id: str, here: Here, project: Project) -> Response:
    asked = pb.DeleteCompletionRequest(name=_name(project, completion_id))
    with answering(missing=no_completion(completion_id)):
        await here.clients.completions.DeleteCompletion(asked)
    return reply({"id": completion_id, "object": "chat.completion.deleted", "deleted": True})


@router.get("/v1/chat/completions/{completion_id}/messages")
async def messages(completion_id: str, request: Request, here: Here, project: Project) -> Response:
    query = query_of(request, default=SHOWN, maximum=PAGE_MAX, order="asc")
    turns = to_messages(await _stored(here, project, completion_id))

    async def fetch(token: str, size: int) -> ServicePage:
        return ServicePage(turns if query.order == "asc" else turns[::-1], "")

    return reply(await page_of(fetch, query))


@router.post("/v1/chat/completions/{completion_id}/feedback")
async def judge(completion_id: str, request: Request, here: Here, project: Project) -> Response:
    body = await read_json(request, FeedbackBody, bytes_max=here.settings.gateway_body_bytes_max)
    key = request.headers.get("idempotency-key", "")
    asked = pb.AddFeedbackRequest(
        parent=_name(project, completion_id),
        feedback=body.to_feedback(),
        request_id=ids.new_id("", project, key) if key else "",
    )
    with answering(missing=no_completion(completion_id), param_of=param_of):
        given = await here.clients.completions.AddFeedback(asked)
    return reply(to_feedback(given))


@router.get("/v1/chat/completions/{completion_id}/feedback")
async def list_feedback(completion_id: str, request: Request, here: Here, project: Project) -> Response:
    query = query_of(request, default=SHOWN, maximum=PAGE_MAX, order="asc")
    parent = _name(project, completion_id)

    async def fetch(token: str, size: int) -> ServicePage:
        asked = pb.ListFeedbackRequest(
            parent=parent,
            page_size=size,
            page_token=token,
            order_by="create_time" if query.order == "asc" else "create_time desc",
        )
        with answering(missing=no_completion(completion_id)):
            page = await here.clients.completions.ListFeedback(asked)
        return ServicePage([to_feedback(one) for one in page.feedback], page.next_page_token)

    return reply(await page_of(fetch, query))


async def _served(here: State, project: str, model: str) -> str:
    """The model as the log names it; one that is gone, or never was, is looked for by the name given."""
    if not model:
        return ""
    try:
        return (await here.models.resolve(project, model)).model
    except ApiError as error:
        if error.status >= 500:
            raise
        return model


async def _stored(here: State, project: str, completion_id: str) -> pb.Completion:
    with answering(missing=no_completion(completion_id)):
        return await here.clients.completions.GetCompletion(pb.GetCompletionRequest(name=_name(project, completion_id)))


async def _shown(here: State, project: str, stored: pb.Completion) -> Item:
    shown = await here.models.shown(project, [stored.model])
    return to_completion(stored, shown[stored.model])


def _name(project: str, completion_id: str) -> str:
    name = ids.completion_name(project, completion_id)
    if not name:
        raise no_completion(completion_id)
    return name
