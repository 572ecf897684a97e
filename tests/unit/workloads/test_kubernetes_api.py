"""Refusals and pauses of a cluster's API."""

from __future__ import annotations

import random

import pytest

from feinschliff.workloads.kubernetes_api import LONGEST_PAUSE_SECONDS, pause_seconds, refusal

STATUS = b'{"kind":"Status","code":409,"reason":"AlreadyExists","message":"jobs \\"one\\" already exists"}'


def test_a_status_says_what_is_wrong() -> None:
    error = refusal(409, "Conflict", STATUS)

    assert (error.status, error.reason, error.message) == (409, "AlreadyExists", 'jobs "one" already exists')
    assert not error.may_pass


@pytest.mark.parametrize("body", [b"<html>Bad Gateway</html>", b"", b"[1]", b"null"])
def test_what_is_no_status_is_a_refusal_too(body: bytes) -> None:
    error = refusal(502, "Bad Gateway", body)

    assert (error.status, error.reason, error.may_pass) == (502, "Bad Gateway", True)


@pytest.mark.parametrize(
    ("header", "body", "seconds"),
    [
        ("3", b"{}", 3.0),
        (None, b'{"details":{"retryAfterSeconds":4}}', 4.0),
        ("soon", b"{}", None),
        (None, b"{}", None),
    ],
)
def test_when_to_ask_again_is_taken_from_either_place(header: str | None, body: bytes, seconds: float | None) -> None:
    assert refusal(429, "TooManyRequests", body, header).retry_after_seconds == seconds


def test_pauses_grow_within_bounds_and_are_never_shorter_than_wanted() -> None:
    chance = random.Random(1)
    pauses = [pause_seconds(turn, None, chance) for turn in range(12)]

    assert pauses[0] < 0.2 < pauses[4]
    assert max(pauses) <= LONGEST_PAUSE_SECONDS
    assert pause_seconds(0, 7.0, chance) > 7.0
    assert pause_seconds(3, None, chance) != pause_seconds(3, None, chance)
