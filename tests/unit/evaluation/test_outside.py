"""Where graders may post to, how often, and what a judge outside is asked and understood to say."""

from __future__ import annotations

import http.client
import io
import ipaddress
import json
import math
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest

from feinschliff.evaluation.grading import posting
from feinschliff.evaluation.grading.headers import SecretHeaders
from feinschliff.evaluation.grading.outside import PACES_KEPT, Installation, Paces, sampling_of
from feinschliff.evaluation.grading.outside_judges import (
    OutsideJudge,
    Unreadable,
    from_answer,
    parse_headers,
    parse_judges,
    to_post,
)
from feinschliff.evaluation.grading.posting import Post, Poster, PostFailed, Reach, is_public
from feinschliff.evaluation.settings import EvaluationSettings
from feinschliff.graders.outside import Question


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2001:4860:4860::8888", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("255.255.255.255", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("::", False),
        ("fe80::1", False),
        ("fd00::1", False),
        ("ff0e::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::808:808", True),
        ("2002:7f00:1::", False),
        ("2002:a9fe:a9fe::", False),
        ("2002:808:808::", True),
        ("fec0::1", False),
        ("64:ff9b:1::808:808", False),
        ("::127.0.0.1", False),
        ("::8.8.8.8", False),
        ("192.0.0.8", False),
    ],
)
def test_an_address_is_public_only_where_all_that_it_wraps_is(address: str, public: bool) -> None:
    assert is_public(ipaddress.ip_address(address)) is public
    assert Reach(private=False, public=True).allows(ipaddress.ip_address(address)) is public
    assert Reach(private=True, public=False).allows(ipaddress.ip_address(address)) is not public


@pytest.fixture
def poster() -> Iterator[Poster]:
    made = Poster()
    yield made
    made.close()


def post(poster: Poster, url: str, reach: Reach, seconds: float = 5) -> PostFailed:
    with pytest.raises(PostFailed) as failure:
        poster.send(Post(url, {}, {}, seconds), reach)
    return failure.value


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "[::ffff:127.0.0.1]"])
def test_every_way_to_write_a_private_address_is_refused(poster: Poster, host: str) -> None:
    failure = post(poster, f"http://{host}:9/", Reach(private=False, public=True))
    assert not failure.again
    assert "private network" in str(failure)


def test_a_server_that_trickles_is_cut_off(poster: Poster) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def trickle() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\n")
            try:
                while not ended.wait(0.02):
                    connection.sendall(b"x-more: y\r\n")
            except OSError:
                return

    thread = threading.Thread(target=trickle, daemon=True)
    thread.start()
    port = listener.getsockname()[1]
    failure = post(poster, f"http://127.0.0.1:{port}/", Reach(private=True, public=False), 0.3)
    ended.set()
    thread.join(10)
    listener.close()
    assert "did not answer within 0.3 s" in str(failure)


def test_posts_to_one_server_keep_their_distance() -> None:
    paces = Paces()
    assert [paces.wait_seconds("p", "a", 2, 10.0) for _ in range(3)] == [0.0, 0.5, 1.0]
    assert paces.wait_seconds("p", "b", 2, 10.0) == 0.0
    assert paces.wait_seconds("other", "a", 2, 10.0) == 0.0, "one project holds up no other"
    assert paces.wait_seconds("p", "a", 2, 20.0) == 0.0


def test_what_is_long_past_is_forgotten_and_looked_through_now_and_then() -> None:
    paces = Paces()
    looks = 0
    for number in range(4 * PACES_KEPT):
        before = paces._next
        paces.wait_seconds("p", str(number), 0.001, 10.0)
        looks += paces._next is not before
    assert (looks, len(paces._next)) == (2, 4 * PACES_KEPT)
    for number in range(5 * PACES_KEPT):
        paces.wait_seconds("p", f"later {number}", 1000, 10_000.0 + number)
    assert len(paces._next) <= 2 * PACES_KEPT


