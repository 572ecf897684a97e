"""How a base is built, as far as a plan needs it: its layers, their matrices, and how many weights would learn."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from feinschliff.artifacts.outlines import Outline
from feinschliff.formats.adaptations import (
    Bottleneck,
    Dora,
    Full,
    Ia3,
    LastLayers,
    Lora,
    LowRank,
    Prefix,
    Prompt,
    PTuning,
    Qlora,
)
from feinschliff.formats.objectives import Classify, Regress
from feinschliff.formats.recipe import Recipe
from feinschliff.kit.errors import Invalid

_LAYER = re.compile(r"(^|\.)(layers|h|blocks)\.(?P<layer>\d+)\.")
_HEAD = "lm_head.weight"
IA3_TARGETS = ("k_proj", "v_proj", "down_proj")


@dataclass(frozen=True)
class Linear:
    """One matrix of a layer."""

    name: str
    outputs: int
    inputs: int

    @property
    def leaf(self) -> str:
        return self.name.rsplit(".", 1)[-1]


@dataclass(frozen=True)
class Architecture:
    """A decoder's sizes; parameters count each weight once, a head tied to the embeddings with them."""

    layers: int
    hidden: int
    inner: int
    heads: int
    key_heads: int
    head_width: int
    vocabulary: int
    context_tokens: int | None
    tied: bool
    linear: tuple[Linear, ...]
    total_parameters: int
    embedding_parameters: int
    layer_parameters: tuple[int, ...]
    norm_parameters: int

    @property
    def queries(self) -> int:
        """Width of all queries of a token."""
        return self.heads * self.head_width

    @property
    def keys(self) -> int:
        """Width of all keys of a token, and of all values."""
        return self.key_heads * self.head_width

    def targets(self, named: list[str] | tuple[str, ...]) -> list[Linear]:
        """The matrices that a list of suffixes means; all of them for an empty list."""
        return [one for one in self.linear if not named or any(_bears(one.name, name) for name in named)]


