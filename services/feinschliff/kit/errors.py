"""Refusals: what a call is answered with when it cannot be done, in our words and as a gRPC status."""

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, NamedTuple

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped, unused-ignore]

DOMAIN = "feinschliff"
DETAILS_KEY = "grpc-status-details-bin"
DETAILS_CAP_BYTES = 6 * 1024
MESSAGE_CAP_CHARS = 1024

KIT_REASONS: Mapping[str, str] = {
    "INTERNAL": "A fault of ours; the metadata carries the id under which it is logged.",
    "METHOD_UNSERVED": "The API declares this method and this version does not serve it.",
    "FIELDS_REQUIRED": "Required fields of the request are missing; each is named.",
    "DEADLINE_EXCEEDED": "The call did not end in its time; what it asked for may have happened.",
    "CALL_CANCELLED": "The caller went away.",
    "SERVER_STOPPING": "The service shuts down; call again, another one answers.",
    "SERVICE_UNREACHABLE": "No connection to the service.",
    "NAME_MALFORMED": "A resource name does not have the documented form.",
    "PAGE_TOKEN_INVALID": "A page token is not ours, or belongs to another query.",
    "PAGE_SIZE_INVALID": "A page size is negative.",
    "MASK_PATH_UNKNOWN": "An update mask names a field that does not exist.",
    "MASK_PATH_FORBIDDEN": "An update mask names a field that only the server sets, or that is fixed.",
    "FILTER_INVALID": "A list's filter cannot be read, or names an unknown field.",
    "ORDER_INVALID": "A list cannot be sorted like this.",
    "REQUEST_MALFORMED": "The bytes of a request are no message of its method.",
    "REQUEST_ID_INVALID": "A request id is too long.",
    "REQUEST_ID_REUSED": "The same request id came with another body.",
    "ROW_CHANGED": "Someone else wrote first; read again.",
    "WRITE_CONFLICT": "Two writers met; try again.",
    "DATABASE_UNAVAILABLE": "The database does not answer.",
    "SCHEMA_BEHIND": "The database lacks migrations that this version needs.",
    "SCHEMA_AHEAD": "The database was migrated by a newer version.",
    "MIGRATION_FAILED": "The database refused a migration; nothing has changed.",
    "STATUS_WITHOUT_REASON": "The answer came from something that gives no reasons, such as a proxy.",
}


class FieldViolation(NamedTuple):
    """One field of a request that is wrong: its path, what is wrong, and a stable reason."""

    field: str
    description: str
    reason: str = ""


class Refusal(Exception):
    """A call that is answered with an error on purpose.

    Args:
        reason: stable UPPER_SNAKE name that clients switch on.
        message: for a person: what happened and what to do.
        fields: the request's fields that are wrong.
        advice: steps that help, one sentence each.
        retry_after_seconds: when it makes sense to try again; None says nothing about it.
        metadata: every value that the message repeats, for programs.
    """

    code: grpc.StatusCode = grpc.StatusCode.INTERNAL

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        fields: Sequence[FieldViolation] = (),
        advice: Sequence[str] = (),
        retry_after_seconds: float | None = None,
        **metadata: object,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.fields = tuple(fields)
        self.advice = tuple(advice)
        self.retry_after_seconds = retry_after_seconds
        self.metadata = {key: str(value) for key, value in metadata.items()}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.reason!r}, {self.message!r})"


class Invalid(Refusal):
    """Never valid, whatever the state: change the request."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class NotFound(Refusal):
    """What the request names does not exist."""

    code = grpc.StatusCode.NOT_FOUND


class AlreadyExists(Refusal):
    """What the request wants to create is there."""

    code = grpc.StatusCode.ALREADY_EXISTS


class WrongState(Refusal):
    """Valid, but not in the state that things are in."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class Conflict(Refusal):
    """Someone wrote first: read again, then try again."""

    code = grpc.StatusCode.ABORTED


class Exhausted(Refusal):
    """A limit is reached; later, or less."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class Unavailable(Refusal):
    """Something that we need does not answer; later."""

    code = grpc.StatusCode.UNAVAILABLE


class Unserved(Refusal):
    """Declared in the API, not served here."""

    code = grpc.StatusCode.UNIMPLEMENTED


class Unauthenticated(Refusal):
    """No key, or one that we do not know."""

    code = grpc.StatusCode.UNAUTHENTICATED


class Denied(Refusal):
    """A known caller without the right."""

    code = grpc.StatusCode.PERMISSION_DENIED


class TimedOut(Refusal):
    """The deadline passed; the call may have happened."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class Cancelled(Refusal):
    """The caller went away."""

    code = grpc.StatusCode.CANCELLED


class Internal(Refusal):
    """A fault of the service that was called; its log has the details under `error_id`."""

    code = grpc.StatusCode.INTERNAL


class StartError(Exception):
    """The process cannot start; one line per problem, each naming the setting that is wrong."""

    exit_code: ClassVar[int] = 2

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


