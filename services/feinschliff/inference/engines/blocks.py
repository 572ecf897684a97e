"""Where the keys and values of one row lie, and the angles by which positions turn them."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

_TABLE_STEP = 1024  # positions


@dataclasses.dataclass
class Block:
    """Keys and values of one row: (layers, 2, groups, capacity, size)."""

    tensor: Tensor
    length: int = 0

    @property
    def capacity(self) -> int:
        return self.tensor.shape[3]


class Angles:
    """Cosines and sines of every position so far asked for, (positions, size) each, in fp32."""

    def __init__(self, rotary: nn.Module) -> None:
        self._rotary = rotary
        self._grow(_TABLE_STEP)

    def reach(self, positions: int) -> None:
        if positions > self.cosines.shape[0]:
            self._grow(max(-(-positions // _TABLE_STEP) * _TABLE_STEP, 2 * self.cosines.shape[0]))

    def _grow(self, positions: int) -> None:
        at_1T = torch.arange(positions)[None]
        cosines, sines = self._rotary(torch.empty(1, dtype=torch.float32), at_1T)
        self.cosines, self.sines = cosines[0].contiguous(), sines[0].contiguous()
