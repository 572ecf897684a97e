"""Small two-layer networks behind attention and feed-forward layers; own modules and file format.

Houlsby et al. 2019 (arXiv:1902.00751) put one behind each of the two in every layer, Pfeiffer et al. 2021
(arXiv:2005.00247) behind the feed-forward layer alone. Both before the sum with what goes past:

    y -> y + W_up f(W_down y + b_down) + b_up,    W_down (width, hidden), W_up (hidden, width)

with f GELU (erf) after Houlsby's code and ReLU after Pfeiffer's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from feinschliff.formats.adaptations import Bottleneck
from feinschliff.kit.errors import Invalid
from feinschliff.lm.adaptations.last_layers import layers_of
from feinschliff.lm.adaptations.prompt_files import merge_impossible
from feinschliff.lm.adaptations.saved import read_settings, write_settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["attach", "merge", "restore", "resume", "save", "trained", "transformer"]

WEIGHTS_NAME = "bottleneck.safetensors"
"""Tensors `{layer}.{attention|feed_forward}.{down|up}.{weight|bias}` in fp32; the settings lie in `adaptation.json`."""

PLACES: Mapping[str, tuple[str, ...]] = {"houlsby": ("attention", "feed_forward"), "pfeiffer": ("feed_forward",)}
NONLINEARITIES: Mapping[str, Callable[[Tensor], Tensor]] = {"houlsby": F.gelu, "pfeiffer": F.relu}


class Network(nn.Module):
    """One bottleneck; it computes in the precision of its input and keeps its weights in fp32."""

    def __init__(self, hidden: int, width: int, placement: str) -> None:
        super().__init__()
        self.down = nn.Linear(hidden, width)
        self.up = nn.Linear(width, hidden)
        self._nonlinearity = NONLINEARITIES[placement]

    def forward(self, y: Tensor) -> Tensor:
        inner = self._nonlinearity(_product(self.down, y))
        return y + _product(self.up, inner)


class Adapted(nn.Module):
    """A frozen base, and the networks that hooks put behind its sublayers; as parts of those they stand in a layer."""

    def __init__(self, base: PreTrainedModel, settings: Bottleneck) -> None:
        super().__init__()
        self.base = base
        self.settings = settings
        self.networks = nn.ModuleDict()
        hidden = int(base.config.get_text_config().hidden_size)
        for number, layer in enumerate(layers_of(base)):
            sublayers = sublayers_of(layer)
            networks = {p: Network(hidden, settings.width, settings.placement) for p in PLACES[settings.placement]}
            self.networks[str(number)] = nn.ModuleDict(networks)
            for place, network in networks.items():
                sublayers[place].add_module("bottleneck", network)
                sublayers[place].register_forward_hook(_behind(network))


def attach(model: PreTrainedModel, settings: Bottleneck, *, seed: int) -> Adapted:
    """Down-projections drawn from `seed`, normal with deviation 0.01; up-projections and biases zero.

    So the first forward pass is the base's.

    Raises:
        Invalid: ARCHITECTURE_UNSUPPORTED where a layer has not one attention and one feed-forward layer.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapted = Adapted(model, settings)
        for network in _networks(adapted):
            nn.init.normal_(network.down.weight, std=0.01)
            for zero in (network.down.bias, network.up.weight, network.up.bias):
                nn.init.zeros_(zero)
    adapted.networks.to(model.device)
    return adapted


def resume(model: PreTrainedModel, folder: Path) -> Adapted:
    adapted = attach(model, read_settings(folder, Bottleneck), seed=0)
    restore(adapted, folder)
    return adapted


def restore(model: Adapted, folder: Path) -> None:
    model.networks.load_state_dict(load_file(folder / WEIGHTS_NAME))


def save(model: Adapted, folder: Path, *, base_model: str) -> None:
    write_settings(folder, model.settings)
    tensors = {name: weight.detach().contiguous() for name, weight in model.networks.state_dict().items()}
    save_file(tensors, folder / WEIGHTS_NAME, metadata={"format": "pt"})


def merge(model: Adapted) -> PreTrainedModel:
    """
    Raises:
        Invalid: MERGE_IMPOSSIBLE.
    """
    raise merge_impossible("a network with a nonlinearity in it is no part of any weight of the base")


def transformer(model: Adapted) -> PreTrainedModel:
    return model.base


def trained(model: Adapted) -> dict[str, nn.Parameter]:
    return dict(model.networks.named_parameters())


def sublayers_of(layer: nn.Module) -> Mapping[str, nn.Module]:
    """The attention of a layer, which alone knows its layer's number, and its feed-forward layer.

    Raises:
        Invalid: ARCHITECTURE_UNSUPPORTED.
    """
    found: dict[str, list[nn.Module]] = {"attention": [], "feed_forward": []}
    for child in layer.children():
        if any(weight.dim() > 1 for weight in child.parameters()):
            found["attention" if hasattr(child, "layer_idx") else "feed_forward"].append(child)
    if any(len(ones) != 1 for ones in found.values()):
        raise Invalid(
            "ARCHITECTURE_UNSUPPORTED",
            "The layers of this base are not one attention and one feed-forward layer each, so no bottleneck fits in.",
            advice=["Take `lora`, or a decoder-only base such as Llama, Qwen, Mistral or SmolLM."],
            why="no plain sublayers",
        )
    return {place: ones[0] for place, ones in found.items()}


def _behind(network: Network) -> Callable[[nn.Module, Any, Any], Any]:
    def hook(_: nn.Module, __: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (network(output[0]), *output[1:])
        return network(output)

    return hook


def _networks(model: Adapted) -> list[Network]:
    return [module for module in model.networks.modules() if isinstance(module, Network)]


def _product(linear: nn.Linear, x: Tensor) -> Tensor:
    return F.linear(x, linear.weight.to(x.dtype), linear.bias.to(x.dtype))
