"""`/v1/files` through the unmodified `openai` package."""

from __future__ import annotations

import io
import socket
from collections.abc import Callable

import httpx2
import openai as sdk
import pytest
from openai import OpenAI

from tests.contract.gateway.harness import Gateway
from tests.contract.gateway.rows import chat_rows
from tests.support.waiting import eventually

Parts = list[tuple[str, tuple[str | None, bytes | str]]]


def upload(client: OpenAI, content: bytes, name: str = "train.jsonl") -> str:
    return client.files.create(file=(name, content), purpose="fine-tune").id


def test_a_good_file_is_stored_and_shown(openai: OpenAI, gateway: Gateway) -> None:
    content = chat_rows(12)
    file = openai.files.create(file=("my data.jsonl", content), purpose="fine-tune")
    assert file.id.startswith("file-")
    assert (file.object, file.purpose, file.filename, file.status) == (
        "file",
        "fine-tune",
        "my data.jsonl",
        "processed",
    )
    assert (file.bytes, file.expires_at) == (len(content), None)
    assert openai.files.retrieve(file.id) == file
    assert openai.files.wait_for_processing(file.id).status == "processed"


def test_all_rows_of_a_file_are_for_training(openai: OpenAI, gateway: Gateway) -> None:
    upload(openai, chat_rows(12))
    split = gateway.backends.datasets.headers[0].split
    assert (split.train_fraction, split.validation_fraction, split.test_fraction) == (1, 0, 0)


def test_content_comes_back_byte_for_byte(openai: OpenAI) -> None:
    content = chat_rows(500)
    assert openai.files.content(upload(openai, content)).read() == content


def test_warnings_about_a_file_are_shown(openai: OpenAI) -> None:
    file = openai.files.create(file=("few.jsonl", chat_rows(12)), purpose="fine-tune")
    assert [finding["code"] for finding in file.to_dict()["findings"]] == ["FEW_ROWS"]  # type: ignore[attr-defined]


