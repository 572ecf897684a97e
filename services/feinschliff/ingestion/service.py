"""The door: the API's calls translated, handed on, and translated back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty

from feinschliff.ingestion import proto
from feinschliff.ingestion.datasets import Datasets
from feinschliff.ingestion.header import Header
from feinschliff.ingestion.listing import Wish
from feinschliff.ingestion.model import DATASET, PROJECT, VERSION, State, Version
from feinschliff.ingestion.receiving import Verdict
from feinschliff.ingestion.uploads import Running, Uploads
from feinschliff.ingestion.versions import Versions
from feinschliff.kit import masks, names
from feinschliff.kit.errors import Cancelled, FieldViolation, Invalid, TimedOut
from feinschliff.kit.idempotency import digest_of
from feinschliff.kit.metrics import Metrics
from feinschliff.kit.paging import Page
from feinschliff.kit.threads import offload, stream
from feinschliff.kit.watch import Wake, follow
from feinschliff.v1 import ingestion_pb2 as pb
from feinschliff.v1 import ingestion_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class DatasetService(ingestion_pb2_grpc.DatasetServiceServicer):
    """Datasets, uploads and reads; imports, derivations, audits and erasure are not served yet."""

    def __init__(
        self,
        datasets: Datasets,
        versions: Versions,
        uploads: Uploads,
        wake: Wake,
        metrics: Metrics,
        *,
        idle_seconds: float,
    ) -> None:
        self._datasets = datasets
        self._versions = versions
        self._uploads = uploads
        self._wake = wake
        self._idle_seconds = idle_seconds
        self._rows_read = metrics.counter("feinschliff_ingestion_read_rows_total")

    async def CreateDataset(self, request: pb.CreateDatasetRequest, context: Context) -> pb.Dataset:
        project = names.parse(PROJECT, request.parent, field="parent")["project"]
        dataset = await offload(
            self._datasets.create,
            project,
            request.dataset_id,
            proto.draft_of(request.dataset),
            request_id=request.request_id,
            body_digest=digest_of(request),
        )
        return proto.dataset_message(dataset)

    async def GetDataset(self, request: pb.GetDatasetRequest, context: Context) -> pb.Dataset:
        return proto.dataset_message(await offload(self._datasets.get, **names.parse(DATASET, request.name)))

    async def ListDatasets(self, request: pb.ListDatasetsRequest, context: Context) -> pb.ListDatasetsResponse:
        project = names.parse(PROJECT, request.parent, field="parent")["project"]
        page = await offload(self._datasets.list, project, _wish(request))
        messages = [proto.dataset_message(dataset) for dataset in page.items]
        return pb.ListDatasetsResponse(datasets=messages, next_page_token=page.next_token, total_size=page.total)

    async def UpdateDataset(self, request: pb.UpdateDatasetRequest, context: Context) -> pb.Dataset:
        ids = names.parse(DATASET, request.dataset.name, field="dataset.name")
        read = await offload(self._datasets.get, **ids)
        merged = masks.merged(proto.dataset_message(read), request.dataset, request.update_mask, immutable=["etag"])
        changed = await offload(self._datasets.update, read, proto.draft_of(merged), etag=request.dataset.etag)
        return proto.dataset_message(changed)

    async def DeleteDataset(self, request: pb.DeleteDatasetRequest, context: Context) -> Empty:
        await offload(self._datasets.delete, **names.parse(DATASET, request.name), etag=request.etag)
        return Empty()

    async def UploadDatasetVersion(
        self, request_iterator: AsyncIterator[pb.UploadDatasetVersionRequest], context: Context
    ) -> pb.DatasetVersion:
        header = await _header(request_iterator)
        async with self._running(header) as upload:
            async for part in _in_time(request_iterator, self._idle_seconds):
                await offload(upload.feed, _chunk(part))
            if context.cancelled():
                raise Cancelled("CALL_CANCELLED", "The caller left before the end of the file.")
            result = await offload(upload.finish)
        return self._answer(result, header)

    async def GetDatasetVersion(self, request: pb.GetDatasetVersionRequest, context: Context) -> pb.DatasetVersion:
        return self._message(await self._version(request.name))

    async def ListDatasetVersions(
        self, request: pb.ListDatasetVersionsRequest, context: Context
    ) -> pb.ListDatasetVersionsResponse:
        project, dataset = _parent_of_versions(request.parent)
        page = await offload(self._versions.list, project, dataset, _wish(request))
        messages = [self._message(version) for version in page.items]
        return pb.ListDatasetVersionsResponse(
            dataset_versions=messages, next_page_token=page.next_token, total_size=page.total
        )

    async def WatchDatasetVersion(
        self, request: pb.WatchDatasetVersionRequest, context: Context
    ) -> AsyncIterator[pb.WatchDatasetVersionResponse]:
        project, dataset, number = _ids(request.name)

        def read(cursor: int) -> list[Version]:
            version = self._versions.get(project, dataset, number)
            return [version] if version.revision > cursor else []

        def is_final() -> bool:
            return self._versions.get(project, dataset, number).state is not State.PROCESSING

        changes = follow(
            read,
            cursor_of=lambda version: version.revision,
            start=request.cursor,
            is_final=is_final,
            wake=self._wake,
        )
        async for version in changes:
            yield pb.WatchDatasetVersionResponse(cursor=version.revision, dataset_version=self._message(version))

    async def ReadRows(self, request: pb.ReadRowsRequest, context: Context) -> AsyncIterator[pb.ReadRowsResponse]:
        version = await self._version(request.name)
        split = proto.split_name(request.split)
        batches = self._versions.rows(version, split, start=request.start, limit=request.limit)
        async for batch in stream(batches, batch=1):
            yield pb.ReadRowsResponse(rows=[proto.row_message(row) for row in batch])
            self._rows_read.inc(len(batch))

    async def ReadSource(self, request: pb.ReadSourceRequest, context: Context) -> AsyncIterator[pb.ReadSourceResponse]:
        version = await self._version(request.name)
        chunks = self._versions.source(version, offset_bytes=request.offset_bytes, limit_bytes=request.limit_bytes)
        async for chunk in stream(chunks, batch=1):
            yield pb.ReadSourceResponse(chunk=chunk.data, offset_bytes=chunk.offset_bytes)

    async def SampleRows(self, request: pb.SampleRowsRequest, context: Context) -> pb.SampleRowsResponse:
        version = await self._version(request.name)
        split = proto.split_name(request.split)
        rows = await offload(self._versions.sample, version, split, request.count, request.seed)
        return pb.SampleRowsResponse(rows=[proto.row_message(row) for row in rows])

    async def ListFormats(self, request: pb.ListFormatsRequest, context: Context) -> pb.ListFormatsResponse:
        names.parse(PROJECT, request.parent, field="parent")
        page = Page.open(request.page_token, request.page_size, request.parent)
        start = int(page.after[0]) if page.after else 0
        formats = proto.format_messages()
        end = start + page.size
        token = page.token(end) if end < len(formats) else ""
        return pb.ListFormatsResponse(formats=formats[start:end], next_page_token=token)

    @asynccontextmanager
    async def _running(self, header: Header) -> AsyncIterator[Running]:
        """An upload that is ended in every case, also where the caller leaves while it begins or ends."""
        opening = asyncio.ensure_future(offload(self._uploads.begin, header))
        try:
            yield await asyncio.shield(opening)
        finally:
            ending = asyncio.ensure_future(_end(opening))
            try:
                await asyncio.shield(ending)
            except asyncio.CancelledError:
                await ending
                raise

    async def _version(self, name: str) -> Version:
        return await offload(self._versions.get, *_ids(name))

    def _message(self, version: Version) -> pb.DatasetVersion:
        return proto.version_message(version, self._versions.bucket)

    def _answer(self, result: Version | Verdict, header: Header) -> pb.DatasetVersion:
        return proto.verdict_message(result, header) if isinstance(result, Verdict) else self._message(result)


async def _header(parts: AsyncIterator[pb.UploadDatasetVersionRequest]) -> Header:
    first = await anext(parts, None)
    if first is None or first.WhichOneof("part") != "header":
        raise _out_of_order("The first message of an upload is its header.")
    return proto.header_of(first.header)


async def _in_time(
    parts: AsyncIterator[pb.UploadDatasetVersionRequest], idle_seconds: float
) -> AsyncIterator[pb.UploadDatasetVersionRequest]:
    """The parts, as long as each comes within the time."""
    while True:
        try:
            async with asyncio.timeout(idle_seconds):
                part = await anext(parts, None)
        except TimeoutError:
            raise TimedOut(
                "DEADLINE_EXCEEDED",
                f"No chunk came for {idle_seconds:g} s; the upload is ended.",
                advice=["Upload again; end the stream after the last chunk."],
                seconds=idle_seconds,
            ) from None
        if part is None:
            return
        yield part


def _chunk(part: pb.UploadDatasetVersionRequest) -> bytes:
    if part.WhichOneof("part") != "chunk":
        raise _out_of_order("After the header come chunks only.")
    return part.chunk


def _out_of_order(message: str) -> Invalid:
    return Invalid("UPLOAD_OUT_OF_ORDER", message, fields=[FieldViolation("part", message, "UPLOAD_OUT_OF_ORDER")])


async def _end(opening: asyncio.Future[Running]) -> None:
    await asyncio.wait({opening})
    if not opening.cancelled() and opening.exception() is None:
        await offload(opening.result().end)


def _ids(name: str) -> tuple[str, str, int]:
    ids = names.parse(VERSION, name)
    return ids["project"], ids["dataset"], proto.version_number(ids["version"])


def _parent_of_versions(parent: str) -> tuple[str, str]:
    if parent.endswith("/datasets/-"):
        return names.parse(f"{PROJECT}/datasets/-", parent, field="parent")["project"], "-"
    ids = names.parse(DATASET, parent, field="parent")
    return ids["project"], ids["dataset"]


def _wish(request: pb.ListDatasetsRequest | pb.ListDatasetVersionsRequest) -> Wish:
    return Wish(request.page_size, request.page_token, request.filter, request.order_by)
