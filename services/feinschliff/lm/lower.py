"""The lower layers of a model run alone, and the upper ones on what the lower ones made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor, nn


class Below(NamedTuple):
    """What the lowest layers make of a batch.

    stack: all layers of the model, the lowest first.
    layers: how many of them made the states; at least one.
    states_TH: what the next layer, or the norm above the last one, is to get.
    """

    stack: nn.ModuleList
    layers: int
    states_TH: Tensor


@contextmanager
def taken_as_given(below: Below | None) -> Iterator[None]:
    """Within, the model's forward pass does not run its lowest layers; None runs them all."""
    if below is None:
        yield
        return
    through: list[nn.Module] = [_Through() for _ in range(below.layers - 1)]
    with _replaced(below.stack, 0, [*through, _Given(below.states_TH)]):
        yield


@contextmanager
def upper_left_out(stack: nn.ModuleList, layers: int) -> Iterator[list[Tensor]]:
    """Within, only the lowest layers compute; the list gets their states, (1, T, H), at each forward pass."""
    made: list[Tensor] = []
    upper: list[nn.Module] = [_Through() for _ in range(len(stack) - layers)]

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        made.append(output)

    hook = stack[layers - 1].register_forward_hook(keep)
    try:
        with _replaced(stack, layers, upper):
            yield made
    finally:
        hook.remove()


@contextmanager
def _replaced(stack: nn.ModuleList, first: int, others: list[nn.Module]) -> Iterator[None]:
    own = list(stack[first : first + len(others)])
    _put(stack, first, others)
    try:
        yield
    finally:
        _put(stack, first, own)


def _put(stack: nn.ModuleList, first: int, modules: list[nn.Module]) -> None:
    for place, module in enumerate(modules, first):
        stack[place] = module


class _Through(nn.Module):
    """In the place of a layer that does not run."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return hidden_states


class _Given(nn.Module):
    """In the place of the layer whose states are known."""

    def __init__(self, states_TH: Tensor) -> None:
        super().__init__()
        self._states_TH = states_TH

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self._states_TH.shape != hidden_states.shape[1:]:
            raise RuntimeError(f"{tuple(self._states_TH.shape)} states for {tuple(hidden_states.shape)} inputs")
        return self._states_TH[None]
