"""The ways to make a base trainable, by the name that a recipe gives them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from feinschliff.lm.adaptations import lora

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

    from feinschliff.formats.recipe import Adaptation


class Adapt(Protocol):
    """One kind of adaptation; a module of this package with these functions."""

    def attach(self, model: PreTrainedModel, settings: Adaptation, *, seed: int) -> PeftModel:
        """Put fresh trainable weights beside the frozen base; equal seeds give equal weights."""
        ...

    def resume(self, model: PreTrainedModel, folder: Path) -> PeftModel:
        """Put saved weights beside the frozen base and let them train on."""
        ...

    def restore(self, model: PeftModel, folder: Path) -> None:
        """Replace the trained weights by saved ones of the same shape."""
        ...

    def save(self, model: PeftModel, folder: Path, *, base_model: str) -> None:
        """Write what was trained, in a form that plain PEFT loads."""
        ...


ADAPTATIONS: Mapping[str, Adapt] = {"lora": lora}
