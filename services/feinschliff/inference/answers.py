"""One answer from its engine to its caller: events across threads, the place given back, everything counted."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from feinschliff.inference.call import Call
from feinschliff.inference.engine import (
    Delta,
    Done,
    Engine,
    Event,
    Finish,
    GenerationRequest,
    Started,
    engine_lost,
)
from feinschliff.kit.errors import Exhausted, Internal, Refusal, Unavailable
from feinschliff.kit.metrics import Metrics

FIRST_TOKEN = "feinschliff_inference_first_token_seconds"
REFUSED = "refused"
NEXT_TOKEN = "feinschliff_inference_next_token_seconds"


class Held(Protocol):
    """An engine that stays loaded until it is given back; see `pool.Lease`."""

    @property
    def engine(self) -> Engine: ...

    @property
    def call(self) -> Call: ...

    def give_back(self) -> None: ...


@dataclass
class Answers:
    """Starts generations and measures them."""

    metrics: Metrics

    async def stream(self, lease: Held, request: GenerationRequest) -> AsyncGenerator[Delta | Done]:
        """The pieces of an answer; the last one is Done. The lease is given back once the engine is through with it.

        Leaving the iteration, by whatever way, ends the generation at once.

        Raises:
            Exhausted: QUEUE_FULL.
            Internal: GENERATION_FAILED.
            Unavailable: ENGINE_CLOSED, ENGINE_LOST, REPLICA_DRAINED.
        """
        call = lease.call
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Event]()

        def emit(event: Event) -> None:
            call.start()
            if isinstance(event, Done):
                lease.give_back()
                self._count_end(request, event)
            loop.call_soon_threadsafe(events.put_nowait, event)

        began = first = last = time.monotonic()
        call.queue()
        try:
            abort = lease.engine.generate(dataclasses.replace(request, tenant=call.tenant), emit)
        except BaseException:
            lease.give_back()
            raise
        call.when_cut(abort)
        in_flight = self.metrics.gauge("feinschliff_inference_requests_in_flight")
        in_flight.inc()
        try:
            tokens = 0
            while True:
                event = await events.get()
                now = time.monotonic()
                if isinstance(event, Started):
                    self.metrics.histogram("feinschliff_inference_queue_wait_seconds").observe(now - began)
                    continue
                if isinstance(event, Delta) or event.completion_tokens > tokens:
                    seconds = self.metrics.histogram(NEXT_TOKEN if tokens else FIRST_TOKEN)
                    seconds.observe(now - (last if tokens else began))
                    tokens, last = tokens + 1, now
                    first = now if tokens == 1 else first
                if isinstance(event, Done):
                    if call.watch is not None:
                        call.watch.ended(event.finish, (began, first, last), tokens)
                    if event.finish is Finish.CANCELLED:
                        call.raise_if_cut()
                    refuse_broken(event)
                    yield event
                    return
                yield event
        finally:
            abort()
            in_flight.dec()

    async def counted(self, events: AsyncGenerator[Delta | Done]) -> AsyncGenerator[Delta | Done]:
        """The same events, and at their end how a caller's answer ended, whatever guards made of the engine's."""
        outcome = Finish.CANCELLED.value
        try:
            async with aclosing(events):
                async for event in events:
                    outcome = event.finish.value if isinstance(event, Done) else outcome
                    yield event
        except Exhausted:
            outcome = REFUSED
            raise
        except Refusal as refusal:
            outcome = outcome if _is_stopped(refusal) else Finish.FAILED.value
            raise
        finally:
            self.metrics.counter("feinschliff_inference_requests_total").labels(outcome).inc()

    def count_refused(self) -> None:
        self.metrics.counter("feinschliff_inference_requests_total").labels(REFUSED).inc()

    def count_read(self, tokens: int) -> None:
        """Tokens that were read for a judgement, not for an answer."""
        self.metrics.counter("feinschliff_inference_prompt_tokens_total").inc(tokens)

    def observe_batch(self, rows: int) -> None:
        self.metrics.histogram("feinschliff_inference_batch_size_sequences").observe(rows)

    def count_drafts(self, drafted: int, held: int) -> None:
        self.metrics.counter("feinschliff_inference_drafted_tokens_total").inc(drafted)
        self.metrics.counter("feinschliff_inference_accepted_tokens_total").inc(held)

    def _count_end(self, request: GenerationRequest, done: Done) -> None:
        metrics = self.metrics
        metrics.counter("feinschliff_inference_prompt_tokens_total").inc(len(request.prompt_ids))
        metrics.counter("feinschliff_inference_cached_prompt_tokens_total").inc(done.cached_tokens)
        metrics.counter("feinschliff_inference_completion_tokens_total").inc(done.completion_tokens)
        metrics.histogram("feinschliff_inference_request_prompt_tokens").observe(len(request.prompt_ids))
        metrics.histogram("feinschliff_inference_request_completion_tokens").observe(done.completion_tokens)


def _is_stopped(refusal: Refusal) -> bool:
    """Whether an answer was ended from here, by a drain or because its model went; nothing failed."""
    return isinstance(refusal, Unavailable) and refusal.reason not in ("GUARD_UNAVAILABLE", "ENGINE_LOST")


def refuse_broken(done: Done) -> None:
    """An answer that the engine could not finish is an error, not a short answer."""
    if done.finish is Finish.FAILED and done.retry_after_seconds is not None:
        raise engine_lost(done.error, done.retry_after_seconds)
    if done.finish is Finish.FAILED:
        message = f"The engine failed on the way: {done.error}."
        raise Internal("GENERATION_FAILED", message, error=done.error)
    if done.finish is Finish.CANCELLED:
        message = "The model was unloaded while it answered; try again."
        raise Unavailable("ENGINE_CLOSED", message, retry_after_seconds=1)
