"""Learned keys and values before every row in every layer; PEFT's encoder and file format."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from feinschliff.formats.adaptations import Prefix
from feinschliff.kit.errors import Invalid
from feinschliff.lm.adaptations import prompt_files
from feinschliff.lm.adaptations.peft_files import TRAINED, fresh, trained, transformer
from feinschliff.lm.adaptations.prompt_files import merge, restore, save
from feinschliff.lm.adaptations.virtual_tokens import KeysAndValues, prepend_keys_and_values

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

__all__ = ["attach", "merge", "restore", "resume", "save", "trained", "transformer"]


def attach(model: PreTrainedModel, settings: Prefix, *, seed: int) -> PeftModel:
    """Virtual tokens x layers x (keys, values) x key heads x head width.

    Learned directly they begin as what the base computes for common tokens: keys and values of real words serve better
    than drawn ones, which disturb every layer (Li and Liang 2021, section 7.4). With a network before them
    (hidden -> width -> all of them, tanh between) they are what a fresh network makes.

    Raises:
        Invalid: ARCHITECTURE_UNSUPPORTED where the layers' keys differ in shape.
    """
    from feinschliff.lm.adaptations.pefts import PrefixTuningConfig

    config = prompt_files.config_of(
        PrefixTuningConfig,
        num_virtual_tokens=settings.virtual_tokens,
        prefix_projection=settings.projection_width > 0,
        encoder_hidden_size=settings.projection_width or None,
    )
    start_PK = None
    if not settings.projection_width:
        start_PK = _computed(model, prompt_files.common_tokens(model, settings.virtual_tokens, seed=seed))
    adapted = fresh(model, config, seed=seed)
    if start_PK is not None:
        encoder = prompt_files.encoder_of(adapted)
        if start_PK.shape != encoder.embedding.weight.shape:
            raise _uneven()
        prompt_files.put_vectors(encoder, start_PK)
    return _with_keys_and_values(adapted)


def resume(model: PreTrainedModel, folder: Path) -> PeftModel:
    return _with_keys_and_values(prompt_files.resume(model, folder))


def keys_and_values(vectors_PK: Tensor, *, layers: int, heads: int) -> KeysAndValues:
    """For each layer its keys and values out of PEFT's flat vectors, (1, heads, P, d) each.

    A vector holds, layer by layer, first all heads' keys and then all heads' values.
    """
    count = len(vectors_PK)
    parts = vectors_PK.view(count, 2 * layers, heads, -1).permute(1, 2, 0, 3)[:, None]
    return tuple((parts[2 * layer], parts[2 * layer + 1]) for layer in range(layers))


def _with_keys_and_values(adapted: PeftModel) -> PeftModel:
    config: Any = adapted.peft_config[TRAINED]
    layers, heads = int(config.num_layers), int(config.num_attention_heads)
    prepend_keys_and_values(
        transformer(adapted), lambda: keys_and_values(prompt_files.vectors_of(adapted), layers=layers, heads=heads)
    )
    return adapted


@torch.no_grad()
def _computed(model: PreTrainedModel, ids_P: Tensor) -> Tensor:
    """What the base computes for tokens in their row, as PEFT's flat vectors; (P, layers x 2 x heads x d)."""
    from transformers import DynamicCache

    cache: Any = DynamicCache()  # told nothing of windows, it forgets nothing
    model.base_model(input_ids=ids_P[None].to(model.device), past_key_values=cache, use_cache=True)
    parts = [part[0].transpose(0, 1) for layer in cache.layers for part in (layer.keys, layer.values)]
    if len({part.shape for part in parts}) != 1:
        raise _uneven()
    return torch.stack(parts, dim=1).flatten(1).float()


def _uneven() -> Invalid:
    return Invalid(
        "ARCHITECTURE_UNSUPPORTED",
        "The layers of this base keep keys of different shapes, so one prefix does not fit them all.",
        advice=["Take `lora` or `prompt`, or a base such as Llama, Qwen, Mistral or SmolLM."],
        why="uneven keys",
    )
