"""Adapters beside a frozen base, many at once and of several kinds: hooks add to each row what is its own.

The adapters in use are laid side by side: x A is computed for all of them in one product, the columns of foreign
adapters are multiplied by zero, and one product with B follows. Weights are never merged into the base.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from feinschliff.inference.engines.parts import Adapter, LinearPart, Opening, Part, Side, side_by_side


class _Place(NamedTuple):
    """A module, and what happens at it; parts of different kinds never mix, and what no adapter needs costs nothing."""

    module: str
    kind: Hashable


_INPUT, _OUTPUT = "input", "output"


class AdapterBank:
    """The loaded adapters of one model; hooks add the selected ones. Only for the thread that runs the model."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._adapters: dict[str, Adapter] = {}
        self._hooks: dict[_Place, RemovableHandle] = {}
        self._rows: tuple[str, ...] = ()
        self._sides: dict[_Place, Side] = {}

    def __contains__(self, digest: str) -> bool:
        return digest in self._adapters

    @property
    def digests(self) -> frozenset[str]:
        return frozenset(self._adapters)

    def add(self, digest: str, adapter: Adapter) -> None:
        if digest in self._adapters:
            return
        self._adapters[digest] = adapter
        for place in _places(adapter):
            if place not in self._hooks:
                self._hooks[place] = self._hook(place)

    def remove(self, digest: str) -> None:
        self._adapters.pop(digest, None)
        needed = {place for adapter in self._adapters.values() for place in _places(adapter)}
        for place in self._hooks.keys() - needed:
            self._hooks.pop(place).remove()
        self._rows, self._sides = (), {}

    def clear(self) -> None:
        for digest in self.digests:
            self.remove(digest)

    def opening(self, digest: str) -> Opening | None:
        """What rows of this adapter begin with."""
        return self._adapters[digest].opening if digest else None

    def select(self, rows: Sequence[str]) -> None:
        """From now on row i of the batch gets the adapter `rows[i]`, or none where that is empty."""
        if tuple(rows) == self._rows:
            return
        in_use: dict[_Place, dict[str, Part]] = {}
        for digest in dict.fromkeys(rows):
            if digest:
                adapter = self._adapters[digest]
                for place in _places(adapter):
                    in_use.setdefault(place, {})[digest] = adapter.parts[place.module]
        self._sides = {place: side_by_side(parts, rows) for place, parts in in_use.items()}
        self._rows = tuple(rows)  # last: a selection that failed is none

    def _hook(self, place: _Place) -> RemovableHandle:
        def before(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
            side = self._sides.get(place)
            return None if side is None else (side.before(args[0]), *args[1:])

        def after(_: nn.Module, args: tuple[Tensor, ...], output: Any) -> Any:
            side = self._sides.get(place)
            if side is None:
                return None
            if isinstance(output, tuple):  # attention gives its weights too, and is called by keywords
                return (side.after(output[0], output[0]), *output[1:])
            return side.after(args[0] if args else output, output)

        module = self._model.get_submodule(place.module)
        return module.register_forward_pre_hook(before) if place.kind == _INPUT else module.register_forward_hook(after)


def _places(adapter: Adapter) -> Iterator[_Place]:
    for module, part in adapter.parts.items():
        if not isinstance(part, LinearPart):
            yield _Place(module, part.activation)
            continue
        if part.input_gain_I is not None:
            yield _Place(module, _INPUT)
        if part.pair is not None or part.gain_O is not None:
            yield _Place(module, _OUTPUT)
