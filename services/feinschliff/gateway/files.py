"""Files: each is the first version of a dataset with the file's own id, its source the bytes as they came."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING

import grpc
from pydantic import JsonValue

from feinschliff.gateway import ids
from feinschliff.gateway.errors import ApiError, answering, invalid, no_file, required, unsupported
from feinschliff.gateway.jobs import seconds
from feinschliff.gateway.multipart import Form
from feinschliff.v1 import common_pb2
from feinschliff.v1 import ingestion_pb2 as pb

if TYPE_CHECKING:
    from feinschliff.v1.ingestion_pb2_grpc import DatasetServiceAsyncStub

    UploadCall = grpc.aio.StreamUnaryCall[pb.UploadDatasetVersionRequest, pb.DatasetVersion]

log = logging.getLogger(__name__)

FINE_TUNE, RESULTS = "fine-tune", "fine-tune-results"
SERVED_PURPOSES = (FINE_TUNE,)
KNOWN_PURPOSES = ("assistants", "batch", "evals", FINE_TUNE, "user_data", "vision")
OBJECT_LABEL, PURPOSE_LABEL = "openai_object", "openai_purpose"
CHUNK_BYTES = 256 * 1024
FILE_NAME_CHARS_MAX = 255

State = pb.DatasetVersion.State
STATUS: Mapping[int, str] = {
    State.STATE_READY: "processed",
    State.STATE_FAILED: "error",
    State.STATE_WITHDRAWN: "error",
}


def check_purpose(purpose: str | None) -> str:
    """Raises ApiError 400 on param `purpose` for one that is missing, unknown, or not served yet."""
    if purpose is None:
        raise required("purpose")
    if purpose not in KNOWN_PURPOSES:
        known = ", ".join(KNOWN_PURPOSES)
        raise invalid("purpose", f"'{purpose[:40]}' is no purpose; known are {known}.")
    if purpose not in SERVED_PURPOSES:
        told = f"The purpose '{purpose}' is not served by this version; upload with purpose '{FINE_TUNE}'."
        raise invalid("purpose", told)
    return purpose


def header_of(project: str, file_id: str, form: Form, request_id: str) -> pb.UploadHeader:
    """All rows are for training: as at OpenAI, a validation file is a file of its own."""
    return pb.UploadHeader(
        parent=f"projects/{project}/datasets/{file_id}",
        filename=(form.file_name or "data.jsonl")[-FILE_NAME_CHARS_MAX:],
        split=pb.SplitSpec(train_fraction=1, validation_fraction=0, test_fraction=0),
        create_dataset_if_missing=True,
        labels={OBJECT_LABEL: "file", PURPOSE_LABEL: FINE_TUNE},
        request_id=request_id,
    )


async def upload(
    datasets: DatasetServiceAsyncStub, header: pb.UploadHeader, form: Form, *, timeout_seconds: float
) -> pb.DatasetVersion:
    """Passes the file on as it comes; memory holds one chunk. Nothing is stored unless the whole form is good.

    Raises:
        ApiError: the form, its fields, or the file is refused.
    """
    call = datasets.UploadDatasetVersion(timeout=timeout_seconds)
    try:
        if await _written(call, pb.UploadDatasetVersionRequest(header=header)):
            async with aclosing(_chunks(form)) as chunks:
                async for chunk in chunks:
                    if not await _written(call, pb.UploadDatasetVersionRequest(chunk=chunk)):
                        break
                else:
                    await form.finish()
                    check_fields(form)
                    await call.done_writing()
        with answering(missing=no_file(ids.last_part(header.parent))):
            return await call
    finally:
        call.cancel()


def check_fields(form: Form) -> None:
    """Raises ApiError for a purpose that cannot be taken, or a field that is not served."""
    check_purpose(form.fields.get("purpose"))
    extra = next((name for name in form.fields if name != "purpose"), None)
    if extra is not None and extra.startswith("expires_after"):
        raise unsupported("expires_after", "'expires_after' is not served by this version; delete the file instead.")
    if extra is not None:
        raise ApiError(400, f"Unknown parameter: '{extra[:60]}'.", code="unknown_parameter", param=extra[:60])


def to_file(version: pb.DatasetVersion) -> dict[str, JsonValue]:
    failed = version.HasField("failure")
    return {
        "id": ids.file_of(version.name),
        "object": "file",
        "bytes": version.source.size_bytes,
        "created_at": seconds(version.create_time),
        "expires_at": None,
        "filename": version.filename,
        "purpose": version.labels.get(PURPOSE_LABEL, FINE_TUNE),
        "status": STATUS.get(version.state, "uploaded"),
        "status_details": version.failure.message if failed else None,
        "findings": [_finding(finding) for finding in version.findings],
    }


def _finding(finding: common_pb2.Finding) -> JsonValue:
    return {
        "severity": common_pb2.Severity.Name(finding.severity).removeprefix("SEVERITY_").lower(),
        "code": finding.code,
        "message": finding.message,
        "count": finding.count,
        "lines": list(finding.rows[:20]),
        "advice": finding.advice,
    }


async def _chunks(form: Form) -> AsyncGenerator[bytes, None]:
    """The file in pieces that are large enough to be worth a message of their own."""
    gathered = bytearray()
    async with aclosing(form.file()) as pieces:
        async for piece in pieces:
            gathered += piece
            if len(gathered) >= CHUNK_BYTES:
                yield bytes(gathered)
                gathered.clear()
    if gathered:
        yield bytes(gathered)


async def _written(call: UploadCall, message: pb.UploadDatasetVersionRequest) -> bool:
    """False once the service has refused the upload; awaiting the call says why."""
    try:
        await call.write(message)
    except (grpc.RpcError, asyncio.InvalidStateError):
        return False
    return True
