"""Which weights are the best so far, and when to stop early."""

from __future__ import annotations

from feinschliff.formats.base import Stored
from feinschliff.formats.recipe import Validation


class Standing(Stored):
    """What the validations so far say.

    The best weights are those with the lowest loss. Patience counts measurements since the loss last fell by at least
    the minimum gain below `reference_loss`.
    """

    best_loss: float | None = None
    best_step: int = 0
    reference_loss: float | None = None
    without_gain: int = 0

    def after(self, loss: float, *, step: int, minimum_gain: float) -> Standing:
        """The standing once `loss` was measured with the weights of `step`."""
        gain = None if self.reference_loss is None else self.reference_loss - loss
        gained = gain is None or (gain > 0 and gain >= minimum_gain)
        is_best = self.best_loss is None or loss < self.best_loss
        return Standing(
            best_loss=loss if is_best else self.best_loss,
            best_step=step if is_best else self.best_step,
            reference_loss=loss if gained else self.reference_loss,
            without_gain=0 if gained else self.without_gain + 1,
        )

    def is_exhausted(self, settings: Validation) -> bool:
        return 0 < settings.patience <= self.without_gain
