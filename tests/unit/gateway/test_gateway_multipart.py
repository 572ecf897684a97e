"""Multipart bodies as a stream."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import pytest
from fastapi import Request
from hypothesis import given, settings
from hypothesis import strategies as st

from feinschliff.gateway.errors import ApiError
from feinschliff.gateway.multipart import FIELDS_BYTES_MAX, Form

FILE = b"one\r\ntwo\r\n--not-the-boundary\r\n\x00\xff" * 3


class Read(NamedTuple):
    file: bytes
    file_name: str | None
    fields_at_file: dict[str, str]
    fields: dict[str, str]


def body_of(*parts: tuple[str, str | None, bytes]) -> bytes:
    written = b""
    for name, file_name, content in parts:
        extra = f'; filename="{file_name}"' if file_name is not None else ""
        written += f'--XX\r\nContent-Disposition: form-data; name="{name}"{extra}\r\n\r\n'.encode() + content + b"\r\n"
    return written + b"--XX--\r\n"


def request_of(chunks: Sequence[bytes], headers: dict[str, str] | None = None) -> Request:
    waiting = list(chunks)

    async def receive() -> dict[str, object]:
        body = waiting.pop(0) if waiting else b""
        return {"type": "http.request", "body": body, "more_body": bool(waiting)}

    given = {"content-type": "multipart/form-data; boundary=XX"} | (headers or {})
    raw = [(name.encode(), value.encode()) for name, value in given.items()]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": raw, "query_string": b""}, receive)


def read(chunks: Sequence[bytes], *, file_bytes_max: int = 10_000, headers: dict[str, str] | None = None) -> Read:
    async def whole() -> Read:
        form = Form(request_of(chunks, headers), file_bytes_max=file_bytes_max)
        await form.find_file()
        at_file = dict(form.fields)
        content = b"".join([piece async for piece in form.file()]) if form.file_name is not None else b""
        await form.finish()
        return Read(content, form.file_name, at_file, form.fields)

    return asyncio.run(whole())


@settings(deadline=None)
@given(st.lists(st.integers(0, 500), max_size=12), st.booleans())
def test_where_the_chunks_end_changes_nothing(cuts: list[int], is_file_first: bool) -> None:
    purpose, file = ("purpose", None, b"fine-tune"), ("file", "my data.jsonl", FILE)
    body = body_of(*((file, purpose) if is_file_first else (purpose, file)))
    edges = sorted({0, len(body), *(cut for cut in cuts if cut < len(body))})
    chunks = [body[start:end] for start, end in pairwise(edges)]
    found = read(chunks)
    assert (found.file, found.file_name, found.fields) == (FILE, "my data.jsonl", {"purpose": "fine-tune"})


def test_fields_before_the_file_are_known_before_it_is_read() -> None:
    purpose, file = ("purpose", None, b"fine-tune"), ("file", "x", FILE)
    assert read([bytes([byte]) for byte in body_of(purpose, file)]).fields_at_file == {"purpose": "fine-tune"}


def test_an_empty_file_is_a_file() -> None:
    found = read([body_of(("file", "x", b""))])
    assert (found.file, found.file_name) == (b"", "x")


def test_a_form_without_a_file_has_none() -> None:
    assert read([body_of(("purpose", None, b"fine-tune"))]).file_name is None


@pytest.mark.parametrize("size_bytes", [9_999, 10_000, 10_001, 50_000])
def test_a_file_is_taken_up_to_its_limit(size_bytes: int) -> None:
    body = body_of(("file", "x", bytes(size_bytes)))
    chunks = [body[start : start + 1000] for start in range(0, len(body), 1000)]
    if size_bytes <= 10_000:
        assert len(read(chunks).file) == size_bytes
        return
    with pytest.raises(ApiError) as caught:
        read(chunks)
    assert caught.value.status == 413


def test_a_size_that_is_announced_beyond_the_limit_is_refused_unread() -> None:
    with pytest.raises(ApiError) as caught:
        read([], headers={"content-length": "1000000000"})
    assert caught.value.status == 413


@pytest.mark.parametrize(("fields", "size_bytes"), [(1, FIELDS_BYTES_MAX), (100, FIELDS_BYTES_MAX // 90)])
def test_fields_are_bounded_together(fields: int, size_bytes: int) -> None:
    with pytest.raises(ApiError) as caught:
        read([body_of(*((f"field{number}", None, bytes(size_bytes)) for number in range(fields)))])
    assert caught.value.status == 413


def test_the_header_of_a_part_is_bounded() -> None:
    with pytest.raises(ApiError) as caught:
        read([body_of(("x" * FIELDS_BYTES_MAX, None, b""))])
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        body_of(("file", "x", FILE))[:-4],
        body_of(("file", "x", FILE))[:-40],
        body_of(("file", "a", b"1"), ("file", "b", b"2")),
    ],
)
def test_a_broken_form_is_refused(body: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        read([body])
    assert caught.value.status == 400


@pytest.mark.parametrize("kind", ["", "application/json", "multipart/form-data", "multipart/form-data; boundary="])
def test_another_kind_of_body_is_refused(kind: str) -> None:
    with pytest.raises(ApiError) as caught:
        read([b""], headers={"content-type": kind})
    assert caught.value.status == 400