BY_CODE: Mapping[grpc.StatusCode, type[Refusal]] = {
    kind.code: kind
    for kind in (
        Invalid,
        NotFound,
        AlreadyExists,
        WrongState,
        Conflict,
        Exhausted,
        Unavailable,
        Unserved,
        Unauthenticated,
        Denied,
        TimedOut,
        Cancelled,
        Internal,
    )
} | {grpc.StatusCode.OUT_OF_RANGE: Invalid}

_REASON_WITHOUT_DETAILS = {
    grpc.StatusCode.UNAVAILABLE: "SERVICE_UNREACHABLE",
    grpc.StatusCode.DEADLINE_EXCEEDED: "DEADLINE_EXCEEDED",
    grpc.StatusCode.CANCELLED: "CALL_CANCELLED",
    grpc.StatusCode.UNIMPLEMENTED: "METHOD_UNSERVED",
}


def to_status(refusal: Refusal) -> status_pb2.Status:
    """The refusal as `google.rpc.Status`, at most about `DETAILS_CAP_BYTES` long.

    Trailers have hard limits in gRPC: field violations that do not fit are left out, and both the message and the
    metadata (`violations_left_out`) say how many.
    """
    info = error_details_pb2.ErrorInfo(
        reason=refusal.reason,
        domain=DOMAIN,
        metadata={key: _cut(value, 512) for key, value in refusal.metadata.items()},
    )
    rest: list[Message] = []
    if refusal.retry_after_seconds is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(refusal.retry_after_seconds * 1e9))
        rest.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if refusal.advice:
        links = [error_details_pb2.Help.Link(description=_cut(line, 300)) for line in refusal.advice[:5]]
        rest.append(error_details_pb2.Help(links=links))
    message = _cut(refusal.message, MESSAGE_CAP_CHARS)
    used = len(message.encode()) + info.ByteSize() + sum(part.ByteSize() for part in rest) + 256
    bad, left_out = _violations_within(refusal.fields, DETAILS_CAP_BYTES - used)
    if left_out:
        info.metadata["violations_left_out"] = str(left_out)
        message += f" ({left_out} more are not listed.)"
    status = status_pb2.Status(code=refusal.code.value[0], message=message)
    for part in [info, *([bad] if bad.field_violations else []), *rest]:
        status.details.append(_packed(part))
    return status


def from_rpc_error(error: grpc.RpcError) -> Refusal:
    """The refusal that a service raised, at its client; works for blocking and asyncio calls."""
    code, message = _code_of(error), _message_of(error)
    kind = BY_CODE.get(code, Internal)
    status = _details_of(error)
    if status is None:
        return kind(_REASON_WITHOUT_DETAILS.get(code, "STATUS_WITHOUT_REASON"), message, code=code.name)
    return _from_status(kind, status)


def _from_status(kind: type[Refusal], status: status_pb2.Status) -> Refusal:
    info = error_details_pb2.ErrorInfo(reason="STATUS_WITHOUT_REASON")
    bad, retry, advice = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo(), error_details_pb2.Help()
    for detail in status.details:
        for part in (info, bad, retry, advice):
            if detail.Is(part.DESCRIPTOR):
                part.Clear()
                detail.Unpack(part)
    refusal = kind(
        info.reason,
        status.message,
        fields=[FieldViolation(v.field, v.description, v.reason) for v in bad.field_violations],
        advice=[link.description for link in advice.links],
        retry_after_seconds=retry.retry_delay.ToNanoseconds() / 1e9 if retry.HasField("retry_delay") else None,
    )
    refusal.metadata = dict(info.metadata)
    return refusal


def _violations_within(fields: Sequence[FieldViolation], room_bytes: int) -> tuple[error_details_pb2.BadRequest, int]:
    bad = error_details_pb2.BadRequest()
    for index, field in enumerate(fields):
        violation = bad.field_violations.add(
            field=_cut(field.field, 200), description=_cut(field.description, 300), reason=field.reason
        )
        if bad.ByteSize() > room_bytes:
            bad.field_violations.remove(violation)
            return bad, len(fields) - index
    return bad, 0


def _packed(part: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(part)
    return packed


def _cut(text: str, cap: int) -> str:
    return text if len(text) <= cap else text[: cap - 1] + "…"


def _code_of(error: grpc.RpcError) -> grpc.StatusCode:
    code = error.code() if isinstance(error, grpc.Call | grpc.aio.AioRpcError) else None
    return code or grpc.StatusCode.UNKNOWN


def _message_of(error: grpc.RpcError) -> str:
    details = error.details() if isinstance(error, grpc.Call | grpc.aio.AioRpcError) else None
    return details or str(error)


def _details_of(error: grpc.RpcError) -> status_pb2.Status | None:
    if not isinstance(error, grpc.Call | grpc.aio.AioRpcError):
        return None
    trailers: Iterable[tuple[str, str | bytes]] = error.trailing_metadata() or ()
    for key, value in trailers:
        if key == DETAILS_KEY and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                return None
    return None
