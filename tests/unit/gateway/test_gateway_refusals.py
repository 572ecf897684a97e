"""The one table from refusals to HTTP."""

from __future__ import annotations

import pytest

from feinschliff.gateway.errors import BY_KIND, BY_REASON, ApiError, from_refusal
from feinschliff.kit import errors
from feinschliff.kit.errors import FieldViolation, Invalid, Refusal, Unavailable


@pytest.mark.parametrize(
    ("kind", "status", "type_", "code"),
    [
        (errors.Invalid, 400, "invalid_request_error", "invalid_value"),
        (errors.NotFound, 404, "invalid_request_error", "some_reason"),
        (errors.AlreadyExists, 409, "invalid_request_error", "some_reason"),
        (errors.WrongState, 400, "invalid_request_error", "some_reason"),
        (errors.Conflict, 409, "invalid_request_error", "some_reason"),
        (errors.Exhausted, 429, "requests", "rate_limit_exceeded"),
        (errors.Unavailable, 503, "server_error", "some_reason"),
        (errors.Unserved, 400, "invalid_request_error", "unsupported_operation"),
        (errors.Unauthenticated, 401, "invalid_request_error", "invalid_api_key"),
        (errors.Denied, 403, "invalid_request_error", "permission_denied"),
        (errors.TimedOut, 504, "server_error", "timeout"),
        (errors.Cancelled, 503, "server_error", "cancelled"),
        (errors.Internal, 500, "server_error", "internal_error"),
    ],
)
def test_every_kind_of_refusal_has_its_answer(kind: type[Refusal], status: int, type_: str, code: str) -> None:
    error = from_refusal(kind("SOME_REASON", "What happened."))
    assert (error.status, error.type, error.code, error.message) == (status, type_, code, "What happened.")
    assert set(error.body["error"]) == {"message", "type", "param", "code"}


def test_no_kind_is_forgotten() -> None:
    assert set(BY_KIND) == set(errors.BY_CODE.values())


@pytest.mark.parametrize(
    ("reason", "status", "code", "param"),
    [
        ("ROWS_INVALID", 400, "invalid_file_format", "file"),
        ("TOO_FEW_ROWS", 400, "invalid_n_examples", "file"),
        ("FILE_TOO_LARGE", 413, "file_too_large", "file"),
        ("MODEL_NOT_LOADED", 503, "model_not_loaded", "model"),
        ("BASE_NOT_FOUND", 404, "model_not_found", "model"),
        ("CONTEXT_LENGTH_EXCEEDED", 400, "context_length_exceeded", "messages"),
    ],
)
def test_a_reason_that_clients_know_keeps_its_code(reason: str, status: int, code: str, param: str) -> None:
    error = from_refusal(Invalid(reason, "x"))
    assert (error.status, error.code, error.param) == (status, code, param)


def test_only_what_is_worth_repeating_is_repeated() -> None:
    retried = {reason for reason, answer in BY_REASON.items() if answer.retry}
    assert retried == {"MODEL_NOT_LOADED", "MODEL_LOADING"}
    assert from_refusal(errors.AlreadyExists("X", "x")).headers["x-should-retry"] == "false"
    assert from_refusal(errors.TimedOut("X", "x")).headers["x-should-retry"] == "false"
    assert from_refusal(errors.Conflict("X", "x")).headers["x-should-retry"] == "true"


@pytest.mark.parametrize(
    ("seconds", "whole", "milliseconds"), [(None, "5", "5000"), (0.2, "1", "200"), (2.5, "3", "2500")]
)
def test_a_time_to_come_back_is_always_given(seconds: float | None, whole: str, milliseconds: str) -> None:
    headers = from_refusal(Unavailable("X", "x", retry_after_seconds=seconds)).headers
    assert (headers["retry-after"], headers["retry-after-ms"]) == (whole, milliseconds)


def test_a_message_tells_every_field_and_what_to_do_up_to_a_bound() -> None:
    fields = [FieldViolation(f"lines[{n}]", "is bad") for n in range(1, 26)]
    lines = from_refusal(Invalid("X", "Rows are bad.", fields=fields, advice=["Mend them."])).message.splitlines()
    assert (lines[0], lines[1], lines[-2:]) == ("Rows are bad.", "lines[1]: is bad", ["... and 5 more.", "Mend them."])


def test_nothing_is_told_twice_and_fields_have_the_callers_names() -> None:
    fields = [
        FieldViolation("recipe.rate", "must be less than 1"),
        FieldViolation("recipe.base", "Rate and base are bad."),
    ]
    refusal = Invalid("X", "Rate and base are bad. Run: pip", fields=fields, advice=["Run: pip", "Read on."])
    told = from_refusal(refusal, param_of={"recipe.rate": "rate"}.get).message
    assert told.splitlines() == ["Rate and base are bad. Run: pip", "rate: must be less than 1", "Read on."]


def test_the_first_field_that_the_caller_knows_is_the_param() -> None:
    fields = [FieldViolation("inner", "x"), FieldViolation("known", "x")]
    refusal = Invalid("X", "x", fields=fields)
    assert from_refusal(refusal, param_of={"known": "theirs"}.get).param == "theirs"
    assert from_refusal(refusal).param is None


def test_an_error_is_an_exception_with_its_message() -> None:
    assert str(ApiError(400, "what")) == "what"
