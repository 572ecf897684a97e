"""What every engine does: hold one base and adapters on it, and generate for many requests at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from feinschliff.formats.heads import HeadFacts
from feinschliff.formats.records import Message
from feinschliff.inference.forms import Form
from feinschliff.inference.scores import AnswerTokens, ScoringRequest, TokenScore
from feinschliff.kit.errors import Unavailable
from feinschliff.lm.gaps import Gap

Tools = Sequence[Mapping[str, Any]]


class Finish(StrEnum):
    """Why a generation ended."""

    STOP = "stop"
    LENGTH = "length"
    FILTERED = "content_filter"  # a guard ended it
    CANCELLED = "cancelled"
    FAILED = "failed"


class Grammar(Protocol):
    """A form made ready by an engine, for that engine alone; what is in it is the engine's own business."""

    @property
    def form(self) -> Form: ...


@dataclass(frozen=True)
class GenerationRequest:
    """One prompt and how to go on from it.

    Args:
        prompt_ids: at least one token.
        adapter_digest: of a loaded adapter; empty for the base alone.
        max_tokens: at least 1; prompt and answer together stay within the engine's `context_tokens`.
        temperature: 0 is greedy.
        top_p, top_k, min_p: which tokens can be drawn; see `lm.drawing.Filters`.
        presence_penalty, frequency_penalty, repetition_penalty, logit_bias: see `lm.penalties.Weights`.
        seed: the same seed draws the same tokens, whatever else is generated at the time.
        stop: texts that end the answer and are not part of it.
        stop_token_ids: tokens that end the turn, beside those of the base.
        logprobs: likeliest tokens told beside each token's log-probability, 0 and up; None tells neither. They are the
            model's own: before temperature, penalties, bias and filters.
        grammar: the form that the answer must have, from `Engine.grammar`; None is free text. An answer that ends with
            STOP and without a stop text has it.
        shown_tokens: control tokens that are part of the text; others are not.
        tenant: on whose behalf; those who wait take turns.
        is_background: it runs while there is nothing else to do, and ends as CANCELLED when there is.
    """

    prompt_ids: Sequence[int]
    adapter_digest: str = ""
    max_tokens: int = 16
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    logprobs: int | None = None
    grammar: Grammar | None = None
    shown_tokens: tuple[str, ...] = ()
    tenant: str = ""
    is_background: bool = False


@dataclass(frozen=True)
class Started:
    """The request has its place in the batch."""


@dataclass(frozen=True)
class Delta:
    """One more token; its text is empty while it could still be half a character or a stop string.

    `score` is there where the request asks for log-probabilities.
    """

    text: str
    score: TokenScore | None = None


@dataclass(frozen=True)
class Done:
    """The last event of a generation, with the text that was still held back, and the score of the token that ended it.

    `completion_tokens` counts every generated token, the one that ended the turn included; `cached_tokens` those of
    the prompt that were known from another one; `retry_after_seconds` is there where an answer FAILED for a reason that
    passes, such as a server that is started again.
    """

    finish: Finish
    completion_tokens: int
    text: str = ""
    error: str = ""
    cached_tokens: int = 0
    score: TokenScore | None = None
    retry_after_seconds: float | None = None


Event = Started | Delta | Done
Emit = Callable[[Event], None]
Abort = Callable[[], None]


@dataclass(frozen=True)
class EngineFacts:
    """What is fixed once the base is loaded; digests and hashes are `sha256:` and hex."""

    base_uri: str
    base_digest: str
    precision: str
    template_hash: str
    context_tokens: int
    vocabulary_tokens: int
    gap: Gap | None = None  # for filling in the middle
    dimensions: Sequence[int] = ()  # lengths that a text's vector may have, the whole one last
    chat_template: str = ""


class DeviceMemory(NamedTuple):
    """Of the GPU that an engine runs on, whoever holds it."""

    device: str
    used_bytes: int
    bytes_max: int


@dataclass(frozen=True)
class Capacity:
    """How much runs and how much more could; no `device_memory` on a CPU.

    Where a server computes, `is_up` says whether it does at present, and `losses` how often it was lost.
    """

    rows_max: int
    running: int
    waiting: int
    queue_max: int
    kv_cache_bytes: int
    kv_cache_bytes_max: int
    prefix_cache_bytes: int = 0
    device_memory: DeviceMemory | None = None
    is_up: bool = True
    losses: int = 0


