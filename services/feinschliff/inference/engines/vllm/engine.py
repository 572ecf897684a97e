"""The engine over a vLLM server: our tokens, our stops, our queue; its batch, its cache, its arithmetic.

What differs from our own engine: draws are vLLM's (a seed reproduces on one server and version, and whatever else runs
only where that is started with VLLM_BATCH_INVARIANT=1), and so is the order of biases and penalties.
"""

from __future__ import annotations

import asyncio
import logging
import re
import shutil
import sys
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import CancelledError as FutureCancelled
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from feinschliff.artifacts.bases import BaseFiles
from feinschliff.formats.heads import HeadFacts
from feinschliff.formats.records import Message
from feinschliff.inference.abilities import no_vectors
from feinschliff.inference.batcher import Batcher, Limits
from feinschliff.inference.engine import (
    Abort,
    Capacity,
    Emit,
    EngineFacts,
    Finish,
    GenerationRequest,
    Tools,
    engine_lost,
)
from feinschliff.inference.engines import EngineOptions
from feinschliff.inference.engines.cache import kv_bytes_per_position
from feinschliff.inference.engines.grammars import Grammar, Grammars, showing
from feinschliff.inference.engines.row import Row
from feinschliff.inference.engines.vllm.answers import Answering
from feinschliff.inference.engines.vllm.base import DTYPES, Base
from feinschliff.inference.engines.vllm.keeper import RETRY_SECONDS, Keeper
from feinschliff.inference.engines.vllm.peft import bytes_of_pairs, read_pairs, write
from feinschliff.inference.engines.vllm.servers import Elsewhere, OwnProcess, Server, command_of
from feinschliff.inference.engines.vllm.wire import served_name
from feinschliff.inference.engines.words import Words
from feinschliff.inference.forms import Form
from feinschliff.inference.life import Precision
from feinschliff.inference.scores import AnswerTokens, ScoringRequest, TokenScore
from feinschliff.kit.errors import Exhausted, Unavailable, WrongState
from feinschliff.lm.gaps import gap_of

logger = logging.getLogger(__name__)

T = TypeVar("T")
_RETRY_SECONDS = 1.0
_END_SECONDS = 2.0  # for what was begun to end by itself


