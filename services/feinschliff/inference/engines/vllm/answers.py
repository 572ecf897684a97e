"""One request to a vLLM server, from its first token to the end: generations, each its own task, and scores."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable
from typing import Any

from feinschliff.inference.engine import Finish, Started, engine_lost
from feinschliff.inference.engines.grammars import Grammar
from feinschliff.inference.engines.row import Row
from feinschliff.inference.engines.vllm import wire
from feinschliff.inference.engines.vllm.client import Lost, Refused
from feinschliff.inference.engines.vllm.keeper import RETRY_SECONDS, Keeper
from feinschliff.inference.scores import ScoringRequest, TokenScore
from feinschliff.kit.errors import Exhausted, Internal, Refusal

logger = logging.getLogger(__name__)

_SCORED_AT_ONCE = 4  # texts; the server holds logits of a whole one
_PASSES = {"abort", ""}  # how a stream ends where the server ended, not the answer
_RETRY_SECONDS = 1.0


class Answering:
    """For one event loop.

    Args:
        name: of the base at the server.
        left: told of each row that is through; what became of it is in the row.
        queue_max: texts that wait to be scored.
    """

    def __init__(self, keeper: Keeper, name: str, left: Callable[[Row], None], *, queue_max: int) -> None:
        self._keeper = keeper
        self._name = name
        self._left = left
        self._queue_max = max(1, queue_max)
        self._tasks: dict[Row, asyncio.Task[None]] = {}
        self._scores: dict[asyncio.Task[Any], Refusal | None] = {}  # why they were ended
        self._scoring = asyncio.Semaphore(_SCORED_AT_ONCE)

    @property
    def running(self) -> int:
        return len(self._tasks)

    def begin(self, row: Row) -> None:
        task = asyncio.get_running_loop().create_task(self._answer(row))
        self._tasks[row] = task
        task.add_done_callback(lambda _: self._ended(row))

    def has(self, row: Row) -> bool:
        return row in self._tasks

    def end(self, row: Row) -> bool:
        """Closes its connection, by which the server drops it; False where it has not begun."""
        task = self._tasks.get(row)
        if task is not None:
            task.cancel()
        return task is not None

    def _ended(self, row: Row) -> None:
        del self._tasks[row]
        self._left(row)

    async def _answer(self, row: Row) -> None:
        """What goes wrong costs this row alone."""
        try:
            await self._stream(row)
        except asyncio.CancelledError:
            row.finish(Finish.CANCELLED)
        except Lost as lost:
            self._keeper.doubt()
            row.finish(Finish.FAILED, error=str(lost), retry_after_seconds=RETRY_SECONDS)
        except Refused as refused:
            later = self._unknown(refused.said)
            row.finish(Finish.FAILED, error=str(refused), retry_after_seconds=later)
        except wire.Broken as broken:
            logger.error("a generation on vLLM failed: %s", broken)
            row.finish(Finish.FAILED, error=str(broken))
        except Exception as error:
            logger.exception("a generation on vLLM failed")
            row.finish(Finish.FAILED, error=type(error).__name__)

    def _unknown(self, said: wire.Said) -> float | None:
        """When a model that the server should know is there again; None where that is not what is wrong."""
        if not said.is_unknown_model:
            logger.error("vLLM refused a request: %s", said.message)
            return None
        self._keeper.lose(said.message)
        return RETRY_SECONDS

    async def _stream(self, row: Row) -> None:
        request = row.request
        grammar = request.grammar.text if isinstance(request.grammar, Grammar) else ""
        body = wire.completion(request, request.adapter_digest or self._name, row.stop_ids, grammar)
        ended = ""
        async with self._keeper.client.stream(body) as pieces:
            row.tell(Started())
            async for piece in pieces:
                if piece.prompt_ids is not None and list(piece.prompt_ids) != list(request.prompt_ids):
                    raise wire.Broken("vLLM read other tokens than it was given")
                if piece.cached_tokens is not None and row.done is not None:
                    row.done = dataclasses.replace(row.done, cached_tokens=piece.cached_tokens)
                ended = piece.finish or ended
                _take(row, piece)
                if row.is_aborted or (row.is_done and not ended):
                    break  # we have heard enough, and the server may stop
        if row.is_done or row.is_aborted:
            return
        if ended in _PASSES:
            raise Lost("it broke the answer off")
        raise wire.Broken(f"vLLM ended an answer by itself ({ended}); look at its own limits")

    def refuse_many_texts(self) -> None:
        """
        Raises:
            Exhausted: QUEUE_FULL.
        """
        waiting = len(self._scores)
        if waiting >= self._queue_max:
            message = f"{waiting} texts wait to be scored already; try again in {_RETRY_SECONDS:g} s."
            raise Exhausted("QUEUE_FULL", message, retry_after_seconds=_RETRY_SECONDS, waiting=waiting)

    async def score(self, request: ScoringRequest) -> list[TokenScore]:
        """
        Raises:
            Unavailable: ENGINE_LOST.
            Internal: GENERATION_FAILED.
        """
        task = asyncio.current_task()
        assert task is not None
        self._scores[task] = None
        body = wire.scoring(request, request.adapter_digest or self._name)
        try:
            async with self._scoring:
                return wire.read_scores(await self._keeper.client.complete(body), request)
        except asyncio.CancelledError:
            if refusal := self._scores[task]:
                raise refusal from None
            raise
        except Lost as lost:
            self._keeper.doubt()
            raise engine_lost(str(lost), RETRY_SECONDS) from lost
        except Refused as refused:
            if later := self._unknown(refused.said):
                raise engine_lost(str(refused), later) from refused
            raise _failed(str(refused)) from refused
        except wire.Broken as broken:
            raise _failed(str(broken)) from broken
        finally:
            del self._scores[task]

    def drop_scores(self, refusal: Refusal) -> None:
        for task in self._scores:
            self._scores[task] = refusal
            task.cancel()


def _take(row: Row, piece: wire.Piece) -> None:
    """The tokens of a piece, until the row has what it wants."""
    wanted = row.request.logprobs or 0
    for token, score in zip(piece.token_ids, piece.scores, strict=True):
        if row.is_done:
            return
        if row.writing is not None and not row.writing.takes(token):
            raise wire.Broken("vLLM left the form that the answer must have")
        row.accept(token, score and wire.only_wanted(score, wanted))
    stop = piece.stop_token_id
    if not row.is_done and piece.finish == "stop" and stop is not None and stop in row.stop_ids:
        row.accept(stop)  # by a server that keeps it to itself


def _failed(why: str) -> Internal:
    return Internal("GENERATION_FAILED", f"The engine failed on the way: {why}.", error=why)
