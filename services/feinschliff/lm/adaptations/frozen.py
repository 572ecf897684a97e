"""Nothing of the base learns: for objectives that have a head of their own, which is then all that does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import save_file

from feinschliff.formats.adaptations import LastLayers
from feinschliff.lm.adaptations.last_layers import WEIGHTS_NAME
from feinschliff.lm.adaptations.own_weights import transformer
from feinschliff.lm.adaptations.saved import write_settings

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

__all__ = ["attach", "merge", "restore", "resume", "save", "trained", "transformer"]


def attach(model: PreTrainedModel, settings: LastLayers, *, seed: int) -> PreTrainedModel:
    return model


def resume(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    return model


def restore(model: PreTrainedModel, folder: Path) -> None:
    return


def save(model: PreTrainedModel, folder: Path, *, base_model: str) -> None:
    """The last of 0 layers: a file without a tensor, so that it is read as any number of last layers is."""
    write_settings(folder, LastLayers(layers=0))
    save_file({}, folder / WEIGHTS_NAME, metadata={"format": "pt"})


def trained(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    return {}


def merge(model: PreTrainedModel) -> PreTrainedModel:
    return model
