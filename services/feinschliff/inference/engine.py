"""What every engine does: hold one base and adapters on it, and generate for many requests at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, Protocol

from feinschliff.formats.heads import HeadFacts
from feinschliff.formats.records import Message


class Finish(StrEnum):
    """Why a generation ended."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    FAILED = "failed"


@dataclass(frozen=True)
class GenerationRequest:
    """One prompt and how to go on from it.

    Args:
        prompt_ids: at least one token.
        adapter_digest: of a loaded adapter; empty for the base alone.
        max_tokens: at least 1; prompt and answer together stay within the engine's `context_tokens`.
        temperature: 0 is greedy.
        top_p: in (0, 1].
        seed: the same seed draws the same tokens, whatever else is generated at the time.
        stop: texts that end the answer and are not part of it.
        stop_token_ids: tokens that end the turn, beside those of the base.
        tenant: on whose behalf; those who wait take turns.
        is_background: it runs while there is nothing else to do, and ends as CANCELLED when there is.
    """

    prompt_ids: Sequence[int]
    adapter_digest: str = ""
    max_tokens: int = 16
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    tenant: str = ""
    is_background: bool = False


@dataclass(frozen=True)
class Started:
    """The request has its place in the batch."""


@dataclass(frozen=True)
class Delta:
    """One more token; its text is empty while it could still be half a character or a stop string."""

    text: str


@dataclass(frozen=True)
class Done:
    """The last event of a generation, with the text that was still held back.

    `completion_tokens` counts every generated token, the one that ended the turn included.
    """

    finish: Finish
    completion_tokens: int
    text: str = ""
    error: str = ""


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


class DeviceMemory(NamedTuple):
    """Of the GPU that an engine runs on, whoever holds it."""

    device: str
    used_bytes: int
    bytes_max: int


@dataclass(frozen=True)
class Capacity:
    """How much runs and how much more could; no `device_memory` on a CPU."""

    rows_max: int
    running: int
    waiting: int
    queue_max: int
    kv_cache_bytes: int
    kv_cache_bytes_max: int
    device_memory: DeviceMemory | None = None


class Engine(Protocol):
    """One base in memory, what was trained from it beside it, and a batch that requests join and leave between steps.

    Whatever was trained is called an adapter here, a whole model too: it is named by the digest of its files.

    Every method may be called from any thread. What a request gets does not depend on what else is in the batch.
    """

    @property
    def facts(self) -> EngineFacts: ...

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a conversation, up to where the assistant begins.

        Raises:
            Invalid: CHAT_TEMPLATE_MISSING, CHAT_TEMPLATE_REFUSES.
        """
        ...

    def render_chat(self, messages: Sequence[Message]) -> str:
        """The text that `encode_chat` makes tokens of."""
        ...

    def encode_text(self, text: str) -> list[int]: ...

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str: ...

    def load_adapter(self, digest: str, folder: Path) -> None:
        """Puts what a job left in a folder beside the base; one that is there already is left as it is.

        Raises:
            WrongState: ADAPTER_UNSUPPORTED, ADAPTER_UNFIT, ADAPTER_CORRUPT.
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

    def generate(self, request: GenerationRequest, emit: Emit) -> Abort:
        """Queues a request; `emit` gets its events, from another thread, the last one being Done.

        The returned function ends it early: its place is free at the next step, and Done says CANCELLED.

        Raises:
            Exhausted: QUEUE_FULL.
            WrongState: ADAPTER_NOT_LOADED.
            Unavailable: ENGINE_CLOSED.
        """
        ...

    def capacity(self) -> Capacity: ...

    def close(self) -> None:
        """Ends what runs as CANCELLED and frees the memory."""
        ...
