"""Refusals and their wire form."""

import grpc
import pytest
from google.rpc import error_details_pb2
from hypothesis import given
from hypothesis import strategies as st

from feinschliff.kit.errors import (
    BY_CODE,
    DETAILS_CAP_BYTES,
    DETAILS_KEY,
    KIT_REASONS,
    FieldViolation,
    Internal,
    Invalid,
    Refusal,
    Unavailable,
    from_rpc_error,
    to_status,
)

TEXT = st.text(st.characters(codec="utf-8"), max_size=2000)


def over_the_wire(refusal: Refusal) -> Refusal:
    status = to_status(refusal)
    trailers = grpc.aio.Metadata((DETAILS_KEY, status.SerializeToString()))
    return from_rpc_error(grpc.aio.AioRpcError(refusal.code, None, trailers, status.message))


@pytest.mark.parametrize("kind", sorted(set(BY_CODE.values()), key=lambda kind: kind.__name__))
def test_every_kind_comes_back_as_itself(kind: type[Refusal]) -> None:
    sent = kind("A_REASON", "What and why.", advice=["Do this."], retry_after_seconds=0.25, job="j")
    got = over_the_wire(sent)
    assert type(got) is kind
    assert (got.reason, got.message, got.advice) == ("A_REASON", "What and why.", ("Do this.",))
    assert (got.retry_after_seconds, got.metadata) == (0.25, {"job": "j"})


def test_each_code_has_one_kind() -> None:
    codes = {code for code in grpc.StatusCode if code not in (grpc.StatusCode.OK, grpc.StatusCode.OUT_OF_RANGE)}
    assert codes - set(BY_CODE) == {grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS}


@given(
    message=TEXT,
    fields=st.lists(st.builds(FieldViolation, TEXT, TEXT, st.just("REASON")), max_size=60),
    advice=st.lists(TEXT, max_size=10),
    value=TEXT,
)
def test_details_never_exceed_the_cap_and_say_what_is_left_out(
    message: str, fields: list[FieldViolation], advice: list[str], value: str
) -> None:
    sent = Invalid("ROWS_BAD", message, fields=fields, advice=advice, value=value)
    status = to_status(sent)
    got = over_the_wire(sent)
    assert len(got.fields) + int(got.metadata.get("violations_left_out", "0")) == len(fields)
    assert got.reason == "ROWS_BAD"
    if status.ByteSize() > DETAILS_CAP_BYTES:
        assert not got.fields, "only what must be there may pass the cap"
    assert status.ByteSize() <= 16 * 1024


def test_a_thousand_violations_fit() -> None:
    fields = [FieldViolation(f"line {n}", "a" * 200, "ROLE_UNKNOWN") for n in range(1000)]
    status = to_status(Invalid("ROWS_BAD", "1000 bad rows.", fields=fields, advice=["Fix them."]))
    assert status.ByteSize() <= DETAILS_CAP_BYTES
    assert "more are not listed" in status.message


def test_the_status_has_the_standard_details() -> None:
    status = to_status(
        Invalid("X", "m", fields=[FieldViolation("f", "d", "R")], advice=["a"], retry_after_seconds=2, key="v")
    )
    kinds = [detail.type_url.rpartition(".")[2] for detail in status.details]
    assert kinds == ["ErrorInfo", "BadRequest", "RetryInfo", "Help"]
    info = error_details_pb2.ErrorInfo()
    status.details[0].Unpack(info)
    assert (info.domain, info.reason, dict(info.metadata)) == ("feinschliff", "X", {"key": "v"})


def test_a_status_without_details_still_is_a_refusal() -> None:
    error = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, None, None, "no route")
    got = from_rpc_error(error)
    assert isinstance(got, Unavailable)
    assert (got.reason, got.message) == ("SERVICE_UNREACHABLE", "no route")


@pytest.mark.parametrize("code", [grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS])
def test_codes_that_we_never_send_are_internal(code: grpc.StatusCode) -> None:
    got = from_rpc_error(grpc.aio.AioRpcError(code, None, None, "?"))
    assert isinstance(got, Internal)
    assert got.reason == "STATUS_WITHOUT_REASON"


def test_details_that_are_garbage_do_not_hide_the_error() -> None:
    trailers = grpc.aio.Metadata((DETAILS_KEY, b"\xff\xff"))
    got = from_rpc_error(grpc.aio.AioRpcError(grpc.StatusCode.NOT_FOUND, None, trailers, "gone"))
    assert (got.code, got.message) == (grpc.StatusCode.NOT_FOUND, "gone")


def test_an_rpc_error_that_is_no_call_is_internal() -> None:
    assert isinstance(from_rpc_error(grpc.RpcError("odd")), Internal)


def test_the_kits_reasons_are_upper_snake_and_explained() -> None:
    for reason, meaning in KIT_REASONS.items():
        assert reason == reason.upper()
        assert reason.replace("_", "").isalpha()
        assert meaning.endswith(".")
