"""One set of weights with the adapters beside it and the rows that run on it; only for the engine's thread."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from torch import Tensor, nn
from transformers import PreTrainedModel

from feinschliff.inference.engines.adapters import AdapterBank
from feinschliff.inference.engines.decoder import Decoder, PlainDecoder
from feinschliff.inference.engines.drafting import draft
from feinschliff.inference.engines.forward import Forward
from feinschliff.inference.engines.native import NativeDecoder
from feinschliff.inference.engines.parts import Adapter, Opening
from feinschliff.inference.engines.row import Row
from feinschliff.kit.errors import WrongState
from feinschliff.lm.sampling import likeliest


class Deck:
    """The base, or a version with weights of its own. Rows of one deck decode together, in one pass."""

    def __init__(self, model: PreTrainedModel, native: NativeDecoder | None = None) -> None:
        self.model = model
        self.rows: list[Row] = []  # in the order of the decoder's
        self._forward = Forward(model)
        self._bank = AdapterBank(model)
        self._native = native
        self._decoder: Decoder = native or PlainDecoder(self._forward, self._bank)

    @property
    def is_native(self) -> bool:
        """Whether the hand-written pass decodes here."""
        return self._native is not None

    def packed_bytes(self, beside: Deck) -> int:
        """Of weights laid out for the hand-written pass, but for those that another deck has too."""
        mine, others = ({} if deck._native is None else deck._native.packed_bytes for deck in (self, beside))
        return sum(size for product, size in mine.items() if product not in others)

    @property
    def allocated_bytes(self) -> int:
        return self._decoder.allocated_bytes

    def takes(self, adapter: Adapter) -> bool:
        """Whether rows of an adapter can decode here."""
        return self._native is None or self._native.takes(adapter)

    @property
    def adapters(self) -> frozenset[str]:
        return self._bank.digests

    def add(self, digest: str, adapter: Adapter, *, context_tokens: int) -> int:
        """Puts an adapter beside the weights; how many positions its rows have in use before their first token.

        Raises:
            WrongState: ADAPTER_UNFIT where they would leave no room in the context.
        """
        if adapter.vectors_VH is not None:
            self._bank.select([""])
            adapter = dataclasses.replace(adapter, opening=self._forward.read_vectors(adapter.vectors_VH))
        tokens = adapter.opening.tokens if adapter.opening else 0
        if tokens > context_tokens - 2:
            message = f"The adapter begins with {tokens} positions; the context has {context_tokens}."
            raise WrongState("ADAPTER_UNFIT", message, virtual_tokens=tokens, context_tokens=context_tokens)
        self._bank.add(digest, adapter)
        if self._native is not None:
            self._native.add(digest, adapter)
        return tokens

    def remove(self, digest: str) -> None:
        self._bank.remove(digest)
        if self._native is not None:
            self._native.remove(digest)

    def read(self, row: Row, start: int, stop: int) -> Tensor | None:
        """Reads prompt tokens [start, stop) of a row; the logits after the last one, (V,), or None: see `Decoder`."""
        return self._decoder.read(row, start, stop)

    def join(self, row: Row) -> None:
        """From now on a row whose prompt was read decodes with the others."""
        self._decoder.join(row)
        self.rows.append(row)

    def decode(self) -> Tensor:
        """One more token read by every row; the logits after each, (B, V)."""
        return self._decoder.decode(self.rows)

    def can_draft(self, row: Row) -> bool:
        """Whether several tokens of a row can be read in one step with the numbers that each has alone."""
        return self._decoder.can_draft([row])

    def draft(self, tokens_max: int) -> list[list[int]] | None:
        """What each row may say behind its next token, at most so many; None where nothing is worth reading."""
        if not tokens_max or not self._decoder.can_draft(self.rows):
            return None
        return draft(self.rows, tokens_max, fixed=self._decoder.fixed_tokens)

    def decode_drafts(self, drafts: Sequence[Sequence[int]]) -> Tensor:
        """As `decode`, with drafts behind the rows' tokens; see `Decoder`. `hold` must follow."""
        return self._decoder.decode_drafts(self.rows, drafts)

    def hold(self, drafts: Sequence[Sequence[int]], counts: Sequence[int]) -> None:
        """The first so many tokens of each draft are what its row said."""
        self._decoder.hold(counts)
        for row, drafted, held in zip(self.rows, drafts, counts, strict=True):
            if drafted and row.lookup is not None:
                row.lookup.note(len(drafted), held)

    def likeliest(self, logits_BV: Tensor) -> list[int]:
        """As `sampling.likeliest`."""
        return likeliest(logits_BV) if self._native is None else self._native.likeliest(logits_BV)

    def drop_done(self) -> None:
        for place in reversed([place for place, row in enumerate(self.rows) if row.is_done]):
            self._decoder.leave(place)
            self.rows[place] = self.rows[-1]
            self.rows.pop()

    def fit(self) -> None:
        """Gives back room for keys and values that no row needs any more."""
        self._decoder.fit()

    def last_states(self, rows: Sequence[Sequence[int]], digest: str) -> Tensor:
        """Hidden states behind the last token of each text, (B, H), all with the same adapter."""
        self._bank.select([digest] * len(rows))
        return self._forward.last_states(rows, self._bank.opening(digest))

    def turn_to(self, digest: str, *, rows: int) -> Opening | None:
        """From now on the model's own forward is of so many rows with this adapter; what each of them begins with."""
        self._bank.select([digest] * rows)
        return self._bank.opening(digest)

    def close(self) -> None:
        """Takes the hooks off the model, and forgets its weights as they are laid out."""
        self._bank.clear()
        self.rows = []
        self._native, self._decoder = None, PlainDecoder(self._forward, self._bank)


def free(model: nn.Module) -> None:
    """Gives the weights back now, whoever still holds a reference to the model; tensors of other models stay."""
    model.to("meta")
