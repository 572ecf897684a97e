"""The ways to make a base trainable, by the name that a recipe gives them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from feinschliff.lm.adaptations import (
    bottleneck,
    dora,
    full,
    ia3,
    last_layers,
    lora,
    p_tuning,
    prefix,
    prompt,
    qlora,
)

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

SettingsT = TypeVar("SettingsT", contravariant=True)
ModelT = TypeVar("ModelT")
HeldT = TypeVar("HeldT", contravariant=True)


class Keep(Protocol[HeldT]):
    """What is done with weights that train already. Whatever trains is in fp32."""

    def restore(self, model: HeldT, folder: Path) -> None:
        """Replace the trained weights by saved ones of the same shape."""
        ...

    def save(self, model: HeldT, folder: Path, *, base_model: str) -> None:
        """Write what was trained; equal weights give equal bytes."""
        ...

    def transformer(self, model: HeldT) -> PreTrainedModel:
        """What computes: the base with all that trains inside it."""
        ...

    def trained(self, model: HeldT) -> dict[str, nn.Parameter]:
        """The weights that train, by a name that stays."""
        ...


class Adapt(Keep[ModelT], Protocol[SettingsT, ModelT]):
    """One kind of adaptation; a module of this package with these functions.

    What `attach` gives belongs to the kind: all else takes it back.
    """

    def attach(self, model: PreTrainedModel, settings: SettingsT, *, seed: int) -> ModelT:
        """Make fresh weights train, with the rest of the base frozen; equal seeds give equal weights."""
        ...

    def resume(self, model: PreTrainedModel, folder: Path) -> ModelT:
        """Put saved weights onto the base and let them train on, with the settings they were saved with."""
        ...

    def merge(self, model: ModelT) -> PreTrainedModel:
        """A plain model in fp32 that computes the same with nothing beside it, frozen; uses up `model`.

        Raises:
            Invalid: MERGE_IMPOSSIBLE where no weights of the base can hold what was trained.
        """
        ...


ADAPTATIONS: Mapping[str, Adapt[Any, Any]] = {
    "lora": lora,
    "dora": dora,
    "qlora": qlora,
    "full": full,
    "last_layers": last_layers,
    "bottleneck": bottleneck,
    "ia3": ia3,
    "prompt": prompt,
    "p_tuning": p_tuning,
    "prefix": prefix,
}
