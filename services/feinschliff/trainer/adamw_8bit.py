"""AdamW whose memory lies in 8 bits, with one scale for each block of 256 numbers, on any device."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK_NUMBERS = 256
NUMBERS_MIN = 4096
"""Smaller weights keep fp32: they cost next to nothing, and norms and biases are sensitive."""

CHUNK_NUMBERS = 2**18
"""Widened at a time: whole blocks, few enough for the processor's cache, so that a step needs no memory to speak of."""

DECADES = 7


class AdamW8bit(torch.optim.Optimizer):
    """AdamW with both running means in 8 bits by blocks (Dettmers et al. 2022, arXiv:2110.02861).

    In a step the means are widened to fp32, moved as AdamW moves them, and rounded to the nearest level of the paper's
    dynamic types: signed for the mean m, unsigned for the mean square v. What stays in memory is 2 (1 + 4/256) bytes a
    number instead of 8.

    It deviates in one place: a v above 0 never rounds to 0, but to the smallest level. Where the gradient is 0 in the
    next step, m / (sqrt(v) + eps) would otherwise be a step of m / eps.

    Plain torch, because bitsandbytes (0.50) has the step for GPUs alone, and its rounding on CPUs takes numbers
    below 1e-5 of a block's largest for 1e-5.
    """

    def __init__(
        self,
        weights: Iterable[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
    ) -> None:
        super().__init__(weights, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self._signed = Levels(signed=True)
        self._unsigned = Levels(signed=False)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        assert closure is None, "the loop has the gradients already"
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    state = self.state[weight]
                    state.setdefault("step", torch.zeros((), dtype=torch.float32)).add_(1)
                    is_small = weight.numel() < NUMBERS_MIN or not weight.is_contiguous()
                    (_move_small if is_small else self._move_large)(weight, state, group)

    def _move_large(self, weight: nn.Parameter, state: dict[str, Tensor], group: dict[str, Any]) -> None:
        numbers, gradient = weight.view(-1), weight.grad.reshape(-1)  # type: ignore[union-attr]
        if "mean" not in state:
            for name in ("mean", "squares"):
                state[name] = torch.zeros(len(numbers), dtype=torch.uint8, device=weight.device)
                state[f"{name}_scales"] = torch.zeros(-(-len(numbers) // BLOCK_NUMBERS), device=weight.device)
        for start in range(0, len(numbers), CHUNK_NUMBERS):
            part = slice(start, start + CHUNK_NUMBERS)
            blocks = slice(start // BLOCK_NUMBERS, (start + CHUNK_NUMBERS) // BLOCK_NUMBERS)
            mean = self._signed.widened(state["mean"][part], state["mean_scales"][blocks])
            squares = self._unsigned.widened(state["squares"][part], state["squares_scales"][blocks])
            move(numbers[part], gradient[part], mean, squares, step=int(state["step"]), group=group)
            state["mean"][part], state["mean_scales"][blocks] = self._signed.rounded(mean)
            state["squares"][part], state["squares_scales"][blocks] = self._unsigned.rounded(squares)


def _move_small(weight: nn.Parameter, state: dict[str, Tensor], group: dict[str, Any]) -> None:
    assert weight.grad is not None
    mean = state.setdefault("mean", torch.zeros_like(weight))
    squares = state.setdefault("squares", torch.zeros_like(weight))
    move(weight, weight.grad, mean, squares, step=int(state["step"]), group=group)


def move(weight: Tensor, gradient: Tensor, mean: Tensor, squares: Tensor, *, step: int, group: dict[str, Any]) -> None:
    """One step of AdamW in place (Loshchilov & Hutter 2019, arXiv:1711.05101); `step` counts from 1."""
    first, second = group["betas"]
    mean.lerp_(gradient, 1 - first)
    squares.mul_(second).addcmul_(gradient, gradient, value=1 - second)
    deviation = squares.sqrt().div_(math.sqrt(1 - second**step)).add_(group["eps"])
    weight.mul_(1 - group["lr"] * group["weight_decay"])
    weight.addcdiv_(mean, deviation, value=-group["lr"] / (1 - first**step))


class Levels:
    """A dynamic 8-bit type: 256 levels between -1 (or 0) and 1, relative to the largest magnitude of a block.

    The nearest level of a number is looked up by the upper half of its bits, which leaves `_doubts` levels above the
    one found to be compared with; a search among all 256 takes ten times as long.
    """

    def __init__(self, *, signed: bool) -> None:
        self._signed = signed
        self.levels = levels(signed=signed)
        edges = (self.levels[1:] + self.levels[:-1]) / 2
        codes = torch.arange(2**16, dtype=torch.int32) << 16
        ends = torch.stack([codes, codes | 0xFFFF]).view(torch.float32)
        ends = torch.where(ends.isfinite().all(0), ends, 0.0).clamp(-1, 1)
        self._least, most = (torch.bucketize(end, edges, out_int32=True) for end in (ends.amin(0), ends.amax(0)))
        self._doubts = int((most - self._least).max())
        self._edges = torch.cat([edges, torch.tensor([math.inf])])

    def rounded(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Places among the levels, uint8 (N,), and the largest magnitude of each block, fp32."""
        self._go_to(numbers.device)
        rows = F.pad(numbers, (0, -len(numbers) % BLOCK_NUMBERS)).view(-1, BLOCK_NUMBERS)
        scales = rows.abs().amax(1)
        relative = (rows / scales.clamp(min=torch.finfo(torch.float32).tiny)[:, None]).view(-1)[: len(numbers)]
        places = self._least.index_select(0, (relative.view(torch.int32) >> 16) & 0xFFFF)
        for _ in range(self._doubts):
            places += relative > self._edges.index_select(0, places)
        if not self._signed:
            places += (places == 0) & (numbers > 0)
        return places.to(torch.uint8), scales

    def widened(self, places: Tensor, scales: Tensor) -> Tensor:
        self._go_to(places.device)
        numbers = self.levels.index_select(0, places.to(torch.int32))
        return numbers.mul_(scales.repeat_interleave(BLOCK_NUMBERS)[: len(numbers)])

    def _go_to(self, device: torch.device) -> None:
        if self.levels.device != device:
            self.levels, self._least, self._edges = (one.to(device) for one in (self.levels, self._least, self._edges))


def levels(*, signed: bool) -> Tensor:
    """The levels of dynamic 8-bit numbers, growing, fp32 (256,).

    A decade below 1 has half as many levels as the one above it, evenly spread at the middles of its parts: 64 in the
    first one for signed numbers, 128 for unsigned ones (Dettmers 2016, arXiv:1511.04561); 0 and 1 are levels as well.
    """
    found = [0.0, 1.0]
    for decade in range(DECADES):
        parts = 2**decade if signed else 2 ** (decade + 1)
        edges = torch.linspace(0.1, 1, parts + 1)
        middles = (10 ** (decade + 1 - DECADES) * (edges[:-1] + edges[1:]) / 2).tolist()
        found += middles + ([-one for one in middles] if signed else [])
    return torch.tensor(sorted(found), dtype=torch.float32)
