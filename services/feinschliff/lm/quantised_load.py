"""A base read weight by weight, each quantised before the next is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from safetensors import safe_open
from torch import Tensor, nn

from feinschliff.lm.quantised import (
    Quantisation,
    QuantisedLinear,
    give_back,
    quantisable,
    quantise,
    refuse_where_unavailable,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LAYERS_BETWEEN = 14
"""Linear layers after which freed memory is given back; about two of a transformer's."""


def load_quantised(
    folder: Path, dtype: torch.dtype, quantisation: Quantisation, device: torch.device
) -> PreTrainedModel:
    """The same model as loading it whole and quantising it, with about one layer in memory unquantised.

    Where the files name their weights in another way than the model does, it is loaded whole first.

    Raises:
        Unserved: QUANTISATION_UNAVAILABLE.
    """
    refuse_where_unavailable(quantisation)
    model = _empty(folder, dtype)
    places = _places(folder)
    tied = {name for name, _ in model.named_parameters(remove_duplicate=False)} - set(dict(model.named_parameters()))
    if set(dict(model.named_parameters())) <= set(places) <= set(dict(model.named_parameters())) | tied:
        _fill(model, places, dtype, quantisation, device)
    else:
        model = _whole(folder, dtype)
        quantise(model, quantisation)
    nn.Module.to(model, device).requires_grad_(False).train(False)
    return model


def plain_weights(folder: Path, names: Iterable[str], device: torch.device) -> Callable[[str], Tensor]:
    """Reads a layer's weight as it was before it was quantised, in fp32, by the layer's name.

    Where the files name their weights in another way than the model does, the base is held whole for it.
    """
    places = _places(folder)
    if all(f"{name}.weight" in places for name in names):
        return lambda name: _read(places, f"{name}.weight", torch.float32, device)
    whole = _whole(folder, torch.float32)
    return lambda name: cast(Tensor, whole.get_submodule(name).weight).detach().to(device)


def _empty(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The model with the buffers that it computes itself, and no weights."""
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)  # type: ignore[no-untyped-call]
    model.tie_weights()
    model.name_or_path = str(folder)
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    return cast("PreTrainedModel", model)


def _whole(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True, use_safetensors=True)
    return cast("PreTrainedModel", model)


def _places(folder: Path) -> dict[str, Path]:
    """In which file each weight lies."""
    places = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            places.update(dict.fromkeys(file.keys(), path))
    return places


def _fill(
    model: PreTrainedModel,
    places: dict[str, Path],
    dtype: torch.dtype,
    quantisation: Quantisation,
    device: torch.device,
) -> None:
    layers = quantisable(model)
    for number, (name, layer) in enumerate(layers.items(), start=1):
        bias_O = _read(places, f"{name}.bias", dtype, device) if layer.bias is not None else None
        weight_OI = _read(places, f"{name}.weight", dtype, device)
        model.set_submodule(name, QuantisedLinear(weight_OI, bias_O, quantisation))
        del weight_OI, bias_O
        if number % LAYERS_BETWEEN == 0:
            give_back()
    for module, prefix in _modules(model):
        for name, weight in list(module.named_parameters(recurse=False)):
            if weight.is_meta and prefix + name in places:
                read = nn.Parameter(_read(places, prefix + name, dtype, device), requires_grad=False)
                setattr(module, name, read)
    model.tie_weights()
    give_back()


def _modules(model: PreTrainedModel) -> Iterator[tuple[nn.Module, str]]:
    for name, module in model.named_modules():
        yield module, f"{name}." if name else ""


def _read(places: dict[str, Path], name: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A copy: the file is mapped anew each time, so that what was read of it is given back."""
    with safe_open(places[name], framework="pt") as file:
        return cast(Tensor, file.get_tensor(name)).to(device, dtype, copy=True)
