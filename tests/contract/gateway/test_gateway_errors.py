"""What every route owes: keys, OpenAI's envelope and headers, bounds, and a stop that lets answers end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import httpx2
import openai as sdk
import pytest
from openai import OpenAI

from tests.contract.gateway.harness import Gateway
from tests.contract.gateway.tuned import BASE, make_tuned

KEY = {"authorization": "Bearer any"}
EVERY_ROUTE = [
    ("GET", "/v1/files"),
    ("POST", "/v1/files"),
    ("GET", "/v1/files/file-x"),
    ("GET", "/v1/files/file-x/content"),
    ("DELETE", "/v1/files/file-x"),
    ("GET", "/v1/fine_tuning/jobs"),
    ("POST", "/v1/fine_tuning/jobs"),
    ("GET", "/v1/fine_tuning/jobs/ftjob-x"),
    ("POST", "/v1/fine_tuning/jobs/ftjob-x/cancel"),
    ("POST", "/v1/fine_tuning/jobs/ftjob-x/pause"),
    ("POST", "/v1/fine_tuning/jobs/ftjob-x/resume"),
    ("GET", "/v1/fine_tuning/jobs/ftjob-x/events"),
    ("GET", "/v1/fine_tuning/jobs/ftjob-x/checkpoints"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/x"),
    ("DELETE", "/v1/models/x"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/moderations"),
]


def ask(gateway: Gateway, method: str, path: str, **options: Any) -> httpx2.Response:
    return httpx2.request(method, gateway.url + path, **{"headers": KEY, "timeout": 20, **options})


def check_envelope(answer: httpx2.Response) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert list(body) == ["error"]
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    check_headers(answer)
    error: dict[str, Any] = body["error"]
    return error


def check_headers(answer: httpx2.Response) -> None:
    assert answer.headers["x-request-id"]
    assert int(answer.headers["openai-processing-ms"]) >= 0
    assert answer.headers["openai-version"] == "2020-10-01"


@pytest.fixture
def keyed(started: Callable[..., Gateway]) -> Gateway:
    return started(gateway_api_keys="alpha-key-0123456789=alpha, beta-key-0123456789=beta")


def test_every_route_wants_a_key(gateway: Gateway) -> None:
    for method, path in EVERY_ROUTE:
        answer = ask(gateway, method, path, headers={})
        assert answer.status_code == 401, (method, path)
        error = check_envelope(answer)
        assert (error["code"], error["type"]) == ("invalid_api_key", "invalid_request_error")


def test_a_wrong_key_is_refused_and_not_repeated(keyed: Gateway) -> None:
    with pytest.raises(sdk.AuthenticationError) as caught:
        keyed.client("wrong-key-0123456789").models.list()
    assert caught.value.code == "invalid_api_key"
    assert "wrong-key-0123456789" not in caught.value.message


@pytest.mark.parametrize("header", ["Basic YWJj", "Bearer", "alpha-key-0123456789"])
def test_a_header_that_is_no_bearer_key_is_refused(keyed: Gateway, header: str) -> None:
    assert ask(keyed, "GET", "/v1/models", headers={"authorization": header}).status_code == 401


def test_a_key_opens_its_own_project_only(keyed: Gateway) -> None:
    alpha, beta = keyed.client("alpha-key-0123456789"), keyed.client("beta-key-0123456789")
    tuned = make_tuned(alpha, keyed, project="alpha")
    assert tuned.name == f"ft:{BASE}:alpha:bot:{tuned.job_id.removeprefix('ftjob-')}"
    assert (list(beta.files.list()), list(beta.fine_tuning.jobs.list())) == ([], [])
    assert [model.id for model in beta.models.list()] == [BASE]
    (data,) = alpha.files.list()
    asks: list[Callable[[], object]] = [
        lambda: beta.files.retrieve(data.id),
        lambda: beta.files.content(data.id),
        lambda: beta.files.delete(data.id),
        lambda: beta.fine_tuning.jobs.retrieve(tuned.job_id),
        lambda: beta.fine_tuning.jobs.cancel(tuned.job_id),
        lambda: beta.models.retrieve(tuned.name),
        lambda: beta.models.retrieve(tuned.version),
        lambda: beta.models.delete(tuned.name),
        lambda: beta.chat.completions.create(model=tuned.name, messages=[{"role": "user", "content": "x"}]),
    ]
    for one in asks:
        with pytest.raises(sdk.NotFoundError):
            one()
    with pytest.raises(sdk.BadRequestError):
        beta.fine_tuning.jobs.create(model=BASE, training_file=data.id)


def test_without_keys_any_key_opens_the_project_default(gateway: Gateway) -> None:
    answer = ask(gateway, "GET", "/v1/models", headers={"authorization": "bearer whatever"})
    assert (answer.status_code, answer.headers["openai-organization"]) == (200, "default")


def test_answers_carry_openais_headers_and_the_callers_request_id(openai: OpenAI, gateway: Gateway) -> None:
    answer = ask(gateway, "GET", "/v1/models", headers=KEY | {"x-request-id": "mine-7"})
    check_headers(answer)
    assert answer.headers["x-request-id"] == "mine-7"
    file = openai.files.with_raw_response.list()
    check_headers(file.http_response)
    assert file.http_response.headers["x-request-id"] != ask(gateway, "GET", "/v1/models").headers["x-request-id"]


def test_a_request_id_that_could_do_harm_is_replaced(gateway: Gateway) -> None:
    given = "x" * 200
    assert ask(gateway, "GET", "/v1/models", headers=KEY | {"x-request-id": given}).headers["x-request-id"] != given


def test_the_sdk_finds_the_request_id_in_errors(openai: OpenAI) -> None:
    with pytest.raises(sdk.NotFoundError) as caught:
        openai.models.retrieve("nothing")
    assert caught.value.request_id


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "unknown_url"),
        ("POST", "/v1/responses", 404, "unknown_url"),
        ("GET", "/", 404, "unknown_url"),
        ("GET", "/v1/models/", 404, "model_not_found"),
        ("GET", "/v1/fine_tuning/jobs/", 404, "unknown_url"),
        ("PUT", "/v1/files", 405, "method_not_supported"),
        ("PUT", "/v1/chat/completions", 405, "method_not_supported"),
        ("DELETE", "/v1/fine_tuning/jobs/ftjob-x", 405, "method_not_supported"),
        ("FROB", "/v1/models", 405, "method_not_supported"),
    ],
)
def test_what_is_not_served_is_answered_in_the_envelope(
    gateway: Gateway, method: str, path: str, status: int, code: str
) -> None:
    answer = ask(gateway, method, path)
    assert (answer.status_code, check_envelope(answer)["code"]) == (status, code)
    assert status != 405 or answer.headers["allow"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"\xff\xfe",
        b'{"model": NaN}',
        b'{"model": "a", "messages": [1e999]}',
        b"[" * 100_000,
    ],
    ids=range(9),
)
def test_a_body_that_is_no_json_object_is_400(gateway: Gateway, body: bytes) -> None:
    for path in ("/v1/chat/completions", "/v1/fine_tuning/jobs"):
        answer = ask(gateway, "POST", path, content=body, headers=KEY | {"content-type": "application/json"})
        assert answer.status_code == 400
        check_envelope(answer)


@pytest.mark.parametrize("is_announced", [True, False])
def test_a_huge_body_is_413_without_being_read_whole(started: Callable[..., Gateway], is_announced: bool) -> None:
    gateway = started(gateway_body_bytes_max=100_000)
    chunk = b"x" * 10_000
    content: Any = chunk * 200 if is_announced else (chunk for _ in range(200))
    answer = ask(gateway, "POST", "/v1/chat/completions", content=content)
    assert answer.status_code == 413
    assert check_envelope(answer)["type"] == "invalid_request_error"


def test_a_service_that_is_away_is_503_with_a_time_to_come_back(started: Callable[..., Gateway]) -> None:
    gateway = started()
    client = gateway.client()
    gateway.services.stop()
    for call in (client.files.list, client.fine_tuning.jobs.list, client.models.list):
        with pytest.raises(sdk.InternalServerError) as caught:
            call()
        assert (caught.value.status_code, caught.value.type) == (503, "server_error")
        assert caught.value.response.headers["retry-after"]


def test_the_sdk_comes_back_after_a_429_by_itself(gateway: Gateway) -> None:
    gateway.backends.inference.serve()
    patient = gateway.client(max_retries=2)
    raised = threading.Event()
    backend = gateway.backends.inference
    admit = backend._admit

    def once(request: Any) -> None:
        backend._admit = admit  # type: ignore[method-assign]
        raised.set()
        request.messages[-1].parts[0].text = "busy"
        admit(request)

    backend._admit = once  # type: ignore[method-assign]
    answer = patient.chat.completions.create(model=BASE, messages=[{"role": "user", "content": "hi"}])
    assert raised.is_set()
    assert answer.choices[0].message.content == "you said: hi"


def test_health_needs_no_key_and_names_what_is_missing(gateway: Gateway) -> None:
    assert ask(gateway, "GET", "/healthz", headers={}).json() == {"status": "live"}
    assert ask(gateway, "GET", "/readyz", headers={}).json() == {"status": "ready"}


def test_requests_are_counted_by_route_and_never_by_what_callers_write(started: Callable[..., Gateway]) -> None:
    gateway = started()
    ask(gateway, "GET", "/v1/files/file-secret")
    ask(gateway, "GET", "/v1/unheard/of")
    ask(gateway, "FROB", "/v1/models")
    name = "feinschliff_gateway_http_requests_total"
    value = gateway.metrics.value
    assert value(name, route="/v1/files/{file_id}", method="GET", status="4xx") == 1
    assert value(name, route="unknown", method="GET", status="4xx") == 1
    assert value("feinschliff_gateway_http_request_seconds_count", route="/v1/files/{file_id}", method="GET") == 1
    samples = [sample for family in gateway.metrics.registry.collect() for sample in family.samples]
    assert not [sample for sample in samples if "secret" in str(sample.labels) or "FROB" in str(sample.labels)]