QUESTION = Question(
    "big",
    [{"role": "user", "content": "judge"}],
    {"type": "object"},
    "score",
    {"temperature": 0.0, "max_completions_tokens": 9, "reasoning_effort": "low"},
)
INSTALLATION = Installation("", {}, {}, Reach(private=True, public=True), Reach(private=True, public=True), 3, 5)
JUDGE = OutsideJudge.model_validate({"base_url": "https://host/v1/", "model": "m", "api_key": "k"})


def test_a_question_has_the_names_of_whom_it_goes_to() -> None:
    assert sampling_of(QUESTION) == {
        "temperature": 0.0,
        "max_tokens": 9,
        "reasoning_effort": "REASONING_EFFORT_LOW",
        "response_format": {"json_schema": {"name": "score", "schema": {"type": "object"}, "strict": True}},
    }
    sent = to_post(JUDGE, QUESTION, 5)
    assert (sent.url, sent.headers) == ("https://host/v1/chat/completions", {"authorization": "Bearer k"})
    assert isinstance(sent.body, dict)
    assert (sent.body["max_completion_tokens"], "temperature" in sent.body) == (9, False)
    assert "k" not in repr(JUDGE.api_key)


def chat(message: object, **more: object) -> object:
    return {"model": "m-1", "choices": [{"message": message, "finish_reason": "stop"}], **more}


@pytest.mark.parametrize(
    ("told", "kept"), [(3, 3), (3.9, 3), (-1, 0), (math.inf, 0), (10**400, 0), (10**30, 2**31 - 1), ("x", 0), (None, 0)]
)
def test_what_a_judge_outside_says_of_its_tokens_fits(told: object, kept: int) -> None:
    said = from_answer(JUDGE, chat({"content": "x"}, usage={"prompt_tokens": told, "completion_tokens": told}))
    assert (said.prompt_tokens, said.completion_tokens) == (kept, kept)


def test_half_a_character_in_an_answer_becomes_a_question_mark() -> None:
    body = rb'{"\ud800": "a\udfff", "score": 1e999, "whole": "\ud83d\ude00"}'
    response = http.client.HTTPResponse(Wire(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body))  # type: ignore[arg-type]
    response.begin()
    assert posting._read(response, "host") == {"?": "a?", "score": math.inf, "whole": "\U0001f600"}


class Wire(io.BytesIO):
    """What a server sent, as a socket."""

    def makefile(self, mode: str) -> Wire:
        return self


def test_what_a_judge_outside_says_is_read_or_named() -> None:
    said = from_answer(JUDGE, chat({"content": "x"}, usage={"prompt_tokens": 3, "completion_tokens": 2}))
    assert (said.text, said.finish_reason, said.prompt_tokens, said.completion_tokens) == ("x", "stop", 3, 2)
    assert said.identity == {"model_version": "host/m-1"}
    refused = from_answer(JUDGE, chat({"content": None, "refusal": "I cannot"}))
    assert (refused.text, refused.finish_reason) == ("I cannot", "content_filter")
    for nothing in ({}, [], {"choices": []}, {"choices": [{}]}, chat(None), "x", None):
        with pytest.raises(Unreadable):
            from_answer(JUDGE, nothing)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"a": 1}',
        '{"a": {"base_url": "https://x/v1"}}',
        '{"a": {"base_url": "ftp://x", "model": "m"}}',
        '{"a": {"base_url": "https://u:hidden@x", "model": "m"}}',
        '{"a": {"base_url": "https://x", "model": "m", "key": "hidden"}}',
    ],
)
def test_wrong_judges_stop_the_start_without_telling_secrets(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=":") as problem:
        parse_judges(text)
    assert "hidden" not in str(problem.value)
    monkeypatch.setenv("FEINSCHLIFF_EVALUATION_JUDGES", text)
    with pytest.raises(ValueError, match="FEINSCHLIFF_EVALUATION_JUDGES"):
        EvaluationSettings()


def test_headers_are_texts_by_name() -> None:
    assert parse_headers("") == {}
    mine = headers_for("https://host", {" a ": " b\n"})["mine"]
    assert {name: value.get_secret_value() for name, value in mine.headers.items()} == {"a": "b"}