class VllmEngine:
    """See `engine.Engine`. One thread with an event loop owns all connections; everything else hands it work."""

    def __init__(self, base: Base, server: Server, options: EngineOptions) -> None:
        self._base, self._server, self._options = base, server, options
        self._tokenizer = base.tokenizer.backend_tokenizer
        self._words = Words(base.chat, self._tokenizer)
        self._config = base.model.config.get_text_config()
        self._sizes: dict[str, int] = {}  # bytes of the loaded adapters
        self._lock = threading.Lock()  # of the batcher, the adapters and the end; never held while somebody is told
        self._is_closed = False
        self._keeping: asyncio.Task[None] | None = None
        limits = Limits(options.rows_max, options.queue_max, sys.maxsize, sys.maxsize, is_cache_by_row=True)
        self._batcher: Batcher[Row] = Batcher(limits)
        name = served_name(base.files.digest, base.precision)
        self._keeper = Keeper(server, name, options.vllm, self._lost, self._forget)
        self._answering = Answering(self._keeper, name, self._left, queue_max=options.queue_max)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()
        try:
            self._await(self._keeper.bring_up())
        except BaseException:
            self.close()
            raise
        self.facts = self._facts()
        self._grammars = Grammars(self._tokenizer, self.facts.vocabulary_tokens, base.chat.stop_token_ids)
        self._soon(self._look_after)

    @classmethod
    def load(cls, files: BaseFiles, precision: Precision, options: EngineOptions) -> VllmEngine:
        """Finds a server that has the base, or starts one; returns once it answers.

        Raises:
            Invalid: BASE_MODEL_UNREADABLE, CHAT_TEMPLATE_MISSING.
            WrongState: ENGINE_START_FAILED.
        """
        chosen = "bf16" if precision == "auto" else precision
        base = Base.of(files, chosen, options.cache_dir)
        server: Server
        if options.vllm.urls:
            server = Elsewhere(options.vllm)
        else:
            command = command_of(options.vllm, base.folder, files.digest, chosen, rows_max=options.rows_max)
            server = OwnProcess(command)
        return cls(base, server, options)

    def _facts(self) -> EngineFacts:
        """One position is the server's: it generates a token behind a text that it scores."""
        positions = self._keeper.context_tokens or int(self._config.max_position_embeddings)
        return EngineFacts(
            base_uri=self._base.files.uri,
            base_digest=self._base.files.digest,
            precision=self._base.precision,
            template_hash=self._base.chat.template_hash,
            context_tokens=min(int(self._config.max_position_embeddings), positions) - 1,
            vocabulary_tokens=int(self._config.vocab_size),
            gap=gap_of(self._tokenizer.token_to_id),
            chat_template=self._base.chat.template,
        )

    def encode_chat(
        self, messages: Sequence[Message], tools: Tools | None = None, add_generation_prompt: bool = True
    ) -> list[int]:
        return self._words.encode_chat(messages, tools, add_generation_prompt)

    def render_chat(
        self, messages: Sequence[Message], tools: Tools | None = None, add_generation_prompt: bool = True
    ) -> str:
        return self._words.render_chat(messages, tools, add_generation_prompt)

    def encode_answer(self, messages: Sequence[Message]) -> AnswerTokens:
        return self._words.encode_answer(messages)

    def encode_text(self, text: str) -> list[int]:
        return self._words.encode_text(text)

    def encode_plain(self, texts: Sequence[str]) -> list[list[int]]:
        return self._words.encode_plain(texts)

    def encode_pieces(self, pieces: Sequence[str]) -> list[list[int]]:
        return self._words.encode_pieces(pieces)

    def encode_for_head(self, texts: Sequence[str], facts: HeadFacts) -> list[list[int]]:
        return self._words.encode_for_head(texts, facts)

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        return self._words.decode(token_ids, skip_special_tokens=skip_special_tokens)

    def load_adapter(self, digest: str, folder: Path) -> None:
        with self._lock:
            self._refuse_closed()
            if digest in self._sizes:
                return
        pairs = read_pairs(folder, self._base.model, rank_max=self._options.vllm.lora_rank_max)
        self._refuse_away()
        written = self._folder_of(digest)
        write(pairs, written)
        try:
            self._await(self._keeper.put(digest, self._server.seen(written)))
        except BaseException:
            shutil.rmtree(written, ignore_errors=True)
            raise
        with self._lock:
            self._sizes[digest] = bytes_of_pairs(pairs)

    def unload_adapter(self, digest: str) -> None:
        with self._lock:
            self._refuse_closed()
            if any(row.request.adapter_digest == digest for row in self._batcher):
                raise WrongState("ADAPTER_IN_USE", f"Requests still run on {digest}.", adapter=digest)
            if self._sizes.pop(digest, None) is None:
                return
        self._await(self._keeper.drop(digest))
        shutil.rmtree(self._folder_of(digest), ignore_errors=True)

    def _folder_of(self, digest: str) -> Path:
        return self._server.folder() / re.sub(r"[^\w.-]", "-", digest)

    def adapters(self) -> frozenset[str]:
        with self._lock:
            return frozenset(self._sizes)

    def adapter_bytes(self, digest: str) -> int:
        with self._lock:
            return self._sizes.get(digest, 0)

    def virtual_tokens(self, digest: str) -> int:
        return 0

    def head(self, digest: str) -> HeadFacts | None:
        return None

    def judge(self, rows: Sequence[Sequence[int]], digest: str) -> list[list[float]]:
        with self._lock:
            self._refuse_missing(digest)
        raise WrongState("NOT_A_CLASSIFIER", f"Adapter {digest} has no head that judges texts.", model=digest)

    def embed(self, rows: Sequence[Sequence[int]], digest: str, dimensions: int) -> list[list[float]]:
        raise no_vectors(digest or self.facts.base_uri)

    def grammar(self, form: Form) -> Grammar:
        return self._grammars.grammar(form)

    def score(self, request: ScoringRequest) -> Future[list[TokenScore]]:
        with self._lock:
            self._refuse_closed()
            self._refuse_missing(request.adapter_digest)
            self._refuse_away()
            self._answering.refuse_many_texts()
            return asyncio.run_coroutine_threadsafe(self._answering.score(request), self._loop)

    def generate(self, request: GenerationRequest, emit: Emit) -> Abort:
        decode = showing(self._tokenizer, request.shown_tokens)
        row = Row.of(request, emit, decode=decode, stop_ids=self._base.chat.stop_token_ids)
        with self._lock:
            self._refuse_closed()
            self._refuse_missing(request.adapter_digest)
            self._refuse_away()
            if not self._batcher.offer(row):
                raise Exhausted(
                    "QUEUE_FULL",
                    f"{self._batcher.waiting} requests wait for this model already; try again in {_RETRY_SECONDS:g} s.",
                    retry_after_seconds=_RETRY_SECONDS,
                    waiting=self._batcher.waiting,
                )
            self._loop.call_soon_threadsafe(self._pump)
        return lambda: self._soon(self._abort, row)

    def capacity(self) -> Capacity:
        load = self._keeper.load
        bytes_max = load.cache_tokens * kv_bytes_per_position(self._config, DTYPES[self._base.precision])
        with self._lock:
            return Capacity(
                rows_max=self._options.rows_max,
                running=self._batcher.running,
                waiting=self._batcher.waiting,
                queue_max=self._options.queue_max,
                kv_cache_bytes=int(load.cache_share * bytes_max),
                kv_cache_bytes_max=bytes_max,
                is_up=self._keeper.is_up,
                losses=self._keeper.losses,
            )

    def close(self) -> None:
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            over = asyncio.run_coroutine_threadsafe(self._end(), self._loop)
        over.result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    # --- refusals; the lock is held ----------------------------------------------------------------------------------

    def _refuse_closed(self) -> None:
        if self._is_closed:
            raise _closed()

    def _refuse_missing(self, digest: str) -> None:
        if digest and digest not in self._sizes:
            raise WrongState("ADAPTER_NOT_LOADED", f"Adapter {digest} is not loaded.", adapter=digest)

    def _refuse_away(self) -> None:
        if not self._keeper.is_up:
            raise engine_lost(self._keeper.why, RETRY_SECONDS)

    # --- the event loop ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    def _await(self, work: Coroutine[Any, Any, T]) -> T:
        """What comes of it on the loop; blocks."""
        with self._lock:
            if self._is_closed:
                work.close()
                raise _closed()
            done = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return done.result()
        except FutureCancelled as error:
            raise _closed() from error

    def _soon(self, act: Callable[..., object], *args: object) -> None:
        with self._lock:
            if not self._is_closed:
                self._loop.call_soon_threadsafe(act, *args)

    def _look_after(self) -> None:
        self._keeping = self._loop.create_task(self._keeper.run())

    def _pump(self) -> None:
        """Lets in whoever has a place."""
        if not self._keeper.is_up:
            self._lost(self._keeper.why, False)
            return
        with self._lock:
            in_the_way = self._batcher.in_the_way()
            begun = [chunk.work for chunk in self._batcher.plan()]
        for row in in_the_way:
            self._abort(row)
        for row in begun:
            self._answering.begin(row)
        if begun:
            self._options.on_batch(self._answering.running)

    def _abort(self, row: Row) -> None:
        row.finish(Finish.CANCELLED)
        if not self._answering.end(row):
            self._left(row)

    def _left(self, row: Row) -> None:
        """A row that is through, or will not begin: its place is free, and then it is told."""
        with self._lock:
            if row not in list(self._batcher):
                return
            self._batcher.remove(row)
        row.finish(Finish.CANCELLED)
        row.tell_done()
        self._pump()

    def _forget(self, digest: str) -> None:
        """An adapter that the server does not take again: who wants it loads it anew, and hears why that fails."""
        shutil.rmtree(self._folder_of(digest), ignore_errors=True)
        with self._lock:
            self._sizes.pop(digest, None)

    def _lost(self, why: str, is_all_over: bool) -> None:
        """What waits would wait for minutes; what runs cannot end well where all is over."""
        with self._lock:
            rows = list(self._batcher)
            waiting = [row for row in rows if not self._answering.has(row)]
            for row in waiting:  # all at once, before any is told: there may be hundreds
                self._batcher.remove(row)
        for row in waiting:
            row.finish(Finish.FAILED, error=why, retry_after_seconds=RETRY_SECONDS)
            row.tell_done()
        for row in rows if is_all_over else ():
            if self._answering.has(row):
                row.finish(Finish.FAILED, error=why, retry_after_seconds=RETRY_SECONDS)
                self._answering.end(row)
        if is_all_over:
            self._answering.drop_scores(engine_lost(why, RETRY_SECONDS))

    async def _end(self) -> None:
        with self._lock:
            rows = list(self._batcher)
        for row in rows:
            self._abort(row)
        self._answering.drop_scores(_closed())
        if self._keeping is not None:
            self._keeping.cancel()
        own = asyncio.current_task()
        while others := [task for task in asyncio.all_tasks() if task is not own]:  # what is cancelled ends its own
            _, late = await asyncio.wait(others, timeout=_END_SECONDS)
            for task in late:
                task.cancel()
        await self._keeper.close()
        self._server.forget()


def _closed() -> Unavailable:
    return Unavailable("ENGINE_CLOSED", "This model is being unloaded.", retry_after_seconds=_RETRY_SECONDS)
