"""What a refused request is answered with: OpenAI's envelope, and the one table from our refusals to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import grpc

from feinschliff.kit.errors import (
    AlreadyExists,
    Cancelled,
    Conflict,
    Denied,
    Exhausted,
    FieldViolation,
    Internal,
    Invalid,
    NotFound,
    Refusal,
    TimedOut,
    Unauthenticated,
    Unavailable,
    Unserved,
    WrongState,
    from_rpc_error,
)

VIOLATIONS_SHOWN_MAX = 20
RETRY_AFTER_SECONDS = 5.0
REQUEST = "invalid_request_error"
SERVER = "server_error"

ParamOf = Callable[[str], str | None]


class ApiError(Exception):
    """A refusal in the words of the HTTP API; `param` is a path into the request's body."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = REQUEST,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type
        self.code = code
        self.param = param
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, dict[str, str | None]]:
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


class Answer(NamedTuple):
    """How one kind of refusal looks over HTTP; no `code`: the reason in small letters."""

    status: int
    type: str = REQUEST
    code: str | None = None
    param: str | None = None
    retry: bool | None = None


BY_KIND: Mapping[type[Refusal], Answer] = {
    Invalid: Answer(400, code="invalid_value"),
    NotFound: Answer(404),
    AlreadyExists: Answer(409, retry=False),
    WrongState: Answer(400),
    Conflict: Answer(409, retry=True),
    Exhausted: Answer(429, "requests", "rate_limit_exceeded", retry=True),
    Unavailable: Answer(503, SERVER),
    Unserved: Answer(400, code="unsupported_operation"),
    Unauthenticated: Answer(401, code="invalid_api_key"),
    Denied: Answer(403, code="permission_denied"),
    TimedOut: Answer(504, SERVER, "timeout", retry=False),
    Cancelled: Answer(503, SERVER, "cancelled"),
    Internal: Answer(500, SERVER, "internal_error"),
}

_BAD_FILE = Answer(400, code="invalid_file_format", param="file")
_UNKNOWN_MODEL = Answer(404, code="model_not_found", param="model")

BY_REASON: Mapping[str, Answer] = {
    "FILE_EMPTY": _BAD_FILE,
    "FILE_BINARY": _BAD_FILE,
    "FORMAT_UNKNOWN": _BAD_FILE,
    "FORMAT_AMBIGUOUS": _BAD_FILE,
    "FORMAT_UNSUPPORTED": _BAD_FILE,
    "ROWS_INVALID": _BAD_FILE,
    "TOO_FEW_ROWS": Answer(400, code="invalid_n_examples", param="file"),
    "FILE_TOO_LARGE": Answer(413, code="file_too_large", param="file"),
    "MODEL_NOT_LOADED": Answer(503, SERVER, "model_not_loaded", "model", retry=True),
    "MODEL_LOADING": Answer(503, SERVER, "model_not_loaded", "model", retry=True),
    "MODEL_UNKNOWN": _UNKNOWN_MODEL,
    "BASE_UNKNOWN": _UNKNOWN_MODEL,
    "BASE_NOT_INSTALLED": _UNKNOWN_MODEL,
    "BASE_NOT_FOUND": _UNKNOWN_MODEL,
    "BASE_URI_INVALID": _UNKNOWN_MODEL,
    "OFFLINE": Answer(400, code="offline", param="model"),
    "CONTEXT_LENGTH_EXCEEDED": Answer(400, code="context_length_exceeded", param="messages"),
    "GUARD_BLOCKED": Answer(400, code="content_filter", param="messages"),
}
"""Reasons that OpenAI's clients know by a code of their own; all others go by the kind of the refusal."""


def no_file(file_id: str, *, param: str = "id") -> ApiError:
    return ApiError(404, f"No such File object: {file_id}", param=param)


def no_job(job_id: str) -> ApiError:
    message = f"Could not find fine tune: {job_id}"
    return ApiError(404, message, code="fine_tune_not_found", param="fine_tune_id")


def no_completion(completion_id: str) -> ApiError:
    message = (
        f"No stored chat completion has the id '{completion_id[:200]}'. Answers are stored with `store=true`,"
        " a moment after they were given."
    )
    return ApiError(404, message, param="completion_id")


def no_model(model: str) -> ApiError:
    message = f"The model `{model}` does not exist, or this key's project cannot use it. `GET /v1/models` lists them."
    return ApiError(404, message, code="model_not_found", param="model")


def invalid(param: str, message: str) -> ApiError:
    return ApiError(400, message, code="invalid_value", param=param)


def required(param: str) -> ApiError:
    return ApiError(400, f"Missing required parameter: '{param}'.", code="missing_required_parameter", param=param)


def unsupported(param: str, message: str) -> ApiError:
    """A parameter that is valid at OpenAI, would change the answer, and is not served here."""
    return ApiError(400, message, code="unsupported_parameter", param=param)


@contextmanager
def answering(*, missing: ApiError | None = None, param_of: ParamOf | None = None) -> Iterator[None]:
    """Turns what a gRPC call is refused with into the API's error.

    Args:
        missing: the error if what is asked for is not there.
        param_of: path in the gRPC request -> path in the HTTP body; None where it has none.
    """
    try:
        yield
    except grpc.RpcError as error:
        refusal = from_rpc_error(error)
        if isinstance(refusal, NotFound) and missing is not None and refusal.reason not in BY_REASON:
            raise missing from error
        raise from_refusal(refusal, param_of=param_of) from error


def from_refusal(refusal: Refusal, *, param_of: ParamOf | None = None) -> ApiError:
    answer = BY_REASON.get(refusal.reason) or BY_KIND.get(type(refusal), BY_KIND[Internal])
    return ApiError(
        answer.status,
        _told(refusal, param_of),
        type=answer.type,
        code=answer.code or refusal.reason.lower(),
        param=_param(refusal.fields, param_of) or answer.param,
        headers=_headers(refusal, answer),
    )


def _told(refusal: Refusal, param_of: ParamOf | None) -> str:
    """The message, then each wrong field or line, then what to do; nothing twice, fields by the caller's names."""
    parts = [refusal.message]
    for field in refusal.fields[:VIOLATIONS_SHOWN_MAX]:
        if field.description not in refusal.message:
            name = (param_of(field.field) if param_of else None) or field.field
            parts.append(f"{name}: {field.description}")
    if len(refusal.fields) > VIOLATIONS_SHOWN_MAX:
        parts.append(f"... and {len(refusal.fields) - VIOLATIONS_SHOWN_MAX} more.")
    return "\n".join([*parts, *(line for line in refusal.advice if line not in refusal.message)])


def _param(fields: tuple[FieldViolation, ...], param_of: ParamOf | None) -> str | None:
    if param_of is None:
        return None
    return next((param for field in fields if (param := param_of(field.field))), None)


def _headers(refusal: Refusal, answer: Answer) -> dict[str, str]:
    headers: dict[str, str] = {}
    seconds = refusal.retry_after_seconds
    if seconds is None and answer.status in (429, 503):
        seconds = RETRY_AFTER_SECONDS
    if seconds is not None:
        headers["retry-after"] = str(max(1, math.ceil(seconds)))
        headers["retry-after-ms"] = str(int(seconds * 1000))
    if answer.retry is not None:
        headers["x-should-retry"] = str(answer.retry).lower()
    return headers
