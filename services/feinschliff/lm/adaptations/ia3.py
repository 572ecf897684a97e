"""Learned factors on keys, values and the feed-forward layer; PEFT's own layers and file format."""

from __future__ import annotations

from typing import TYPE_CHECKING

from feinschliff.formats.adaptations import Ia3
from feinschliff.kit.errors import Invalid
from feinschliff.lm.adaptations import peft_files
from feinschliff.lm.adaptations.peft_files import (
    linear_layers,
    merge,
    names,
    restore,
    resume,
    save,
    trained,
    transformer,
)

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import nn
    from transformers import PreTrainedModel

__all__ = ["attach", "merge", "restore", "resume", "save", "trained", "transformer"]

KEYS_AND_VALUES = ("k_proj", "v_proj")


def attach(model: PreTrainedModel, settings: Ia3, *, seed: int) -> PeftModel:
    """Factors of one, so that the first forward pass is the base's; nothing is drawn from `seed`.

    The second matrix of a feed-forward layer has its inputs scaled, every other layer its outputs.

    Raises:
        Invalid: TARGET_MODULES_UNKNOWN when no layer of the base bears one of the names, and where none are given
            and the base does not name its keys and values in the usual way.
    """
    from feinschliff.lm.adaptations.pefts import IA3Config, TaskType

    peft_files.refuse_unknown_targets(model, settings.target_modules)
    targets = list(settings.target_modules) or _usual_targets(model)
    config = IA3Config(
        target_modules=targets,
        feedforward_modules=[target for target in targets if _is_second_matrix(model, target)],
        task_type=TaskType.CAUSAL_LM,
    )
    return peft_files.fresh(model, config, seed=seed)


def _usual_targets(model: PreTrainedModel) -> list[str]:
    leaves = sorted({name.rsplit(".", 1)[-1] for name in linear_layers(model)})
    missing = [name for name in KEYS_AND_VALUES if name not in leaves]
    if missing:
        raise Invalid(
            "TARGET_MODULES_UNKNOWN",
            f"The base has no linear layer named {', '.join(missing)}; it has {', '.join(leaves)}. Name the layers.",
            target_modules=",".join(missing),
        )
    return [*KEYS_AND_VALUES, *(leaf for leaf in leaves if _is_second_matrix(model, leaf))]


def _is_second_matrix(model: PreTrainedModel, target: str) -> bool:
    """Whether all layers of that name lead from the feed-forward layer's inner width back to the model's."""
    config = model.config.get_text_config()
    inner, outer = getattr(config, "intermediate_size", 0), config.hidden_size
    layers: list[nn.Linear] = [layer for name, layer in linear_layers(model).items() if names(name, target)]
    return inner != outer and all((layer.in_features, layer.out_features) == (inner, outer) for layer in layers)
