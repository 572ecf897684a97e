"""Linear layers of the hand-written pass, with what the adapters of the selected rows do at them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from feinschliff.inference.engines.pairs import Gathered, PairTables
from feinschliff.inference.engines.parts import Adapter, LinearPart, Part, Side, side_by_side
from feinschliff.inference.engines.products import Product, Products
from feinschliff.lm.kernels import Kernels


@dataclasses.dataclass(frozen=True)
class Place:
    """A product, its module's name, and its number among all."""

    name: str
    number: int
    product: Product


class Linears:
    """The linear layers of one model. What is computed is one token of each selected row, or all tokens of one.

    Args:
        names: of the linear layers.
        wraps: names of modules whose output adapters may change.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        names: Sequence[str],
        wraps: Collection[str],
        kernels: Kernels,
        products: Products,
    ) -> None:
        layers = [cast(nn.Linear, model.get_submodule(name)) for name in names]
        self._places = {
            name: Place(name, number, products.of(layer, kernels))
            for number, (name, layer) in enumerate(zip(names, layers, strict=True))
        }
        self._wraps = frozenset(wraps)
        self._kernels = kernels
        self._adapters: dict[str, Adapter] = {}
        self._tables = PairTables(names)
        self._with_extras: set[str] = set()
        self._extras: dict[str, list[Side]] = {}
        self._rows: tuple[str, ...] | None = None

    def __getitem__(self, name: str) -> Place:
        return self._places[name]

    @property
    def products(self) -> list[Product]:
        return [place.product for place in self._places.values()]

    def takes(self, adapter: Adapter) -> bool:
        """Whether all that an adapter does is done at places that are known here."""
        return all(
            name in (self._places if isinstance(part, LinearPart) else self._wraps)
            for name, part in adapter.parts.items()
        )

    def add(self, digest: str, adapter: Adapter) -> None:
        self._adapters[digest] = adapter
        self._tables.add(digest, adapter)
        if _without_pairs(adapter):
            self._with_extras.add(digest)

    def remove(self, digest: str) -> None:
        self._adapters.pop(digest, None)
        self._tables.remove(digest)
        self._with_extras.discard(digest)
        self._rows = None

    def adapter(self, digest: str) -> Adapter | None:
        return self._adapters.get(digest)

    def select(self, rows: Sequence[str]) -> None:
        """From now on row i gets the adapter `rows[i]`, or none where that is empty."""
        if tuple(rows) == self._rows:
            return
        self._rows = None  # a selection that fails is none
        self._tables.select(rows)
        beside: dict[tuple[str, Any], dict[str, Part]] = {}
        for digest in dict.fromkeys(rows):
            for name, part in _without_pairs(self._adapters.get(digest)):
                kind = None if isinstance(part, LinearPart) else part.activation
                beside.setdefault((name, kind), {})[digest] = part
        self._extras = {}
        for (name, _), parts in beside.items():
            self._extras.setdefault(name, []).append(side_by_side(parts, rows))
        self._rows = tuple(rows)

    @property
    def pairs(self) -> Gathered | None:
        """All that the adapters of the selected rows do, one token of each; None where no row has an adapter."""
        return self._tables.all

    def are_pairs(self, rows: Sequence[str]) -> bool:
        """Whether none of these adapters does more than pairs do."""
        return self._with_extras.isdisjoint(rows)

    @property
    def has_extras(self) -> bool:
        """Whether any adapter of the selected rows does more than pairs do."""
        return bool(self._extras)

    def through(self, place: Place, x_NI: Tensor) -> Tensor:
        """The layer's output, (N, out): N rows of one token, or N tokens of one row."""
        extras = self._extras.get(place.name, ())
        for side in extras:
            x_NI = self._as_rows(side.before, x_NI)
        y_NO = place.product(x_NI)
        self._add_pairs(place, x_NI, y_NO)
        for side in extras:
            y_NO = self._as_rows(side.after, x_NI, y_NO)
        return y_NO

    def wrapped(self, name: str, x_NH: Tensor, y_NH: Tensor) -> Tensor:
        """What adapters make of the output of a whole module."""
        for side in self._extras.get(name, ()):
            y_NH = self._as_rows(side.after, x_NH, y_NH)
        return y_NH

    def _add_pairs(self, place: Place, x_NI: Tensor, y_NO: Tensor) -> None:
        assert self._rows is not None
        if len(self._rows) == x_NI.shape[0]:
            if found := self._tables.at(place.number):
                rows, inputs = x_NI.shape
                self._kernels.add_low_rank(x_NI.data_ptr(), y_NO.data_ptr(), *found, rows, inputs, y_NO.shape[1])
            return
        adapter = self._adapters.get(self._rows[0])
        part = adapter.parts.get(place.name) if adapter else None
        if isinstance(part, LinearPart) and part.pair is not None:
            low_NR = F.linear(x_NI.float(), part.pair.a_RI).mul_(part.pair.scale)
            y_NO.copy_(torch.addmm(y_NO.float(), low_NR, part.pair.b_RO))

    def _as_rows(self, act: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        """Sides know rows and tokens, (B, T, N)."""
        assert self._rows is not None
        rows = len(self._rows)
        result = act(*(tensor.view(rows, -1, tensor.shape[-1]) for tensor in tensors))
        return result.reshape(-1, result.shape[-1])


def _without_pairs(adapter: Adapter | None) -> list[tuple[str, Part]]:
    """What an adapter does beside low-rank products, by place."""
    found: list[tuple[str, Part]] = []
    for name, part in adapter.parts.items() if adapter else ():
        if not isinstance(part, LinearPart):
            found.append((name, part))
        elif part.gain_O is not None or part.shift_O is not None or part.input_gain_I is not None:
            found.append((name, dataclasses.replace(part, pair=None)))
    return found