def headers_for(url_prefix: str, headers: Mapping[str, str]) -> Mapping[str, SecretHeaders]:
    return parse_headers(json.dumps({"mine": {"url_prefix": url_prefix, "headers": headers}}))


@pytest.mark.parametrize(
    ("prefix", "headers"),
    [
        ("https://host", "hidden"),
        ("https://host", {}),
        ("https://host", {"a": "hidden\nx: y"}),
        ("https://host", {"a": "hidd\u00e9n"}),
        ("https://host", {"hidden: x": "y"}),
        ("https://u:hidden@host", {"a": "b"}),
        ("https://host/a/../hidden", {"a": "b"}),
        ("ftp://hidden", {"a": "b"}),
        ("", {"a": "hidden"}),
    ],
)
def test_headers_that_cannot_be_sent_stop_the_start_without_telling_secrets(
    prefix: str, headers: Mapping[str, str]
) -> None:
    with pytest.raises(ValueError, match="mine") as problem:
        headers_for(prefix, headers)
    assert "hidden" not in str(problem.value)


@pytest.mark.parametrize(
    ("prefix", "url", "goes"),
    [
        ("https://host", "https://host/any?x=1", True),
        ("https://host/", "https://HOST:443/any", True),
        ("https://host/a", "https://host/a", True),
        ("https://host/a/", "https://host/a/b", True),
        ("https://host/a", "https://host/ab", False),
        ("https://host/a", "https://host/a/../b", False),
        ("https://host/a", "https://host/a/%2e%2E/b", False),
        ("https://host/a", "https://host/a/..%2fb", False),
        ("https://host/a", "https://host/a/..;/b", False),
        ("https://host/a", "https://host", False),
        ("https://host", "http://host/", False),
        ("https://host", "https://host:444/", False),
        ("https://host", "https://host.attacker/", False),
        ("https://host", "https://host@attacker/", False),
    ],
)
def test_secret_headers_go_where_they_belong_alone(prefix: str, url: str, goes: bool) -> None:
    mine = headers_for(prefix, {"a": "b"})
    assert mine["mine"].are_for(url) is goes
    installation = replace(INSTALLATION, headers=mine)
    assert installation.headers_for("mine", url) == ({"a": "b"} if goes else None)
    assert installation.headers_for("theirs", url) is None
    assert installation.headers_for("", url) == {}


def test_plain_http_goes_to_private_addresses_alone() -> None:
    assert INSTALLATION.reach_of("https://host") == Reach(private=True, public=True)
    assert INSTALLATION.reach_of("http://host") == Reach(private=True, public=False)


def test_a_judges_key_is_sent_without_its_line_end() -> None:
    judges = {"big": {"base_url": "https://host/v1", "model": "m", "api_key": "k\n"}}
    assert to_post(parse_judges(json.dumps(judges))["big"], QUESTION, 5).headers == {"authorization": "Bearer k"}
    judges["big"]["api_key"] = "hidden\nx"
    with pytest.raises(ValueError, match="header") as problem:
        parse_judges(json.dumps(judges))
    assert "hidden" not in str(problem.value)


def test_a_header_that_http_does_not_take_is_not_repeated(poster: Poster) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        wrong = Post(f"http://127.0.0.1:{listener.getsockname()[1]}/", {"authorization": "Bearer hidden\n"}, {}, 5)
        with pytest.raises(PostFailed) as failure:
            poster.send(wrong, Reach(private=True, public=False))
    assert "hidden" not in str(failure.value)
    assert failure.value.__cause__ is None
    assert failure.value.__suppress_context__


@pytest.mark.parametrize(("status", "outage"), [(429, True), (500, False), (503, True), (404, False)])
def test_some_answers_say_that_the_server_is_not_there(status: int, outage: bool) -> None:
    response = http.client.HTTPResponse(Wire(b"HTTP/1.1 %d x\r\ncontent-length: 0\r\n\r\n" % status))  # type: ignore[arg-type]
    response.begin()
    with pytest.raises(PostFailed) as failure:
        posting._read(response, "host")
    assert failure.value.is_outage is outage
