"""Whose tokens are counted: the tokenizer of a base model, loaded once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from feinschliff.artifacts.bases import resolve
from feinschliff.artifacts.store import Store
from feinschliff.artifacts.tokenizer import load_tokenizer
from feinschliff.ingestion.tokens import Encode, TokenCounter
from feinschliff.kit.errors import Refusal

log = logging.getLogger(__name__)


class Counting(NamedTuple):
    """A counter for one file, and the URI of the base model whose tokenizer it uses."""

    base: str
    counter: TokenCounter


class Tokenizers:
    """Tokenizers by base model; the default one may be missing, one that is asked for may not."""

    def __init__(self, store: Store, cache_dir: Path, default_base: str, *, offline: bool) -> None:
        self._store = store
        self._cache_dir = cache_dir
        self._default_base = default_base
        self._offline = offline

    def counting(self, base: str) -> Counting | None:
        """A counter for one file; None where no base is named and the default cannot be had.

        Raises:
            Refusal: why the named base has no tokenizer here.
        """
        if base:
            return Counting(base, TokenCounter(self._encode(base)))
        if not self._default_base:
            return None
        try:
            return Counting(self._default_base, TokenCounter(self._encode(self._default_base)))
        except Refusal as refusal:
            log.warning("tokens are not counted", extra={"base": self._default_base, "why": str(refusal)})
            return None

    def _encode(self, base: str) -> Encode:
        tokenizer = load_tokenizer(resolve(base, self._store, self._cache_dir, offline=self._offline))

        def encode(texts: Sequence[str]) -> list[int]:
            return [len(encoding) for encoding in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

        return encode
