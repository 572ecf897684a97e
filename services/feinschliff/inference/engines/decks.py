"""Which weights an adapter runs on: the base's, shared with many, or weights of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

from transformers import PreTrainedModel

from feinschliff.formats.adaptations import Qlora
from feinschliff.inference.engines.cache import kv_bytes_per_position
from feinschliff.inference.engines.deck import Deck, free
from feinschliff.inference.engines.native import NativeDecoder
from feinschliff.inference.engines.packed import layers_in_bytes
from feinschliff.inference.engines.parts import Adapter
from feinschliff.inference.engines.prefixes import PrefixCache
from feinschliff.inference.engines.products import Products
from feinschliff.inference.engines.reading import read_adapter, unfit
from feinschliff.inference.engines.row import Row
from feinschliff.inference.engines.sizes import bytes_of
from feinschliff.inference.engines.weights import as_quantised, shell_of, with_own_weights
from feinschliff.kit.errors import Internal, WrongState
from feinschliff.lm import heads
from feinschliff.lm.adaptations.saved import kind_of, read_settings
from feinschliff.lm.kernels import Kernels
from feinschliff.lm.quantised import Quantisation

_BASE = ""
_PLAIN = "plain"  # the base's weights, and the model's own forward pass
_OWN_WEIGHTS = ("full", "last_layers")
_MODEL_CONFIG = "config.json"


@dataclasses.dataclass(frozen=True)
class _Home:
    """Where the rows of an adapter run, the positions they have in use before their first token, and their head.

    Attributes:
        bytes: memory of its own, the deck's weights not among it.
    """

    deck: str
    virtual_tokens: int = 0
    head: heads.Head | None = None
    bytes: int = 0


class Decks:
    """All weights of one engine, each with its rows. Changed between two steps only; `prepare` may run beside them."""

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        context_tokens: int,
        kernels: Kernels | None = None,
        prefix_cache_bytes_max: int = 0,
    ) -> None:
        self._plain = shell_of(model)  # never run, so that its copies have no hooks
        self._kernels = kernels
        self._products = Products()
        self.prefixes = PrefixCache(prefix_cache_bytes_max)
        self._decks: dict[str, Deck] = {_BASE: self._deck(model)}
        self._homes: dict[str, _Home] = {}
        self._deck_bytes: dict[str, int] = {_BASE: 0}  # beside the base's
        self._context_tokens = context_tokens

    def __iter__(self) -> Iterator[Deck]:
        return iter(self._decks.values())

    def __contains__(self, digest: str) -> bool:
        return digest in self._homes

    @property
    def digests(self) -> frozenset[str]:
        return frozenset(self._homes)

    @property
    def is_native(self) -> bool:
        """Whether the hand-written pass decodes for the base and most that is beside it."""
        return self._decks[_BASE].is_native

    @property
    def allocated_bytes(self) -> int:
        return sum(deck.allocated_bytes for deck in list(self._decks.values()))

    def keep_within(self, bytes_max: int) -> None:
        """One bound holds for all caches: the room that rows of one deck left is given back for those of another."""
        if sum(bool(deck.rows) for deck in self) > 1 and self.allocated_bytes > bytes_max:
            for deck in self:
                deck.fit()

    def of(self, row: Row) -> Deck:
        return self.holding(row.request.adapter_digest)

    def holding(self, digest: str) -> Deck:
        """The weights that an adapter is beside; the base for none."""
        return self._decks[self._homes[digest].deck if digest else _BASE]

    def virtual_tokens(self, digest: str) -> int:
        """Positions of the context that rows of this adapter have in use before their first token."""
        home = self._homes.get(digest)
        return home.virtual_tokens if home else 0

    def adapter_bytes(self, digest: str) -> int:
        """Memory of an adapter, and its part of weights beside the base's that its deck needs; 0 if it is not there."""
        home = self._homes.get(digest)
        if home is None:
            return 0
        neighbours = sum(one.deck == home.deck for one in list(self._homes.values()))
        return home.bytes + self._deck_bytes.get(home.deck, 0) // max(1, neighbours)

    def head(self, digest: str) -> heads.Head | None:
        """What judges the last token of a text in place of the next token; None where the adapter has none."""
        home = self._homes.get(digest)
        return home.head if home else None

    def judge(self, rows: Sequence[Sequence[int]], digest: str) -> list[list[float]]:
        """What the adapter's head says of each text: a probability for each class, or one number.

        Raises:
            Internal: GENERATION_FAILED for numbers that are not finite.
        """
        head = self._homes[digest].head
        assert head is not None, "who asks has looked for a head"
        scores_NC = head(self.holding(digest).last_states(rows, digest))
        if not bool(scores_NC.isfinite().all()):
            message = "The engine failed on the way: the model's numbers are not finite."
            raise Internal("GENERATION_FAILED", message, adapter=digest)
        if head.facts.kind == "regress":
            return [[number] for number in head.values(scores_NC).tolist()]
        return cast(list[list[float]], head.logprobs(scores_NC).double().exp().tolist())

    def prepare(self, digest: str, folder: Path) -> Callable[[], None]:
        """Reads what a folder holds; what is given back puts it into use.

        Raises:
            WrongState: ADAPTER_UNSUPPORTED, ADAPTER_UNFIT, ADAPTER_CORRUPT.
        """
        kind, head = _kind(folder), _head(folder, self._plain)
        if kind in _OWN_WEIGHTS:
            own = self._deck(with_own_weights(shell_of(self._plain), folder, kind))
            return lambda: self._add(digest, Adapter(), head, digest, lambda: own)
        adapter = read_adapter(folder, self._plain)
        if kind != "qlora":
            name = _BASE if self._decks[_BASE].takes(adapter) else _PLAIN
            return lambda: self._add(digest, adapter, head, name, lambda: Deck(shell_of(self._plain)))
        settings = read_settings(folder, Qlora)
        quantisation = Quantisation(settings.quantisation, settings.double_quantisation)
        if quantisation.kind == "int8" and any(layers_in_bytes(self._plain)):
            return lambda: self._add(digest, adapter, head, _BASE, lambda: self._decks[_BASE])
        name = f"{quantisation.kind}{' double' if quantisation.double else ''}"
        made = None if name in self._decks else self._quantised(quantisation)
        return lambda: self._add(digest, adapter, head, name, lambda: made or self._quantised(quantisation))

    def remove(self, digest: str) -> None:
        """Takes an adapter out; weights that nobody runs on any more are freed. One that is not there is ignored."""
        home = self._homes.pop(digest, None)
        if home is None:
            return
        self.prefixes.drop(digest)
        deck = self._decks[home.deck]
        deck.remove(digest)
        if home.deck != _BASE and not deck.adapters:
            del self._decks[home.deck], self._deck_bytes[home.deck]
            free(deck.model)

    def close(self) -> None:
        self._homes.clear()
        self.prefixes.clear()
        for deck in self._decks.values():
            deck.close()
            free(deck.model)
        self._decks.clear()
        free(self._plain)

    def _quantised(self, quantisation: Quantisation) -> Deck:
        return self._deck(as_quantised(shell_of(self._plain), quantisation))

    def _deck(self, model: PreTrainedModel) -> Deck:
        return Deck(model, NativeDecoder.of(model, self._kernels, self._products, self.prefixes))

    def _add(self, digest: str, adapter: Adapter, head: heads.Head | None, name: str, make: Callable[[], Deck]) -> None:
        if digest in self._homes:
            return
        deck = self._decks.get(name) or make()
        tokens = deck.add(digest, adapter, context_tokens=self._context_tokens)
        if name not in self._decks:
            packed = deck.packed_bytes(beside=self._decks[_BASE])
            self._deck_bytes[name] = bytes_of(deck.model, beside=self._plain) + packed
        self._decks[name] = deck
        config = self._plain.config.get_text_config()
        opening = 0 if adapter.opening is not None else tokens * kv_bytes_per_position(config, self._plain.dtype)
        own = bytes_of([adapter, None if head is None else head.weight_CH])
        self._homes[digest] = _Home(name, tokens, head, own + opening)


def _kind(folder: Path) -> str:
    """The adaptation that wrote a folder; an imported model that says nothing is a whole one."""
    found = kind_of(folder)
    return "full" if found == "unknown" and (folder / _MODEL_CONFIG).is_file() else found


def _head(folder: Path, model: PreTrainedModel) -> heads.Head | None:
    if heads.read_facts(folder) is None:
        return None
    head = heads.load(folder).to(model.device).requires_grad_(False)
    wanted = (head.facts.outputs, int(model.config.get_text_config().hidden_size))
    if tuple(head.weight_CH.shape) != wanted:
        raise unfit(f"The head is {tuple(head.weight_CH.shape)}; the base takes {wanted}.", head=head.facts.kind)
    if not bool(head.weight_CH.isfinite().all()):
        raise WrongState("ADAPTER_CORRUPT", "The head's numbers are not finite.", head=head.facts.kind)
    return head
