"""Continuous batching over a transformers model: requests and adapters join and leave between two steps."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TypeVar, cast

import torch
from torch import Tensor

from feinschliff.artifacts.bases import BaseFiles
from feinschliff.formats.heads import HeadFacts
from feinschliff.formats.records import Message
from feinschliff.inference.batcher import Batcher, Chunk, Limits
from feinschliff.inference.engine import (
    Abort,
    Capacity,
    Done,
    Emit,
    EngineFacts,
    Event,
    Finish,
    GenerationRequest,
    Started,
    Tools,
)
from feinschliff.inference.engines import EngineOptions
from feinschliff.inference.engines.cache import kv_bytes_per_position
from feinschliff.inference.engines.deck import Deck
from feinschliff.inference.engines.decks import Decks
from feinschliff.inference.engines.grammars import Grammar, Grammars, showing
from feinschliff.inference.engines.packed import pack
from feinschliff.inference.engines.row import Row
from feinschliff.inference.engines.saying import say, say_drafted
from feinschliff.inference.engines.sizes import give_back_memory, memory_of
from feinschliff.inference.engines.texts import Scorings, dimensions_of, vectors
from feinschliff.inference.engines.words import Words
from feinschliff.inference.forms import Form
from feinschliff.inference.life import Precision
from feinschliff.inference.scores import AnswerTokens, ScoringRequest, TokenScore
from feinschliff.kit.errors import Exhausted, Unavailable, WrongState
from feinschliff.lm.chat import Chat
from feinschliff.lm.gaps import gap_of
from feinschliff.lm.kernels import load as load_kernels
from feinschliff.lm.load import LoadedBase, load_base

logger = logging.getLogger(__name__)

T = TypeVar("T")
_RETRY_SECONDS = 1.0


class TransformersEngine:
    """See `engine.Engine`. One thread owns the model; everything else hands it work."""

    def __init__(self, loaded: LoadedBase, options: EngineOptions) -> None:
        config = loaded.model.config.get_text_config()
        cells_max = options.kv_cache_bytes_max // kv_bytes_per_position(config, loaded.model.dtype)
        self._chat = Chat.of(loaded.tokenizer, generation_stop_ids=_stop_ids(loaded))
        self._tokenizer = loaded.tokenizer.backend_tokenizer
        self._words = Words(self._chat, self._tokenizer)
        self.facts = EngineFacts(
            base_uri=loaded.uri,
            base_digest=loaded.digest,
            precision=loaded.precision,
            template_hash=self._chat.template_hash,
            context_tokens=min(int(config.max_position_embeddings), cells_max),
            vocabulary_tokens=int(config.vocab_size),
            gap=gap_of(self._tokenizer.token_to_id),
            dimensions=dimensions_of(loaded.model.config),
            chat_template=self._chat.template,
        )
        self._grammars = Grammars(self._tokenizer, self.facts.vocabulary_tokens, self._chat.stop_token_ids)
        self._options = options
        self._device = loaded.model.device
        threads = torch.get_num_threads()
        wants_kernels = options.native and self._device.type == "cpu"
        numbers = "bf16" if loaded.model.dtype == torch.bfloat16 else "fp32"
        kernels = load_kernels(numbers, options.cache_dir, threads=threads) if wants_kernels else None
        with torch.inference_mode():
            if kernels is not None:
                pack(loaded.model, kernels)
            self._decks = Decks(
                loaded.model,
                context_tokens=self.facts.context_tokens,
                kernels=kernels,
                prefix_cache_bytes_max=options.prefix_cache_bytes_max,
            )
        self._changed = threading.Condition()
        limits = Limits(
            options.rows_max,
            options.queue_max,
            cells_max,
            options.prefill_tokens_per_step,
            is_cache_by_row=self._decks.is_native,
        )
        self._batcher: Batcher[Row] = Batcher(limits)
        self._commands: deque[Callable[[], None]] = deque()
        self._judgements: deque[Callable[[], None]] = deque()
        self._scorings = Scorings(
            self._decks,
            self._judgements.append,
            part_tokens=options.prefill_tokens_per_step,
            waiting_max=max(1, options.queue_max),
        )
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @classmethod
    def load(cls, base: BaseFiles, precision: Precision, options: EngineOptions) -> TransformersEngine:
        """Loads a base and warms it up.

        Raises:
            Invalid: BASE_MODEL_UNREADABLE, CHAT_TEMPLATE_MISSING.
            WrongState: BASE_MODEL_UNSUPPORTED.
        """
        if options.threads:
            torch.set_num_threads(options.threads)
        engine = cls(load_base(base, precision=precision, cache_dir=options.cache_dir), options)
        engine._warm_up()
        return engine

    def encode_chat(
        self, messages: Sequence[Message], tools: Tools | None = None, add_generation_prompt: bool = True
    ) -> list[int]:
        return self._words.encode_chat(messages, tools, add_generation_prompt)

    def encode_answer(self, messages: Sequence[Message]) -> AnswerTokens:
        return self._words.encode_answer(messages)

    def encode_text(self, text: str) -> list[int]:
        return self._words.encode_text(text)

    def encode_plain(self, texts: Sequence[str]) -> list[list[int]]:
        return self._words.encode_plain(texts)

    def encode_pieces(self, pieces: Sequence[str]) -> list[list[int]]:
        return self._words.encode_pieces(pieces)

    def render_chat(
        self, messages: Sequence[Message], tools: Tools | None = None, add_generation_prompt: bool = True
    ) -> str:
        return self._words.render_chat(messages, tools, add_generation_prompt)

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        return self._words.decode(token_ids, skip_special_tokens=skip_special_tokens)

    def load_adapter(self, digest: str, folder: Path) -> None:
        self._between_steps(self._decks.prepare(digest, folder), self._commands)

    def unload_adapter(self, digest: str) -> None:
        def remove() -> None:
            with self._changed:
                if any(row.request.adapter_digest == digest for row in self._batcher):
                    raise WrongState("ADAPTER_IN_USE", f"Requests still run on {digest}.", adapter=digest)
                self._decks.remove(digest)

        self._between_steps(remove, self._commands)

    def adapters(self) -> frozenset[str]:
        return self._decks.digests

    def adapter_bytes(self, digest: str) -> int:
        return self._decks.adapter_bytes(digest)

    def virtual_tokens(self, digest: str) -> int:
        return self._decks.virtual_tokens(digest)

    def head(self, digest: str) -> HeadFacts | None:
        head = self._decks.head(digest)
        return head.facts if head else None

    def encode_for_head(self, texts: Sequence[str], facts: HeadFacts) -> list[list[int]]:
        return self._words.encode_for_head(texts, facts)

    def judge(self, rows: Sequence[Sequence[int]], digest: str) -> list[list[float]]:
        def act() -> list[list[float]]:
            self._refuse_missing(digest)
            if self._decks.head(digest) is None:
                raise WrongState("NOT_A_CLASSIFIER", f"Adapter {digest} has no head that judges texts.", model=digest)
            return self._decks.judge(rows, digest)

        return self._between_steps(act, self._judgements)

    def embed(self, rows: Sequence[Sequence[int]], digest: str, dimensions: int) -> list[list[float]]:
        def act() -> list[list[float]]:
            self._refuse_missing(digest)
            return vectors(self._decks.holding(digest), rows, digest, dimensions)

        return self._between_steps(act, self._judgements)

    def score(self, request: ScoringRequest) -> Future[list[TokenScore]]:
        with self._changed:
            self._refuse_closed()
            self._refuse_missing(request.adapter_digest)
            scored = self._scorings.offer(request)
            self._changed.notify()
        return scored

    def grammar(self, form: Form) -> Grammar:
        return self._grammars.grammar(form)

    def generate(self, request: GenerationRequest, emit: Emit) -> Abort:
        decode = showing(self._tokenizer, request.shown_tokens)
        row = Row.of(request, emit, decode=decode, stop_ids=self._chat.stop_token_ids)

        def abort() -> None:
            with self._changed:
                row.is_aborted = True
                self._changed.notify()

        with self._changed:
            self._refuse_closed()
            self._refuse_missing(request.adapter_digest)
            row.virtual_tokens = self._decks.virtual_tokens(request.adapter_digest)
            if not self._batcher.offer(row):
                raise Exhausted(
                    "QUEUE_FULL",
                    f"{self._batcher.waiting} requests wait for this model already; try again in {_RETRY_SECONDS:g} s.",
                    retry_after_seconds=_RETRY_SECONDS,
                    waiting=self._batcher.waiting,
                )
            self._changed.notify()
        return abort

    def capacity(self) -> Capacity:
        with self._changed:
            return Capacity(
                rows_max=self._options.rows_max,
                running=self._batcher.running,
                waiting=self._batcher.waiting,
                queue_max=self._options.queue_max,
                kv_cache_bytes=self._decks.allocated_bytes,
                kv_cache_bytes_max=self._options.kv_cache_bytes_max,
                prefix_cache_bytes=self._decks.prefixes.allocated_bytes,
                device_memory=memory_of(self._device),
            )

    def close(self) -> None:
        with self._changed:
            if self._is_closed:
                return
            self._is_closed = True
            self._changed.notify()
        self._thread.join()
        self._decks.close()
        give_back_memory()

    def _refuse_closed(self) -> None:
        if self._is_closed:
            raise Unavailable("ENGINE_CLOSED", "This model is being unloaded.", retry_after_seconds=_RETRY_SECONDS)

    def _refuse_missing(self, digest: str) -> None:
        if digest and digest not in self._decks:
            raise WrongState("ADAPTER_NOT_LOADED", f"Adapter {digest} is not loaded.", adapter=digest)

    def _between_steps(self, act: Callable[[], T], queue: deque[Callable[[], None]]) -> T:
        """Runs `act` on the engine's thread while no step runs."""
        done: Future[T] = Future()

        def command() -> None:
            try:
                done.set_result(act())
            except Exception as error:
                done.set_exception(error)

        with self._changed:
            self._refuse_closed()
            queue.append(command)
            self._changed.notify()
        return done.result()

    def _warm_up(self) -> None:
        """The first passes choose and build kernels; the first user should not wait for that."""
        done: Future[Done] = Future()

        def emit(event: Event) -> None:
            if isinstance(event, Done):
                done.set_result(event)

        prompt = [1] * min(64, self.facts.context_tokens - 2)
        self.generate(GenerationRequest(prompt, max_tokens=2), emit)
        if error := done.result().error:
            self.close()
            raise WrongState("BASE_MODEL_UNSUPPORTED", f"This engine cannot run the base: {error}.", error=error)

    def _run(self) -> None:
        with torch.inference_mode():
            while self._wait_for_work():
                for command in self._taken_commands():
                    command()
                self._step()
            self._scorings.close()
            while commands := self._taken_commands():
                for command in commands:
                    command()
        with self._changed:
            for row in self._batcher:
                row.finish(Finish.CANCELLED)
        self._drop_done()

    def _wait_for_work(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._has_work)
            return not self._is_closed

    @property
    def _has_work(self) -> bool:
        return bool(self._commands or self._judgements) or not self._batcher.is_idle

    def _taken_commands(self) -> list[Callable[[], None]]:
        """What changes what is loaded, all of it, and one pass over texts: more would hold up those who chat."""
        with self._changed:
            commands = [*self._commands, *([self._judgements.popleft()] if self._judgements else [])]
            self._commands.clear()
        return commands

    def _step(self) -> None:
        """One turn: drop who left, read prompts, then one token for every row."""
        with self._changed:
            for row in [*(row for row in self._batcher if row.is_aborted), *self._batcher.in_the_way()]:
                row.finish(Finish.CANCELLED)
        self._drop_done()
        with self._changed:
            chunks = self._batcher.plan()
        for chunk in chunks:
            self._guarded([chunk.work], partial(self._read, chunk))
        for deck in [deck for deck in self._decks if deck.rows]:
            self._guarded(deck.rows, partial(self._decode, deck))
        self._drop_done()

    def _guarded(self, rows: Sequence[Row], act: Callable[[], None]) -> None:
        """A step that fails costs the requests in it, never the engine."""
        try:
            act()
        except Exception as error:
            logger.exception("a step of the engine failed", extra={"rows": len(rows)})
            for row in rows:
                row.finish(Finish.FAILED, error=type(error).__name__)

    def _read(self, chunk: Chunk[Row]) -> None:
        row, start, stop = chunk
        if start == 0:
            row.tell(Started())
        if row.is_done:
            return
        deck = self._decks.of(row)
        logits_V = deck.read(row, start, stop)
        if stop < row.prompt_tokens:
            return
        assert logits_V is not None, "the last token of a prompt is always read"
        self._say([row], logits_V[None], deck)
        if not row.is_done:
            deck.join(row)
            if self._options.lookup_tokens_max and deck.can_draft(row):
                row.look_up()
            self._decks.keep_within(self._options.kv_cache_bytes_max)
        row.forget_cache()

    def _decode(self, deck: Deck) -> None:
        self._options.on_batch(len(deck.rows))
        drafts = deck.draft(self._options.lookup_tokens_max)
        if drafts is None:
            self._say(deck.rows, deck.decode(), deck)
        else:
            logits_NV = deck.decode_drafts(drafts)
            held = say_drafted(deck.rows, drafts, logits_NV, deck.likeliest(logits_NV))
            deck.hold(drafts, held)
            self._options.on_drafts(sum(map(len, drafts)), sum(held))
        self._decks.keep_within(self._options.kv_cache_bytes_max)

    def _say(self, rows: Sequence[Row], logits_BV: Tensor, deck: Deck) -> None:
        say(rows, logits_BV, deck.likeliest(logits_BV))

    def _drop_done(self) -> None:
        for deck in self._decks:
            deck.drop_done()
        with self._changed:
            done = [row for row in self._batcher if row.is_done]
            for row in done:
                self._batcher.remove(row)
        for row in done:
            row.forget_cache()
            row.tell_done()


def _stop_ids(loaded: LoadedBase) -> list[int]:
    configured = getattr(loaded.model.generation_config, "eos_token_id", None)
    return cast(list[int], configured) if isinstance(configured, list) else [] if configured is None else [configured]
