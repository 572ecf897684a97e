"""How rows of one deck are read and go on: what every way of it does, and the way through the model's own pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor
from transformers.cache_utils import DynamicCache

from feinschliff.inference.engines.adapters import AdapterBank
from feinschliff.inference.engines.cache import BatchCache
from feinschliff.inference.engines.forward import Forward, cache_with
from feinschliff.inference.engines.row import Row


class Decoder(Protocol):
    """Keeps the keys and values of its rows. What a row gets does not depend on the others."""

    @property
    def allocated_bytes(self) -> int:
        """Of the caches of the rows that joined."""
        ...

    def read(self, row: Row, start: int, stop: int) -> Tensor | None:
        """Reads prompt tokens [start, stop) of a row; the logits after the last one, (V,).

        None where all were known from another prompt; the last token of a prompt never is.
        """
        ...

    def join(self, row: Row) -> None:
        """From now on a row whose prompt was read is the last of those that decode."""
        ...

    def leave(self, place: int) -> None:
        """Forgets a row; the last one takes its place."""
        ...

    def decode(self, rows: Sequence[Row]) -> Tensor:
        """One more token read by every row that joined, in their order; the logits after each, (B, V)."""
        ...

    @property
    def fixed_tokens(self) -> float:
        """What a step costs beside its tokens; see `drafting.fixed_tokens`."""
        ...

    def can_draft(self, rows: Sequence[Row]) -> bool:
        """Whether `decode_drafts` can be asked of all rows that joined."""
        ...

    def decode_drafts(self, rows: Sequence[Row], drafts: Sequence[Sequence[int]]) -> Tensor:
        """As `decode`, with each row's draft read behind its token; the logits after each, (B + drafted, V).

        Those behind what a row really says are the same bits as without drafts. `hold` must follow.
        """
        ...

    def hold(self, counts: Sequence[int]) -> None:
        """Of what was drafted for each row last, the first so many tokens are what it said; the rest was never read."""
        ...

    def fit(self) -> None:
        """Gives back room that no row needs any more."""
        ...


class PlainDecoder:
    """The model's own forward pass, whatever the model is; adapters are its hooks."""

    def __init__(self, forward: Forward, bank: AdapterBank) -> None:
        self._forward = forward
        self._bank = bank
        self._cache = BatchCache()

    @property
    def allocated_bytes(self) -> int:
        return self._cache.allocated_bytes

    def read(self, row: Row, start: int, stop: int) -> Tensor | None:
        digest = row.request.adapter_digest
        if start == 0:
            row.cache = cache_with(self._bank.opening(digest))
        assert isinstance(row.cache, DynamicCache)
        self._bank.select([digest])
        return self._forward.prefill(row.request.prompt_ids[start:stop], row.cache)

    def join(self, row: Row) -> None:
        assert isinstance(row.cache, DynamicCache)
        self._cache.join(row.cache)
        row.cache = None  # it lies in the batch's cache now

    def leave(self, place: int) -> None:
        self._cache.leave(place)

    def decode(self, rows: Sequence[Row]) -> Tensor:
        self._bank.select([row.request.adapter_digest for row in rows])
        return self._forward.decode([row.last_token for row in rows], self._cache)

    @property
    def fixed_tokens(self) -> float:
        return 0.0

    def can_draft(self, rows: Sequence[Row]) -> bool:
        return False

    def decode_drafts(self, rows: Sequence[Row], drafts: Sequence[Sequence[int]]) -> Tensor:
        raise NotImplementedError("nobody drafts where `can_draft` says no")

    def hold(self, counts: Sequence[int]) -> None:
        raise NotImplementedError("nobody drafts where `can_draft` says no")

    def fit(self) -> None:
        self._cache.fit()
