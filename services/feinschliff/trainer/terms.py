"""What a method gives the loop for one batch."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class LossTerms(NamedTuple):
    """One number for each of N labels; the loop divides sums by the step's total, so splitting a batch changes nothing.

    losses_N: nats, or squares where a number is learned; with gradient.
    hits_N: whether the label was the likeliest; None where nothing is hit or missed.
    said_N: what a head said: class numbers, (N, C) of booleans where several may be right, or numbers in the unit of
        the data; None without a head.
    """

    losses_N: Tensor
    hits_N: Tensor | None = None
    said_N: Tensor | None = None

    @property
    def loss_sum(self) -> Tensor:
        return self.losses_N.sum()

    @property
    def labels(self) -> int:
        return len(self.losses_N)
