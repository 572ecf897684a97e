"""Attention keys and values of the rows that decode together, and the mask that keeps each row to its own."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache, DynamicCache

from feinschliff.kit.errors import WrongState

_CAPACITY_STEP = 256  # positions; growing copies the whole cache, so it grows seldom
_ATTENTION_KINDS = {"full_attention", "sliding_attention"}


class BatchCache(Cache):
    """One rectangle per layer, [rows, heads, positions, head size]; row i holds `lengths[i]` positions.

    A row that leaves is replaced by the last one, so that the rows in use are always the first ones. Positions that
    a row does not use hold zeros or finite leftovers of its own, never another row's.
    """

    def __init__(self) -> None:
        super().__init__(layers=[])
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self._rows_B = torch.empty(0, dtype=torch.long)
        self.positions_B = torch.empty(0, dtype=torch.long)
        self.lengths: list[int] = []

    @property
    def allocated_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in (*self._keys, *self._values))

    def join(self, prefilled: DynamicCache) -> None:
        """Adds a row behind the others with the keys and values of a prompt that was read alone."""
        row, length = len(self.lengths), prefilled.get_seq_length()
        keys, values = parts_of(prefilled, "keys"), parts_of(prefilled, "values")
        if not self._keys:
            self._keys, self._values = (
                [_zeros_like(one, row + 1, length + 1) for one in side] for side in (keys, values)
            )
        self._grow(row + 1, length + 1)
        for target, source in zip((*self._keys, *self._values), (*keys, *values), strict=True):
            target[row, :, :length] = source[0]
            target[row, :, length:] = 0
        self.lengths.append(length)

    def leave(self, row: int) -> None:
        """Removes a row and moves the last one into its place; the last to leave frees the memory."""
        last = len(self.lengths) - 1
        if row != last:
            for tensor in (*self._keys, *self._values):
                tensor[row] = tensor[last]
            self.lengths[row] = self.lengths[last]
        self.lengths.pop()
        if not self.lengths:
            self._keys, self._values = [], []

    def fit(self) -> None:
        """Gives back the room of rows that left, and of positions that no row that is left needs."""
        if not self.lengths:
            return
        rows, _, positions, _ = self._keys[0].shape
        used_rows, used_positions = len(self.lengths), max(self.lengths) + 1
        if (rows, positions) != (used_rows, _stepped(used_positions)):
            self._resize(used_rows, used_positions)

    def begin_step(self) -> None:
        """Makes room for one more position in every row."""
        self._grow(len(self.lengths), max(self.lengths) + 1)
        device = self._keys[0].device
        self.positions_B = torch.tensor(self.lengths, device=device)
        self._rows_B = torch.arange(len(self.lengths), device=device)

    def end_step(self) -> None:
        self.lengths = [length + 1 for length in self.lengths]

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Stores one new position of every row; gives back all rows as far as the longest."""
        rows, used = len(self.lengths), max(self.lengths) + 1
        keys, values = self._keys[layer_idx], self._values[layer_idx]
        keys[self._rows_B, :, self.positions_B] = key_states[:, :, 0]
        values[self._rows_B, :, self.positions_B] = value_states[:, :, 0]
        return keys[:rows, :, :used], values[:rows, :, :used]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return max(self.lengths, default=0)

    def _grow(self, rows: int, positions: int) -> None:
        """Makes it as large as it must be, and no larger: rows that left give their place back."""
        have_rows, _, have_positions, _ = self._keys[0].shape
        if rows <= have_rows and positions <= have_positions:
            return
        self._resize(max(rows, len(self.lengths)), max(positions, *self.lengths, 0))

    def _resize(self, rows: int, positions: int) -> None:
        used_rows, used_positions = len(self.lengths), max(self.lengths, default=0)

        def resized(old: Tensor) -> Tensor:
            new = _zeros_like(old, rows, positions)
            new[:used_rows, :, :used_positions] = old[:used_rows, :, :used_positions]
            return new

        self._keys, self._values = [resized(old) for old in self._keys], [resized(old) for old in self._values]


class MaskMaker:
    """The attention mask of a decode step, in the form that the model takes: one, or one per kind of layer."""

    def __init__(self, config: PreTrainedConfig) -> None:
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        if unknown := kinds - _ATTENTION_KINDS:
            raise WrongState(
                "BASE_MODEL_UNSUPPORTED",
                f"This engine serves plain and sliding attention; the base has {', '.join(sorted(unknown))}.",
                layer_types=",".join(sorted(unknown)),
            )
        self._window: int | None = getattr(config, "sliding_window", None)
        self._is_mixed = kinds == _ATTENTION_KINDS
        declared = getattr(config, "layer_types", None) is not None
        self._slides_everywhere = self._window is not None and (kinds == {"sliding_attention"} or not declared)

    def __call__(self, positions_B: Tensor) -> Tensor | dict[str, Tensor]:
        """Row i sees the positions 0 to `positions_B[i]`; True is seen; (B, 1, 1, T)."""
        at_T = torch.arange(int(positions_B.max()) + 1, device=positions_B.device)
        seen_BT = at_T <= positions_B[:, None]
        near_BT = seen_BT
        if self._window is not None:
            near_BT = seen_BT & (at_T > positions_B[:, None] - self._window)
        full, sliding = seen_BT[:, None, None], near_BT[:, None, None]
        if self._is_mixed:
            return {"full_attention": full, "sliding_attention": sliding}
        return sliding if self._slides_everywhere else full


def kv_bytes_per_position(config: PreTrainedConfig, dtype: torch.dtype) -> int:
    """Bytes of keys and values that one position of one row takes, over all layers."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * int(config.num_hidden_layers) * int(heads) * int(head_size) * dtype.itemsize


def parts_of(cache: DynamicCache, side: Literal["keys", "values"]) -> list[Tensor]:
    """The tensor of every layer, (1, heads, positions, head size)."""
    return [getattr(layer, side) for layer in cache.layers]


def _zeros_like(tensor: Tensor, rows: int, positions: int) -> Tensor:
    """Room for so many rows and at least so many positions."""
    _, heads, _, size = tensor.shape
    return tensor.new_zeros(rows, heads, _stepped(positions), size)


def _stepped(positions: int) -> int:
    return -(-positions // _CAPACITY_STEP) * _CAPACITY_STEP
