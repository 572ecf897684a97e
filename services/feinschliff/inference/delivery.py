"""From the spool to the completion log: each record once, again and again until ingestion has it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import StrEnum
from itertools import islice
from typing import NamedTuple, TypeVar

import grpc

from feinschliff.inference.policies import Policies
from feinschliff.inference.segments import Record, Segment
from feinschliff.inference.spool import Spool
from feinschliff.kit import failpoints
from feinschliff.kit.errors import (
    AlreadyExists,
    Cancelled,
    Exhausted,
    Invalid,
    NotFound,
    Refusal,
    TimedOut,
    Unavailable,
    from_rpc_error,
)
from feinschliff.kit.metrics import Metrics
from feinschliff.kit.threads import offload
from feinschliff.kit.watch import Wake
from feinschliff.v1 import ingestion_pb2 as pb
from feinschliff.v1.ingestion_pb2_grpc import CompletionLogServiceStub

log = logging.getLogger(__name__)
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 30.0
LINGER_SECONDS = 0.05  # what comes close together goes together
IDLE_SECONDS = 5.0  # how long what a dead process left, or a policy, may go unnoticed
CALL_SECONDS = 10.0
FINAL = (Invalid, AlreadyExists, NotFound)  # the same call would be refused again
AWAY = (Unavailable, TimedOut, Exhausted, Cancelled)  # nothing is wrong with the record: the next one would fare alike
T = TypeVar("T")


class Outcome(StrEnum):
    """What became of one segment."""

    NOTHING = "nothing"  # there was none
    DELIVERED = "delivered"
    STUCK = "stuck"  # some of it must be sent again


class _Sent(NamedTuple):
    """Places of records that are delivered or never will be, and whether it is of no use to go on."""

    done: set[int]
    nobody_there: bool


class Delivery:
    """Empties the spool. One record that ingestion fails on does not hold up the others."""

    def __init__(
        self,
        spool: Spool,
        stub: CompletionLogServiceStub,
        policies: Policies,
        wake: Wake,
        metrics: Metrics,
        *,
        batch: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            batch: records that are on their way to ingestion at once.
        """
        self._spool = spool
        self._stub = stub
        self._policies = policies
        self._wake = wake
        self._batch = batch
        self._clock = clock
        self._delivered = metrics.counter("feinschliff_inference_completions_delivered_total")
        self._dropped = metrics.counter("feinschliff_inference_completions_dropped_total")
        self._seconds = metrics.histogram("feinschliff_inference_completion_delivery_seconds")
        self._bytes = metrics.gauge("feinschliff_inference_completion_spool_bytes")
        metrics.gauge("feinschliff_inference_completion_spool_limit_bytes").set(spool.bytes_max)

    async def run(self) -> None:
        """For ever."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            turn = self._wake.turn
            outcome = await offload(self.turn)
            if outcome is Outcome.STUCK:
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
                continue
            pause = FIRST_PAUSE_SECONDS
            await offload(self._policies.refresh)
            if outcome is Outcome.NOTHING:
                await self._wake.wait(turn, IDLE_SECONDS)
                await asyncio.sleep(LINGER_SECONDS)

    def turn(self, call_seconds: float = CALL_SECONDS) -> Outcome:
        """Delivers one segment, or what can be delivered of it; blocks."""
        segment = self._spool.take()
        self._bytes.set(self._spool.size_bytes)
        if segment is None:
            return Outcome.NOTHING
        try:
            is_done = self._deliver(segment, call_seconds)
        except BaseException:
            self._spool.put_back(segment)
            raise
        if not is_done:
            self._spool.put_back(segment)
            return Outcome.STUCK
        if segment.torn_bytes:
            self._dropped.labels("torn").inc()
            log.warning("half a record was found in the spool", extra={"bytes": segment.torn_bytes})
        self._spool.remove(segment)
        self._bytes.set(self._spool.size_bytes)
        return Outcome.DELIVERED

    def flush(self, seconds: float) -> None:
        """What can be delivered within the time; the rest stays in the spool."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and self.turn(left) is Outcome.DELIVERED:
            pass

    def _deliver(self, segment: Segment, call_seconds: float) -> bool:
        """Whether nothing of the segment is left to send."""
        is_whole = True
        for records in _batches(segment.records(), self._batch):
            sent = self._send(records, call_seconds)
            segment.done |= sent.done
            is_whole &= len(sent.done) == len(records)
            if sent.nobody_there:
                return False
        return is_whole

    def _send(self, records: Sequence[Record], call_seconds: float) -> _Sent:
        failpoints.fail("completion.before_store")
        requests = [pb.RecordCompletionRequest.FromString(record.payload) for record in records]
        calls = [self._stub.RecordCompletion.future(request, timeout=call_seconds) for request in requests]
        done: set[int] = set()
        failures: list[Refusal] = []
        for record, request, call in zip(records, requests, calls, strict=True):
            try:
                call.result()
            except grpc.RpcError as error:
                refusal = from_rpc_error(error)
                if not _is_final(refusal):
                    failures.append(refusal)
                    continue
                self._refused(request, refusal)
            else:
                self._delivered.inc()
                self._seconds.observe(max(0.0, self._clock() - record.written))
            done.add(record.at)
        if failures:
            told = {"records": len(failures), "why": failures[0].reason, "told": failures[0].message}
            log.warning("exchanges are kept for later", extra=told)
        return _Sent(done, not done and any(isinstance(one, AWAY) for one in failures))

    def _refused(self, request: pb.RecordCompletionRequest, refusal: Refusal) -> None:
        if refusal.reason == "COMPLETION_NOT_FOUND":  # it was stored by an earlier try, and deleted since
            self._delivered.inc()
            return
        self._dropped.labels("refused").inc()
        name = f"{request.parent}/completions/{request.completion_id}"
        log.error("ingestion refused an exchange", extra={"completion": name, "why": refusal.reason})


def _is_final(refusal: Refusal) -> bool:
    return isinstance(refusal, FINAL) and refusal.reason != "STATUS_WITHOUT_REASON"  # which is not ingestion's word


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
