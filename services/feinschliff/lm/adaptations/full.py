"""All weights of the base train; what comes out is a whole model that loads wherever its base does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from feinschliff.formats.adaptations import Full
from feinschliff.lm.adaptations.own_weights import let_train, merge, put, tensors_of, trained, transformer
from feinschliff.lm.adaptations.saved import read_settings, write_settings
from feinschliff.lm.load import SHARD_BYTES_MAX, load_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["attach", "merge", "restore", "resume", "save", "trained", "transformer", "write"]


def attach(model: PreTrainedModel, settings: Full, *, seed: int) -> PreTrainedModel:
    """Nothing is drawn, so `seed` changes nothing.

    A head tied to the embeddings is one weight with them: it stays fixed or learns as they do.
    """
    embeddings = model.get_input_embeddings()
    fixed = set() if settings.train_embeddings else set(embeddings.parameters())
    let_train(model, [weight for weight in model.parameters() if weight not in fixed])
    return model


def resume(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    adapted = attach(model, read_settings(folder, Full), seed=0)
    restore(adapted, folder)
    return adapted


def restore(model: PreTrainedModel, folder: Path) -> None:
    put(model, load_model(folder, precision="fp32").state_dict())


def save(model: PreTrainedModel, folder: Path, *, base_model: str) -> None:
    """A folder of safetensors and config that `lm.load` and plain transformers load; trained weights in fp32.

    Frozen weights keep the precision that they were used in; every reader chooses its own when it loads.
    """
    write(model, folder, tensors_of(model))


def write(model: PreTrainedModel, folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """`save` for weights that were put together from parts before."""
    write_settings(folder, Full(train_embeddings=_trains(model.get_input_embeddings())))
    model.save_pretrained(folder, state_dict=dict(tensors), max_shard_size=SHARD_BYTES_MAX)


def _trains(module: nn.Module) -> bool:
    return any(weight.requires_grad for weight in module.parameters())