def architecture_of(outline: Outline) -> Architecture:
    """
    Raises:
        Invalid: BASE_MODEL_UNREADABLE where the files tell no sizes.
    """
    config, shapes = _text_config(outline.config), outline.shapes
    try:
        hidden, layers, heads = (
            int(config[key]) for key in ("hidden_size", "num_hidden_layers", "num_attention_heads")
        )
    except (KeyError, TypeError, ValueError) as error:
        message = f"The base's settings do not say how large it is: {error} is missing."
        raise Invalid("BASE_MODEL_UNREADABLE", message, uri=outline.files.uri) from error
    embedding = next((shape for name, shape in shapes.items() if "embed" in name and len(shape) == 2), (0, hidden))
    tied = _HEAD not in shapes or bool(config.get("tie_word_embeddings", False))
    counted = {name: math.prod(shape) for name, shape in shapes.items() if not (tied and name == _HEAD)}
    by_layer = [0] * layers
    for name, parameters in counted.items():
        layer = _layer_of(name)
        if layer is not None and layer < layers:
            by_layer[layer] += parameters
    head = 0 if tied else counted.get(_HEAD, 0)
    total, embeddings = sum(counted.values()), math.prod(embedding)
    return Architecture(
        layers=layers,
        hidden=hidden,
        inner=int(config.get("intermediate_size") or 4 * hidden),
        heads=heads,
        key_heads=int(config.get("num_key_value_heads") or heads),
        head_width=int(config.get("head_dim") or hidden // heads),
        vocabulary=embedding[0],
        context_tokens=config.get("max_position_embeddings"),
        tied=tied,
        linear=tuple(
            Linear(name.removesuffix(".weight"), *shape)
            for name, shape in shapes.items()
            if len(shape) == 2 and _layer_of(name) is not None and name.endswith(".weight")
        ),
        total_parameters=total,
        embedding_parameters=embeddings,
        layer_parameters=tuple(by_layer),
        norm_parameters=max(0, total - sum(by_layer) - embeddings - head),
    )


def trained_parameters(architecture: Architecture, recipe: Recipe, *, classes: int = 0) -> int:
    """How many weights would learn, the head of a classification or regression included.

    Args:
        classes: of the data, where the recipe does not name them.
    """
    count = _COUNTS[recipe.adaptation.kind](architecture, recipe.adaptation)
    if isinstance(recipe.objective, Classify | Regress):
        if isinstance(recipe.adaptation, LastLayers) and recipe.adaptation.train_head:
            # neither the head over tokens nor the norm below learns beside a head over texts
            count -= _head_parameters(architecture) + architecture.norm_parameters
        named = len(recipe.objective.labels) if isinstance(recipe.objective, Classify) else 1
        count += architecture.hidden * max(1, named or classes)
    return count


def layers_differentiated(architecture: Architecture, recipe: Recipe) -> int:
    """Layers that a backward pass goes through: below the lowest trained one nothing is kept."""
    if isinstance(recipe.adaptation, LastLayers):
        return min(recipe.adaptation.layers, architecture.layers)
    return architecture.layers


def _low_rank(architecture: Architecture, settings: LowRank) -> int:
    return sum(settings.rank * (one.inputs + one.outputs) for one in architecture.targets(settings.target_modules))


def _dora(architecture: Architecture, settings: Dora) -> int:
    magnitudes = sum(one.outputs for one in architecture.targets(settings.lora.target_modules))
    return _low_rank(architecture, settings.lora) + magnitudes


def _qlora(architecture: Architecture, settings: Qlora) -> int:
    return _low_rank(architecture, settings.lora)


def _full(architecture: Architecture, settings: Full) -> int:
    fixed = 0 if settings.train_embeddings else architecture.embedding_parameters
    return architecture.total_parameters - fixed


def _last_layers(architecture: Architecture, settings: LastLayers) -> int:
    chosen = architecture.layer_parameters[max(0, architecture.layers - settings.layers) :]
    return sum(chosen) + (_head_parameters(architecture) + architecture.norm_parameters) * settings.train_head


def _head_parameters(architecture: Architecture) -> int:
    return architecture.vocabulary * architecture.hidden


def _ia3(architecture: Architecture, settings: Ia3) -> int:
    chosen = architecture.targets(settings.target_modules or IA3_TARGETS)
    return sum(one.inputs if _is_second(architecture, one) else one.outputs for one in chosen)


def _is_second(architecture: Architecture, one: Linear) -> bool:
    """Whether it leads from the inner width of the feed-forward layer back to the model's."""
    return architecture.inner != architecture.hidden and (one.inputs, one.outputs) == (
        architecture.inner,
        architecture.hidden,
    )


def _bottleneck(architecture: Architecture, settings: Bottleneck) -> int:
    one = 2 * architecture.hidden * settings.width + settings.width + architecture.hidden
    return architecture.layers * one * (2 if settings.placement == "houlsby" else 1)


def _prompt(architecture: Architecture, settings: Prompt) -> int:
    return settings.virtual_tokens * architecture.hidden


def _p_tuning(architecture: Architecture, settings: PTuning) -> int:
    """Vectors, and a network of three matrices that makes them."""
    width, hidden = settings.encoder_width, architecture.hidden
    network = hidden * width + width + width * width + width + width * hidden + hidden
    return settings.virtual_tokens * hidden + network


def _prefix(architecture: Architecture, settings: Prefix) -> int:
    """Keys and values of every layer; with a network, its two matrices and the vectors that it begins with."""
    one, width = architecture.keys, settings.projection_width
    if not width:
        return settings.virtual_tokens * architecture.layers * 2 * one
    made = architecture.layers * 2 * one
    return settings.virtual_tokens * one + one * width + width + width * made + made


_COUNTS: Mapping[str, Callable[[Architecture, Any], int]] = {
    "lora": _low_rank,
    "dora": _dora,
    "qlora": _qlora,
    "full": _full,
    "last_layers": _last_layers,
    "ia3": _ia3,
    "bottleneck": _bottleneck,
    "prompt": _prompt,
    "p_tuning": _p_tuning,
    "prefix": _prefix,
}


def low_rank_of(recipe: Recipe) -> LowRank | None:
    """The low-rank settings of an adaptation that has them."""
    adaptation = recipe.adaptation
    if isinstance(adaptation, Lora):
        return adaptation
    return adaptation.lora if isinstance(adaptation, Dora | Qlora) else None


def _text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of a model that also sees or hears, the part that reads."""
    inner = config.get("text_config")
    return {**config, **inner} if isinstance(inner, dict) else config


def _layer_of(name: str) -> int | None:
    found = _LAYER.search(name)
    return None if found is None else int(found["layer"])


def _bears(layer: str, target: str) -> bool:
    return layer == target or layer.endswith("." + target)