def test_a_file_may_stand_before_its_purpose(gateway: Gateway) -> None:
    files: Parts = [("file", ("train.jsonl", chat_rows(12))), ("purpose", (None, "fine-tune"))]
    answer = httpx2.post(f"{gateway.url}/v1/files", files=files, headers={"authorization": "Bearer any"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["purpose"] == "fine-tune"


def test_files_are_listed_newest_first_over_pages(openai: OpenAI) -> None:
    made = [upload(openai, chat_rows(12, word=f"w{number}")) for number in range(7)]
    page = openai.files.list(limit=3)
    assert ([file.id for file in page.data], page.has_more) == (made[:3:-1], True)
    assert [file.id for file in openai.files.list(limit=3)] == made[::-1]
    assert [file.id for file in openai.files.list(limit=3, order="asc")] == made
    assert [file.id for file in openai.files.list()] == made[::-1]


def test_a_list_can_be_kept_to_a_purpose(openai: OpenAI) -> None:
    made = upload(openai, chat_rows(12))
    assert [file.id for file in openai.files.list(purpose="fine-tune")] == [made]
    assert list(openai.files.list(purpose="batch")) == []


def test_a_deleted_file_is_gone(openai: OpenAI) -> None:
    made = upload(openai, chat_rows(12))
    answer = openai.files.delete(made)
    assert (answer.id, answer.object, answer.deleted) == (made, "file", True)
    assert list(openai.files.list()) == []
    with pytest.raises(sdk.NotFoundError) as caught:
        openai.files.delete(made)
    assert (caught.value.param, caught.value.code) == ("id", None)


def test_a_file_that_a_job_needs_is_not_deleted(openai: OpenAI, gateway: Gateway) -> None:
    made = upload(openai, chat_rows(12))
    gateway.backends.datasets.in_use.add(f"projects/default/datasets/{made}")
    with pytest.raises(sdk.BadRequestError) as caught:
        openai.files.delete(made)
    assert caught.value.code == "dataset_in_use"


@pytest.mark.parametrize("file_id", ["file-doesnotexist", "nonsense", "file-result-nothing", "file-A b"])
def test_an_unknown_file_is_404_on_param_id(openai: OpenAI, file_id: str) -> None:
    for ask in (openai.files.retrieve, openai.files.content):
        with pytest.raises(sdk.NotFoundError) as caught:
            ask(file_id)
        assert (caught.value.param, caught.value.code, caught.value.type) == ("id", None, "invalid_request_error")


def test_bad_rows_are_refused_with_every_line_and_nothing_stored(openai: OpenAI, gateway: Gateway) -> None:
    content = chat_rows(10) + b'{"messages": [{"role": "user", "content": "no answer"}]}\n' + b"{broken\n"
    with pytest.raises(sdk.BadRequestError) as caught:
        upload(openai, content)
    error = caught.value
    assert (error.code, error.param, error.type) == ("invalid_file_format", "file", "invalid_request_error")
    assert "lines[11].messages: no assistant message" in error.message
    assert "lines[12].messages: the line is not JSON" in error.message
    assert "Correct them." in error.message
    assert isinstance(error.body, dict)
    assert set(error.body) == {"message", "type", "param", "code"}
    assert list(openai.files.list()) == []
    assert gateway.backends.datasets.versions == {}


def test_too_few_rows_have_a_code_of_their_own(openai: OpenAI) -> None:
    with pytest.raises(sdk.BadRequestError) as caught:
        upload(openai, chat_rows(9))
    assert (caught.value.code, caught.value.param) == ("invalid_n_examples", "file")
    assert "9 good rows; at least 10" in caught.value.message


def test_an_empty_file_is_refused(openai: OpenAI) -> None:
    with pytest.raises(sdk.BadRequestError) as caught:
        upload(openai, b"")
    assert caught.value.code == "invalid_file_format"


def test_a_file_refused_at_its_first_bytes_is_answered_although_more_was_to_come(openai: OpenAI) -> None:
    with pytest.raises(sdk.BadRequestError) as caught:
        upload(openai, b"\x7fELF" + bytes(24 * 1024 * 1024))
    assert (caught.value.code, caught.value.param) == ("invalid_file_format", "file")
    assert openai.files.list().data == []


def test_uploads_however_they_end_leave_nothing_running(started: Callable[..., Gateway]) -> None:
    gateway = started()
    client = gateway.client()
    upload(client, chat_rows(12))
    before = gateway.door.tasks()
    for _ in range(5):
        upload(client, chat_rows(12))
        for content in (b"\x7fELF" + bytes(1024 * 1024), b"{broken\n", b""):
            with pytest.raises(sdk.BadRequestError):
                upload(client, content)
        with pytest.raises(sdk.BadRequestError):
            client.files.create(file=("x", chat_rows(12)), purpose="batch")
    eventually(lambda: gateway.door.tasks() <= before, what="the end of what the uploads started")


def test_a_caller_that_leaves_in_the_middle_of_a_file_stores_nothing(gateway: Gateway) -> None:
    address = (gateway.url.removeprefix("http://").partition(":")[0], int(gateway.url.rpartition(":")[2]))
    body = b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
    body += b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + chat_rows(3000)
    head = (
        "POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer any\r\n"
        f"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: {len(body) + 1000}\r\n\r\n"
    )
    with socket.create_connection(address) as connection:
        connection.sendall(head.encode() + body)
        eventually(lambda: gateway.backends.datasets.chunk_bytes_seen, what="the first chunk")
    eventually(lambda: gateway.backends.datasets.uploads_ended_early, what="the upload's end")
    assert gateway.backends.datasets.versions == {}


@pytest.mark.parametrize("purpose", ["batch", "vision", "assistants", "user_data", "evals", "nonsense", ""])
def test_a_purpose_that_is_not_served_is_refused_by_name(openai: OpenAI, gateway: Gateway, purpose: str) -> None:
    with pytest.raises(sdk.BadRequestError) as caught:
        openai.files.create(file=("x.jsonl", chat_rows(12)), purpose=purpose)  # type: ignore[arg-type]
    assert (caught.value.code, caught.value.param) == ("invalid_value", "purpose")
    assert gateway.backends.datasets.versions == {}


def test_a_wrong_purpose_behind_the_file_stores_nothing(gateway: Gateway) -> None:
    large = chat_rows(12) + b" " * (8 * 1024 * 1024)
    files: Parts = [("file", ("train.jsonl", large)), ("purpose", (None, "batch"))]
    answer = httpx2.post(f"{gateway.url}/v1/files", files=files, headers={"authorization": "Bearer any"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "purpose")
    eventually(lambda: gateway.backends.datasets.uploads_ended_early, what="the upload's end")
    assert gateway.backends.datasets.versions == {}


def test_an_expiry_is_refused_rather_than_ignored(openai: OpenAI, gateway: Gateway) -> None:
    with pytest.raises(sdk.BadRequestError) as caught:
        openai.files.create(
            file=("x.jsonl", chat_rows(12)),
            purpose="fine-tune",
            expires_after={"anchor": "created_at", "seconds": 3600},
        )
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "expires_after")
    assert gateway.backends.datasets.versions == {}


def test_the_same_idempotency_key_makes_one_file(openai: OpenAI) -> None:
    made = [
        openai.files.create(
            file=("x.jsonl", chat_rows(12)), purpose="fine-tune", extra_headers={"Idempotency-Key": "once"}
        ).id
        for _ in range(2)
    ]
    assert made[0] == made[1]
    assert [file.id for file in openai.files.list()] == made[:1]


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"{}", {"content-type": "application/json"}),
        (b"hello", {"content-type": "multipart/form-data; boundary=x"}),
        (
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nhalf',
            {"content-type": "multipart/form-data; boundary=x"},
        ),
        (b"--x--\r\n", {"content-type": "multipart/form-data; boundary=x"}),
        (b"", {}),
    ],
)
def test_a_broken_form_is_answered_in_the_envelope(gateway: Gateway, body: bytes, headers: dict[str, str]) -> None:
    answer = httpx2.post(f"{gateway.url}/v1/files", content=body, headers=headers | {"authorization": "Bearer any"})
    assert answer.status_code == 400
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_a_file_beyond_the_limit_is_413(started: Callable[..., Gateway]) -> None:
    gateway = started(gateway_upload_bytes_max=100_000)
    with pytest.raises(sdk.APIStatusError) as caught:
        upload(gateway.client(), bytes(2_000_000))
    assert (caught.value.status_code, caught.value.code) == (413, "request_too_large")
    assert gateway.backends.datasets.headers == []


def test_a_file_that_hides_its_size_is_413_once_it_is_beyond(started: Callable[..., Gateway]) -> None:
    gateway = started(gateway_upload_bytes_max=100_000)
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    chunks = (head if number == 0 else bytes(10_000) for number in range(100))
    answer = httpx2.post(
        f"{gateway.url}/v1/files",
        content=chunks,
        headers={"content-type": "multipart/form-data; boundary=x", "authorization": "Bearer any"},
    )
    assert (answer.status_code, answer.json()["error"]["type"]) == (413, "invalid_request_error")
    assert gateway.backends.datasets.versions == {}


def test_a_large_file_passes_through_in_small_pieces(started: Callable[..., Gateway]) -> None:
    gateway = started()
    rows = chat_rows(12)
    gateway.backends.datasets.kept_bytes_max = len(rows)
    padding = b" " * (32 * 1024 * 1024)
    content = io.BytesIO(rows + padding)
    file = gateway.client().files.create(file=("big.jsonl", content), purpose="fine-tune")
    assert file.bytes == len(rows) + len(padding)
    assert max(gateway.backends.datasets.chunk_bytes_seen) <= 1024 * 1024
    assert gateway.metrics.value("feinschliff_gateway_upload_bytes_total") == file.bytes