class Engine(Protocol):
    """One base in memory, what was trained from it beside it, and a batch that requests join and leave between steps.

    Whatever was trained is called an adapter here, a whole model too: it is named by the digest of its files.

    Every method may be called from any thread. What a request gets does not depend on what else is in the batch.
    """

    @property
    def facts(self) -> EngineFacts: ...

    def encode_chat(
        self, messages: Sequence[Message], tools: Tools | None = None, add_generation_prompt: bool = True
    ) -> list[int]:
        """Token ids of a conversation, up to where the assistant begins, or without that.

        Args:
            tools: as templates take them, in OpenAI's form.

        Raises:
            Invalid: CHAT_TEMPLATE_MISSING, CHAT_TEMPLATE_REFUSES.
        """
        ...

    def render_chat(
        self, messages: Sequence[Message], tools: Tools | None = None, add_generation_prompt: bool = True
    ) -> str:
        """The text that `encode_chat` makes tokens of."""
        ...

    def encode_answer(self, messages: Sequence[Message]) -> AnswerTokens:
        """Token ids of a conversation that ends with an answer, as training reads it.

        Raises:
            Invalid: CHAT_TEMPLATE_MISSING, CHAT_TEMPLATE_REFUSES, CHAT_TEMPLATE_UNSUPPORTED, TOOL_CALLS_UNSUPPORTED.
        """
        ...

    def encode_text(self, text: str) -> list[int]:
        """Token ids of a text as it is: its control tokens count, and nothing is put before it."""
        ...

    def encode_plain(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text as training reads texts: control tokens inside are plain text, and around it stands
        what the tokenizer itself puts there."""
        ...

    def encode_pieces(self, pieces: Sequence[str]) -> list[list[int]]:
        """Token ids of each piece of a text as it is, those of a piece as a model would say it behind the others."""
        ...

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str: ...

    def load_adapter(self, digest: str, folder: Path) -> None:
        """Puts what a job left in a folder beside the base; one that is there already is left as it is.

        Raises:
            WrongState: ADAPTER_UNSUPPORTED, ADAPTER_UNFIT, ADAPTER_CORRUPT.
            Unavailable: ENGINE_LOST while a server that computes is away.
        """
        ...

    def unload_adapter(self, digest: str) -> None:
        """Frees an adapter; one that is not there is ignored.

        Raises:
            WrongState: ADAPTER_IN_USE while a request runs on it.
        """
        ...

    def adapters(self) -> frozenset[str]: ...

    def adapter_bytes(self, digest: str) -> int:
        """Memory of a loaded adapter, 0 if it is not there; weights that several share are divided among them."""
        ...

    def virtual_tokens(self, digest: str) -> int:
        """Positions of the context that a loaded adapter has in use before a prompt; 0 for the base alone."""
        ...

    def head(self, digest: str) -> HeadFacts | None:
        """What a loaded adapter says of a text in place of a next token; None for one that generates."""
        ...

    def encode_for_head(self, texts: Sequence[str], facts: HeadFacts) -> list[list[int]]:
        """Token ids of each text as the head learned to judge it.

        Raises:
            Invalid: CHAT_TEMPLATE_REFUSES.
        """
        ...

    def judge(self, rows: Sequence[Sequence[int]], digest: str) -> list[list[float]]:
        """What a head says of texts: a probability for each class, or one number; blocks for one pass of the model.

        Args:
            rows: token ids, at least one each; together as many as should be read between two steps.

        Raises:
            WrongState: ADAPTER_NOT_LOADED, NOT_A_CLASSIFIER.
            Internal: GENERATION_FAILED.
            Unavailable: ENGINE_CLOSED.
        """
        ...

    def embed(self, rows: Sequence[Sequence[int]], digest: str, dimensions: int) -> list[list[float]]:
        """The mean of each text's hidden states behind the last layer, of length 1; blocks for one pass of the model.

        Args:
            rows: as for `judge`.
            dimensions: the first so many numbers, scaled to length 1 again.

        Raises:
            WrongState: ADAPTER_NOT_LOADED.
            Internal: GENERATION_FAILED.
            Unavailable: ENGINE_CLOSED.
            Unserved: ENGINE_UNSERVED where the engine has no vectors.
        """
        ...

    def score(self, request: ScoringRequest) -> Future[list[TokenScore]]:
        """Queues a text; its scores, in order. It is read in parts between steps; cancelling the future ends that.

        What fails on the way is the future's: ADAPTER_NOT_LOADED, GENERATION_FAILED, ENGINE_CLOSED, ENGINE_LOST.

        Raises:
            Exhausted: QUEUE_FULL.
            WrongState: ADAPTER_NOT_LOADED.
            Unavailable: ENGINE_CLOSED, ENGINE_LOST.
        """
        ...

    def grammar(self, form: Form) -> Grammar:
        """Makes a form ready, for any number of answers; blocks the first time.

        Raises:
            Invalid: SCHEMA_UNSUPPORTED.
        """
        ...

    def generate(self, request: GenerationRequest, emit: Emit) -> Abort:
        """Queues a request; `emit` gets its events, from another thread, the last one being Done.

        The returned function ends it early: its place is free at the next step, and Done says CANCELLED.

        Raises:
            Exhausted: QUEUE_FULL.
            WrongState: ADAPTER_NOT_LOADED.
            Unavailable: ENGINE_CLOSED, ENGINE_LOST.
        """
        ...

    def capacity(self) -> Capacity: ...

    def close(self) -> None:
        """Ends what runs as CANCELLED and frees the memory."""
        ...


def engine_lost(why: str, retry_after_seconds: float) -> Unavailable:
    """A server that computes for an engine went away; it is started again, or waited for."""
    message = f"The server that computes this model is away: {why}; try again in {retry_after_seconds:g} s."
    return Unavailable("ENGINE_LOST", message, retry_after_seconds=retry_after_seconds, error=why)
