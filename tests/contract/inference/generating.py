"""Generations on an engine, collected."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from feinschliff.inference.engine import Delta, Done, Engine, Event, GenerationRequest


class Generation:
    """One request and all it was told."""

    def __init__(self, engine: Engine, request: GenerationRequest) -> None:
        self.events: list[Event] = []
        self._done = threading.Event()
        self._moved = threading.Condition()
        self.abort = engine.generate(request, self._take)

    def _take(self, event: Event) -> None:
        with self._moved:
            self.events.append(event)
            self._moved.notify_all()
        if isinstance(event, Done):
            self._done.set()

    def wait_tokens(self, count: int) -> None:
        with self._moved:
            assert self._moved.wait_for(lambda: self.tokens >= count, timeout=30)

    @property
    def tokens(self) -> int:
        return sum(isinstance(event, Delta) for event in self.events)

    @property
    def done(self) -> Done:
        assert self._done.wait(60)
        last = self.events[-1]
        assert isinstance(last, Done)
        return last

    @property
    def text(self) -> str:
        rest = self.done.text
        return "".join(event.text for event in self.events if isinstance(event, Delta)) + rest


def generate(engine: Engine, requests: Sequence[GenerationRequest]) -> list[Generation]:
    """All at once; each is done when this returns."""
    started = [Generation(engine, request) for request in requests]
    for generation in started:
        assert generation.done
    return started


def texts(engine: Engine, requests: Sequence[GenerationRequest]) -> list[str]:
    return [generation.text for generation in generate(engine, requests)]
