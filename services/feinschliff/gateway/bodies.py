"""JSON bodies: read with a bound, checked against a model, and every problem told as OpenAI tells it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar

import orjson
from fastapi import Request, Response
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from feinschliff.gateway.errors import ApiError

PROBLEMS_TOLD_MAX = 5
METADATA_PAIRS_MAX = 16


class Body(BaseModel):
    """The body of a request: types are not converted, unknown keys are refused."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


B = TypeVar("B", bound=Body)


def _auto(given: object) -> object:
    return None if given == "auto" else given


def _metadata(pairs: dict[str, str] | None) -> dict[str, str] | None:
    if pairs is not None and len(pairs) > METADATA_PAIRS_MAX:
        told = f"at most {METADATA_PAIRS_MAX} pairs are taken, found {len(pairs)}"
        raise problem("object_above_max_properties", told)
    return pairs


Auto = BeforeValidator(_auto)
"""Before a type that allows None: the text `auto` means the same as nothing."""

Metadata = Annotated[
    dict[Annotated[str, Field(min_length=1, max_length=64)], Annotated[str, Field(max_length=512)]] | None,
    AfterValidator(_metadata),
]


def problem(code: str, message: str) -> PydanticCustomError:
    """For validators: a problem whose `code` goes into the answer as it is."""
    return PydanticCustomError(code, "{message}", {"message": message})


async def read_json(request: Request, model: type[B], *, bytes_max: int) -> B:
    """The request's body.

    Raises:
        ApiError: 413 beyond `bytes_max`; 400 for anything else that is wrong, with `param` as a path.
    """
    raw = await _read(request, bytes_max)
    try:
        given = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise ApiError(400, f"The body is not valid JSON: {error}. Send `Content-Type: application/json`.") from None
    return checked(model, given)


def reply(content: JsonValue, *, headers: Mapping[str, str] | None = None) -> Response:
    """An answer in JSON."""
    return Response(orjson.dumps(content), media_type="application/json", headers=dict(headers or {}))


def checked(model: type[B], given: object) -> B:
    if not isinstance(given, dict):
        raise ApiError(400, f"The body must be a JSON object, but it is {_kind(given)}.", code="invalid_type")
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise _refused(error.errors(include_url=False)) from None


async def _read(request: Request, bytes_max: int) -> bytes:
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > bytes_max:
        raise too_large(bytes_max)
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > bytes_max:
            raise too_large(bytes_max)
    return bytes(body)


def too_large(bytes_max: int) -> ApiError:
    message = f"The request is too large: at most {bytes_max} bytes are taken."
    return ApiError(413, message, code="request_too_large", headers={"connection": "close"})


def _refused(problems: Sequence[ErrorDetails]) -> ApiError:
    """The first problem decides code and param; the message tells up to five of them."""
    first = problems[0]
    told = [_told(each) for each in problems[:PROBLEMS_TOLD_MAX]]
    if len(problems) > PROBLEMS_TOLD_MAX:
        told.append(f"... and {len(problems) - PROBLEMS_TOLD_MAX} more problems.")
    return ApiError(400, "\n".join(told), code=_code(first), param=_path(first["loc"]))


def _path(location: Sequence[str | int]) -> str:
    """`messages[0].content[1].type`; steps in brackets are pydantic's own, such as `[key]`, and left out."""
    path = ""
    for step in location:
        if isinstance(step, int):
            path += f"[{step}]"
        elif not step.startswith("["):
            path += f".{step}" if path else step
    return path


_CODES: Mapping[str, str] = {
    "missing": "missing_required_parameter",
    "extra_forbidden": "unknown_parameter",
    "string_too_long": "string_above_max_length",
    "string_too_short": "string_below_min_length",
    "too_long": "array_above_max_length",
    "literal_error": "invalid_value",
    "enum": "invalid_value",
    "finite_number": "invalid_value",
}
_EXPECTED: Mapping[str, str] = {
    "string_type": "a string",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "bool_type": "a boolean",
    "list_type": "an array",
    "tuple_type": "an array",
    "dict_type": "an object",
    "mapping_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}


def _code(found: ErrorDetails) -> str:
    kind, bounds = found["type"], found.get("ctx", {})
    if kind in _CODES:
        return _CODES[kind]
    if kind in _EXPECTED:
        return "invalid_type"
    if kind == "too_short":
        return "empty_array" if bounds.get("min_length") == 1 else "array_below_min_length"
    if kind in ("greater_than", "greater_than_equal"):
        return f"{_number(found)}_below_min_value"
    if kind in ("less_than", "less_than_equal"):
        return f"{_number(found)}_above_max_value"
    return kind if "message" in bounds else "invalid_value"


def _number(found: ErrorDetails) -> str:
    bound: Any = next(iter(found.get("ctx", {}).values()), 0)
    return "integer" if isinstance(bound, int) and isinstance(found["input"], int) else "decimal"


def _told(found: ErrorDetails) -> str:
    kind, path = found["type"], _path(found["loc"])
    if kind == "missing":
        return f"Missing required parameter: '{path}'."
    if kind == "extra_forbidden":
        return f"Unknown parameter: '{path}'."
    if kind in _EXPECTED:
        return f"Invalid type for '{path}': expected {_EXPECTED[kind]}, but got {_kind(found['input'])} instead."
    if "message" in found.get("ctx", {}):
        return f"Invalid '{path}': {found['ctx']['message']}."
    return f"Invalid '{path}': {found['msg'][:1].lower()}{found['msg'][1:]}, but got {_shown(found['input'])}."


def _kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int():
            return "an integer"
        case float():
            return "a decimal number" if math.isfinite(value) else "a number that is not finite"
        case str():
            return "a string"
        case list():
            return "an array"
    return "an object"


def _shown(value: object) -> str:
    if isinstance(value, str):
        return f"'{value[:40]}'" if len(value) <= 40 else f"a string of {len(value)} characters"
    return str(value) if isinstance(value, int | float) else _kind(value)
