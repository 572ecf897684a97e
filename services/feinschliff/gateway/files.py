"""Files: each is the first version of a dataset with the file's own id, its source the bytes as they came."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import JsonValue

from feinschliff.gateway import ids
from feinschliff.gateway.errors import ApiError, invalid, required, unsupported
from feinschliff.gateway.jobs import seconds
from feinschliff.gateway.multipart import Form
from feinschliff.v1 import common_pb2
from feinschliff.v1 import ingestion_pb2 as pb

FINE_TUNE, RESULTS = "fine-tune", "fine-tune-results"
SERVED_PURPOSES = (FINE_TUNE,)
KNOWN_PURPOSES = ("assistants", "batch", "evals", FINE_TUNE, "user_data", "vision")
OBJECT_LABEL, PURPOSE_LABEL = "openai_object", "openai_purpose"
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
