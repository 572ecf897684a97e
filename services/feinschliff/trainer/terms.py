"""What a method gives the loop for one batch."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class LossTerms(NamedTuple):
    """Sums over the labels of a batch; the loop divides by the step's total, so splitting a batch changes nothing.

    `loss_sum` is in nats; `hits` counts labels that were the likeliest token.
    """

    loss_sum: Tensor
    labels: int
    hits: int
