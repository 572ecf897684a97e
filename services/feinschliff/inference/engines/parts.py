"""What adapters do at the places of a model: the numbers of each, and those of a whole batch side by side.

Each row of a batch gets its own adapter and nothing of the others: low-rank and inner columns of foreign adapters are
multiplied by zero, and gains of foreign rows are one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Pair(NamedTuple):
    """A (rank, in) and B, turned (rank, out), beside one linear layer, in fp32 and each in one piece, and a factor."""

    a_RI: Tensor
    b_RO: Tensor
    scale: float


@dataclass(frozen=True)
class LinearPart:
    """At a linear layer: gain * ((x * input_gain) W' + b + scale (x A') B') + shift; what is absent is neutral.

    LoRA has the pair alone; DoRA (Liu et al. 2024, arXiv:2402.09353) has gain m / |W + scale B A|, a norm per output,
    and shift (1 - gain) b, for its magnitude does not scale the bias; IA3 (Liu et al. 2022, arXiv:2205.05638) has one
    of the gains alone. All in fp32.
    """

    pair: Pair | None = None
    gain_O: Tensor | None = None
    shift_O: Tensor | None = None
    input_gain_I: Tensor | None = None


@dataclass(frozen=True)
class BottleneckPart:
    """Behind a module that gives h: h + activation(h D' + d) U' + u; all in fp32."""

    down_RH: Tensor
    down_bias_R: Tensor
    up_HR: Tensor
    up_bias_H: Tensor
    activation: Callable[[Tensor], Tensor]


Part = LinearPart | BottleneckPart


class Opening(NamedTuple):
    """Keys and values that stand before everything a row reads: for each layer (1, heads, V, head size)."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @property
    def tokens(self) -> int:
        return self.keys[0].shape[2]


@dataclass(frozen=True)
class Adapter:
    """One adapter: what it does at which module, and what its rows begin with.

    Args:
        vectors_VH: learned inputs before the first token; as an opening once a model has read them.
    """

    parts: Mapping[str, Part] = field(default_factory=dict)
    opening: Opening | None = None
    vectors_VH: Tensor | None = None


class Side(Protocol):
    """The adapters in use at one place, for the rows of the batch at present."""

    def before(self, x_BTI: Tensor) -> Tensor:
        """What the module gets instead of its input."""
        ...

    def after(self, x_BTI: Tensor, output_BTO: Tensor) -> Tensor:
        """What comes out instead of the module's output; `x_BTI` is what the module got."""
        ...


def side_by_side(parts: Mapping[str, Part], rows: Sequence[str]) -> Side:
    """Parts of one place and one kind, by adapter; row i of the batch gets that of `rows[i]` or none."""
    linear = {digest: part for digest, part in parts.items() if isinstance(part, LinearPart)}
    if linear:
        return _linear_side(linear, rows)
    return _bottleneck_side({d: part for d, part in parts.items() if isinstance(part, BottleneckPart)}, rows)


@dataclass(frozen=True)
class _LowRank:
    """Pairs side by side; `scale_B1R` is 0 where a column is another row's."""

    a_RI: Tensor
    b_RO: Tensor
    scale_B1R: Tensor

    def __call__(self, x_BTI: Tensor) -> Tensor:
        low_BTR = F.linear(x_BTI.to(self.a_RI.dtype), self.a_RI) * self.scale_B1R
        return low_BTR @ self.b_RO


@dataclass(frozen=True)
class _LinearSide:
    """Gains are 1 and shifts 0 where a row has none."""

    low_rank: _LowRank | None
    gain_B1O: Tensor | None
    shift_B1O: Tensor | None
    input_gain_B1I: Tensor | None

    def before(self, x_BTI: Tensor) -> Tensor:
        return x_BTI if self.input_gain_B1I is None else (x_BTI * self.input_gain_B1I).to(x_BTI.dtype)

    def after(self, x_BTI: Tensor, output_BTO: Tensor) -> Tensor:
        y_BTO = output_BTO if self.low_rank is None else output_BTO + self.low_rank(x_BTI)
        if self.gain_B1O is not None:
            y_BTO = y_BTO * self.gain_B1O
        if self.shift_B1O is not None:
            y_BTO = y_BTO + self.shift_B1O
        return y_BTO.to(output_BTO.dtype)


@dataclass(frozen=True)
class _BottleneckSide:
    """As for linear layers: inner columns side by side, `owned_B1R` is 0 where a column is another row's."""

    down_RH: Tensor
    down_bias_R: Tensor
    up_HR: Tensor
    up_bias_B1H: Tensor
    owned_B1R: Tensor
    activation: Callable[[Tensor], Tensor]

    def before(self, x_BTI: Tensor) -> Tensor:
        return x_BTI

    def after(self, x_BTI: Tensor, output_BTO: Tensor) -> Tensor:
        h_BTH = output_BTO.to(self.down_RH.dtype)
        inner_BTR = self.activation(F.linear(h_BTH, self.down_RH, self.down_bias_R)) * self.owned_B1R
        return (output_BTO + F.linear(inner_BTR, self.up_HR) + self.up_bias_B1H).to(output_BTO.dtype)


def _linear_side(parts: Mapping[str, LinearPart], rows: Sequence[str]) -> Side:
    return _LinearSide(
        _low_rank({digest: part.pair for digest, part in parts.items() if part.pair is not None}, rows),
        _by_row({digest: part.gain_O for digest, part in parts.items()}, rows, neutral=1.0),
        _by_row({digest: part.shift_O for digest, part in parts.items()}, rows, neutral=0.0),
        _by_row({digest: part.input_gain_I for digest, part in parts.items()}, rows, neutral=1.0),
    )


def _low_rank(pairs: Mapping[str, Pair], rows: Sequence[str]) -> _LowRank | None:
    if not pairs:
        return None
    factors = {digest: pair.scale for digest, pair in pairs.items()}
    scale_B1R = _owned({digest: pair.a_RI for digest, pair in pairs.items()}, rows, factors)
    if len(pairs) == 1:
        (only,) = pairs.values()
        return _LowRank(only.a_RI, only.b_RO, scale_B1R)
    a_RI = torch.cat([pair.a_RI for pair in pairs.values()])
    b_RO = torch.cat([pair.b_RO for pair in pairs.values()])
    return _LowRank(a_RI, b_RO, scale_B1R)


def _bottleneck_side(parts: Mapping[str, BottleneckPart], rows: Sequence[str]) -> Side:
    """All of one activation; the reader gives each activation a place of its own."""
    up_bias_B1H = _by_row({digest: part.up_bias_H for digest, part in parts.items()}, rows, neutral=0.0)
    assert up_bias_B1H is not None
    return _BottleneckSide(
        down_RH=torch.cat([part.down_RH for part in parts.values()]),
        down_bias_R=torch.cat([part.down_bias_R for part in parts.values()]),
        up_HR=torch.cat([part.up_HR for part in parts.values()], dim=1),
        up_bias_B1H=up_bias_B1H,
        owned_B1R=_owned({digest: part.down_RH for digest, part in parts.items()}, rows, dict.fromkeys(parts, 1.0)),
        activation=next(iter(parts.values())).activation,
    )


def _owned(columns: Mapping[str, Tensor], rows: Sequence[str], factors: Mapping[str, float]) -> Tensor:
    """For each row its own factor at its own columns, and 0 at all others; (B, 1, R)."""
    blocks = tuple((digest, tensor.shape[0], factors[digest]) for digest, tensor in columns.items())
    return _table(blocks, tuple(rows), next(iter(columns.values())).device)


@lru_cache(maxsize=64)
def _table(blocks: tuple[tuple[str, int, float], ...], rows: tuple[str, ...], device: torch.device) -> Tensor:
    """The same for all places where the adapters have the same ranks, so it is made once for a batch."""
    owners = [(digest, factor) for digest, columns, factor in blocks for _ in range(columns)]
    table = [[[factor if digest == row else 0.0 for digest, factor in owners]] for row in rows]
    return torch.tensor(table, dtype=torch.float32, device=device)


def _by_row(vectors: Mapping[str, Tensor | None], rows: Sequence[str], *, neutral: float) -> Tensor | None:
    """Each row's own vector, (B, 1, N); None where no row has one."""
    given = {digest: vector for digest, vector in vectors.items() if vector is not None}
    if not given:
        return None
    none = torch.full_like(next(iter(given.values())), neutral)
    return torch.stack([given.get(row, none) for row in rows])[:, None]
