"""A follower sees everything once, whatever happens to its connection."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import grpc
import pytest

from feinschliff.cli import following
from feinschliff.kit.errors import NotFound, Unavailable
from tests.unit.cli.broken import Broken


class Event(NamedTuple):
    cursor: int
    is_last: bool


EVENTS = [Event(number, number == 5) for number in range(1, 6)]


class Stream:
    """Sends events after a cursor, breaking where it is told to."""

    def __init__(self, *breaks: grpc.StatusCode | None, after: int = 2) -> None:
        self._breaks = list(breaks)
        self._after = after
        self.opened: list[int] = []

    def __call__(self, cursor: int) -> Iterator[Event]:
        self.opened.append(cursor)
        ending = self._breaks.pop(0) if self._breaks else None
        left = EVENTS[cursor:]
        if ending is None:
            yield from left
            return
        yield from left[: self._after]
        raise Broken(ending)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "_PAUSE_SECONDS", 0.0)


def test_a_broken_stream_goes_on_after_what_was_seen() -> None:
    stream = Stream(grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    assert list(following.follow(stream, lambda event: event.is_last)) == EVENTS
    assert stream.opened == [0, 2, 4]


def test_a_stream_that_ends_early_is_opened_again() -> None:
    class Short(Stream):
        def __call__(self, cursor: int) -> Iterator[Event]:
            self.opened.append(cursor)
            yield from EVENTS[cursor : cursor + 2]

    stream = Short()
    assert list(following.follow(stream, lambda event: event.is_last)) == EVENTS
    assert stream.opened == [0, 2, 4]


def test_what_still_follows_a_final_word_is_seen() -> None:
    stream = Stream(grpc.StatusCode.UNAVAILABLE)
    assert list(following.follow(stream, lambda event: event.cursor == 1)) == EVENTS
    assert stream.opened == [0, 2]


def test_it_begins_after_the_given_cursor() -> None:
    assert list(following.follow(Stream(), lambda event: event.is_last, cursor=3)) == EVENTS[3:]


def test_what_will_not_pass_is_raised_at_once() -> None:
    stream = Stream(grpc.StatusCode.NOT_FOUND)
    with pytest.raises(NotFound):
        list(following.follow(stream, lambda event: event.is_last))
    assert stream.opened == [0]


def test_patience_ends() -> None:
    stream = Stream(*[grpc.StatusCode.UNAVAILABLE] * 10_000, after=0)
    with pytest.raises(Unavailable):
        list(following.follow(stream, lambda event: event.is_last, patience_seconds=0.05))
    assert len(stream.opened) > 1
