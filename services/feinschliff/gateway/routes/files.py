"""`/v1/files`: upload, list, look at, read back and remove."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response

from feinschliff.gateway import ids
from feinschliff.gateway.bodies import reply
from feinschliff.gateway.errors import ApiError, answering, no_file
from feinschliff.gateway.files import (
    KNOWN_PURPOSES,
    OBJECT_LABEL,
    PURPOSE_LABEL,
    check_purpose,
    header_of,
    to_file,
)
from feinschliff.gateway.multipart import Form
from feinschliff.gateway.pages import ServicePage, page_of, query_of
from feinschliff.gateway.results import Results
from feinschliff.gateway.state import Here, Project, State
from feinschliff.gateway.streams import Streamed, while_connected
from feinschliff.gateway.uploads import upload
from feinschliff.v1 import ingestion_pb2 as pb

if TYPE_CHECKING:
    import grpc

    SourceCall = grpc.aio.UnaryStreamCall[pb.ReadSourceRequest, pb.ReadSourceResponse]

router = APIRouter()
FILES_PER_PAGE_MAX = 10_000


@router.post("/v1/files")
async def create(request: Request, here: Here, project: Project) -> Response:
    form = Form(request, file_bytes_max=here.settings.gateway_upload_bytes_max)
    if not await form.find_file():
        raise ApiError(400, "Missing required parameter: 'file'.", code="missing_required_parameter", param="file")
    if "purpose" in form.fields:
        check_purpose(form.fields["purpose"])
    key = request.headers.get("idempotency-key", "")
    file_id = ids.new_id(ids.FILE_PREFIX, project, key)
    header = header_of(project, file_id, form, request_id=file_id if key else "")
    seconds = here.settings.gateway_upload_seconds
    try:
        version = await upload(here.clients.uploads, header, form, timeout_seconds=seconds)
    finally:
        here.metrics.counter("feinschliff_gateway_upload_bytes_total").inc(form.file_bytes)
    return reply(to_file(version))


@router.get("/v1/files")
async def list_files(request: Request, here: Here, project: Project) -> Response:
    query = query_of(request, default=FILES_PER_PAGE_MAX, maximum=FILES_PER_PAGE_MAX)
    purpose = request.query_params.get("purpose", "")
    if purpose and purpose not in KNOWN_PURPOSES:
        raise ApiError(400, f"'{purpose[:40]}' is no purpose.", code="invalid_value", param="purpose")
    kept = f'labels.{OBJECT_LABEL} = "file"' + (f' AND labels.{PURPOSE_LABEL} = "{purpose}"' if purpose else "")

    async def fetch(token: str, size: int) -> ServicePage:
        with answering():
            page = await here.clients.datasets.ListDatasetVersions(
                pb.ListDatasetVersionsRequest(
                    parent=f"projects/{project}/datasets/-",
                    page_size=size,
                    page_token=token,
                    filter=kept,
                    order_by="create_time" if query.order == "asc" else "create_time desc",
                )
            )
        return ServicePage([to_file(version) for version in page.dataset_versions], page.next_page_token)

    return reply(await page_of(fetch, query))


@router.get("/v1/files/{file_id}")
async def retrieve(file_id: str, here: Here, project: Project) -> Response:
    if ids.job_of_result(file_id):
        return reply(await Results(here.clients).show(project, file_id))
    return reply(to_file(await _version(here, project, file_id)))


@router.get("/v1/files/{file_id}/content")
async def content(file_id: str, request: Request, here: Here, project: Project) -> Response:
    if ids.job_of_result(file_id):
        return Response(await Results(here.clients).content(project, file_id), media_type="text/csv")
    version = await _version(here, project, file_id)
    call = here.clients.datasets.ReadSource(
        pb.ReadSourceRequest(name=version.name), timeout=here.settings.gateway_upload_seconds
    )
    with answering(missing=no_file(file_id)):
        first = await while_connected(request, _first(call))
    headers = {"content-length": str(version.source.size_bytes)} if version.source.size_bytes else None
    return Streamed(_pieces(call, first), media_type="application/octet-stream", headers=headers)


@router.delete("/v1/files/{file_id}")
async def delete(file_id: str, here: Here, project: Project) -> Response:
    version = await _version(here, project, file_id)
    with answering(missing=no_file(file_id)):
        await here.clients.datasets.DeleteDataset(pb.DeleteDatasetRequest(name=version.name.partition("/versions/")[0]))
    return reply({"id": file_id, "object": "file", "deleted": True})


async def _version(here: State, project: str, file_id: str) -> pb.DatasetVersion:
    name = ids.dataset_version(project, file_id)
    if name is None:
        raise no_file(file_id)
    with answering(missing=no_file(file_id)):
        return await here.clients.datasets.GetDatasetVersion(pb.GetDatasetVersionRequest(name=name))


async def _first(call: SourceCall) -> bytes:
    async for piece in call:
        return piece.chunk
    return b""


async def _pieces(call: SourceCall, first: bytes) -> AsyncIterator[bytes]:
    try:
        if first:
            yield first
        async for piece in call:
            yield piece.chunk
    finally:
        call.cancel()
