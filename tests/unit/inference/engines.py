"""An engine by hand: it loads nothing and says what a test tells it to."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

from feinschliff.artifacts.bases import BaseFiles
from feinschliff.formats.heads import HeadFacts
from feinschliff.formats.records import Message
from feinschliff.inference.engine import Abort, Capacity, Emit, EngineFacts, GenerationRequest, Grammar, Tools
from feinschliff.inference.forms import Form
from feinschliff.inference.life import Version
from feinschliff.inference.pool import BaseKey, Located, Source
from feinschliff.inference.scores import AnswerTokens, ScoringRequest, TokenScore
from tests.unit.inference.builders import DIGEST


class HandEngine:
    """Remembers its adapters."""

    def __init__(self, digest: str = DIGEST) -> None:
        self.facts = EngineFacts("file:/base", digest, "fp32", "sha256:template", 512, 300, dimensions=(8,))
        self.loaded: set[str] = set()
        self.bytes: dict[str, int] = {}
        self.is_closed = False
        self.is_up = True
        self.errors: list[Exception] = []  # of loading adapters

    def encode_chat(
        self, messages: Sequence[Message], tools: Tools | None = None, add_generation_prompt: bool = True
    ) -> list[int]:
        return [1]

    def render_chat(
        self, messages: Sequence[Message], tools: Tools | None = None, add_generation_prompt: bool = True
    ) -> str:
        return ""

    def encode_answer(self, messages: Sequence[Message]) -> AnswerTokens:
        return AnswerTokens([1, 1], 1)

    def encode_text(self, text: str) -> list[int]:
        return [1]

    def encode_plain(self, texts: Sequence[str]) -> list[list[int]]:
        return [[1] for _ in texts]

    def encode_pieces(self, pieces: Sequence[str]) -> list[list[int]]:
        return [[1] for _ in pieces]

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        return ""

    def load_adapter(self, digest: str, folder: Path) -> None:
        if self.errors:
            raise self.errors.pop()
        self.loaded.add(digest)

    def unload_adapter(self, digest: str) -> None:
        self.loaded.discard(digest)

    def adapters(self) -> frozenset[str]:
        return frozenset(self.loaded)

    def adapter_bytes(self, digest: str) -> int:
        return self.bytes.get(digest, 100) if digest in self.loaded else 0

    def virtual_tokens(self, digest: str) -> int:
        return 0

    def grammar(self, form: Form) -> Grammar:
        raise AssertionError("nobody asks for a form here")

    def head(self, digest: str) -> HeadFacts | None:
        return None

    def encode_for_head(self, texts: Sequence[str], facts: HeadFacts) -> list[list[int]]:
        return [[1] for _ in texts]

    def judge(self, rows: Sequence[Sequence[int]], digest: str) -> list[list[float]]:
        raise NotImplementedError

    def embed(self, rows: Sequence[Sequence[int]], digest: str, dimensions: int) -> list[list[float]]:
        raise NotImplementedError

    def score(self, request: ScoringRequest) -> Future[list[TokenScore]]:
        raise NotImplementedError

    def generate(self, request: GenerationRequest, emit: Emit) -> Abort:
        raise NotImplementedError

    def capacity(self) -> Capacity:
        return Capacity(4, 0, 0, queue_max=8, kv_cache_bytes=0, kv_cache_bytes_max=0, is_up=self.is_up)

    def close(self) -> None:
        self.is_closed = True


class HandLoader:
    """Gives engines by hand; `gate` holds loading back, `errors` makes it fail as often as there are any."""

    def __init__(self) -> None:
        self.engines: list[HandEngine] = []
        self.fetched: list[str] = []
        self.errors: list[Exception] = []
        self.gate = threading.Event()
        self.gate.set()

    def locate(self, source: Source) -> Located:
        return Located(
            BaseFiles(source.uri, DIGEST, "folder", Path("/base")), BaseKey(DIGEST, source.precision, source.engine)
        )

    def load(self, located: Located) -> HandEngine:
        assert self.gate.wait(10)
        if self.errors:
            raise self.errors.pop()
        self.engines.append(HandEngine())
        return self.engines[-1]

    @contextmanager
    def fetch(self, version: Version) -> Iterator[Path]:
        assert self.gate.wait(10)
        if self.errors:
            raise self.errors.pop()
        self.fetched.append(version.adapter_digest)
        yield Path("/adapter")
